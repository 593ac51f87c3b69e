"""Engines: evidence of many nodes through what a site already has (Slurm, Kubernetes, anything that runs a command)."""
