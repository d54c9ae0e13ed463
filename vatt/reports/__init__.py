"""Figures and tables, made of the files of a run alone."""
