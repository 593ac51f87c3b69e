"""CUDA through libcuda alone, by ctypes: no toolkit, no runtime library."""
