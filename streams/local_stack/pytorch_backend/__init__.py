"""Triton's `pytorch` backend in Python, where NVIDIA's LibTorch backend is not at hand."""
