"""A simulated NVIDIA driver at the C ABI, and a fleet of simulated nodes that run on it.

`boards` says what GPUs there are, `layout` how a node's state lies in memory, `state` creates, reads and changes it,
`faults` names what can go wrong, and `build` makes the two driver libraries. gpugate never imports this package.
"""
