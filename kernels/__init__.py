"""The operations of the query path: in plain numpy, and as CUDA kernels."""
