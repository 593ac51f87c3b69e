"""The simulated fleet: one SSH server, one loopback address a node, no privilege needed.

`description` says what hardware exists, `gpusim.paths` where everything lies, `server` answers SSH for all nodes in
one process, `control` talks to that process, and `fleet` brings all of it up and down.
"""
