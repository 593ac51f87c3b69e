"""The command line `gpugate`."""
