"""The burn-in: load every GPU of the node at once, sample, predict, and stop whatever happens."""

from .run import run_burn, start, telling

__all__ = ["run_burn", "start", "telling"]
