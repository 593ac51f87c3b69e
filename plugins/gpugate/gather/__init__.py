"""Gather: evidence of many nodes, brought to the controller."""

from .fleet import gather
from .folder import GatherLog, load, read_log

__all__ = ["GatherLog", "gather", "load", "read_log"]
