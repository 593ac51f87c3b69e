"""The state store: what controllers of one fleet have to agree on, in one SQLite file."""

from .leases import Holder, Leases
from .queue import Cap, Wish
from .store import Store

__all__ = ["Cap", "Holder", "Leases", "Store", "Wish"]
