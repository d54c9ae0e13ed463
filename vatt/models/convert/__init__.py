"""Weights of others: the released VATT, ViT and T5."""
