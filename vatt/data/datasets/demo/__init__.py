"""Short films of things that move and sound, made on the spot."""
from vatt.data.datasets.demo.dataset import Demo

__all__ = ["Demo"]
