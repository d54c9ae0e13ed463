"""From raw media to shards of records."""
