"""Gather: evidence of many nodes, brought to the controller."""

from .fleet import gather
from .folder import GatherLog, load, merge, read_log
from .pool import Limits, Pool

__all__ = ["GatherLog", "Limits", "Pool", "gather", "load", "merge", "read_log"]
