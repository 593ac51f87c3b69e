"""gpugate decides whether a GPU node may take work."""

__version__ = "0.1.0"
