"""Reports: verdicts shown, never changed."""

from .basis import Basis, basis_of
from .identity import identity_of
from .model import HostReport, Run, Scope, new_run_id
from .signature import Signer, Signers, usable_signer
from .store import Store
from .terminal import summary_lines
from .times import Times, times_of

__all__ = [
    "Basis",
    "HostReport",
    "Run",
    "Scope",
    "Signer",
    "Signers",
    "Store",
    "Times",
    "basis_of",
    "identity_of",
    "new_run_id",
    "summary_lines",
    "times_of",
    "usable_signer",
]
