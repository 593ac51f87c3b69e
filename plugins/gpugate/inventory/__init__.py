"""The inventory: which hosts a pattern means, how to reach them, and what policy says of each."""

from .resolve import resolve, use_project
from .target import Target

__all__ = ["Target", "resolve", "use_project"]
