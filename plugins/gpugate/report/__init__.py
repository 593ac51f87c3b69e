"""Reports: verdicts shown, never changed."""

from .identity import identity_of
from .model import HostReport, Run, Scope, new_run_id
from .store import Store
from .terminal import summary_lines
from .times import Times, times_of

__all__ = ["HostReport", "Run", "Scope", "Store", "Times", "identity_of", "new_run_id", "summary_lines", "times_of"]
