"""Admission: what a report means for a node, and carrying that out."""

from .audit import Audit
from .backends import AdmissionBackend
from .breaker import Limits, limits_from
from .carry import Carried, carry
from .command import CommandHook
from .decision import Action, Case, Decision, Present, decide
from .gate import Known, Node, decide_all
from .memory import Memory
from .present import present_from
from .site import Site, open_backend
from .standing import History, Standing, Word
from .state_file import StateFile

__all__ = [
    "Action",
    "AdmissionBackend",
    "Audit",
    "Carried",
    "Case",
    "CommandHook",
    "Decision",
    "History",
    "Known",
    "Limits",
    "Memory",
    "Node",
    "Present",
    "Site",
    "Standing",
    "StateFile",
    "Word",
    "carry",
    "decide",
    "decide_all",
    "limits_from",
    "open_backend",
    "present_from",
]
