"""Handwritten digits that move, people who say them, sentences about both."""
from vatt.data.datasets.spoken_digits.dataset import SpokenDigits

__all__ = ["SpokenDigits"]
