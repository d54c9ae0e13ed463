"""Figures and tables of what was measured; they need no model and no data."""
