"""How fast it is: what scripts/benchmark.py measures."""
