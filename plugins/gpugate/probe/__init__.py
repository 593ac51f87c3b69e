"""The probe: collects facts on a node, never judges. Python 3.9, standard library and pynvml; packed as one zipapp."""
