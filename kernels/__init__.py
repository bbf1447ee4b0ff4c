"""CUDA kernels, their numpy oracles and wrappers."""
