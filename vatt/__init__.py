"""VATT: Transformers for video, audio and text, trained on raw signals."""
import os

# What TensorFlow says from C++ at each start, of processors and GPU libraries
# that register twice, is no news; its errors come as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# TensorFlow turns these kernels on by itself on some processors only. They are
# twice as fast in attention on others too, with AVX2.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
