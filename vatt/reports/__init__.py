"""Figures, tables and pages of what was measured or found; they need no model.
"""
