"""Admission: what a report means for a node, and carrying that out."""

from .audit import Audit
from .backends import AdmissionBackend
from .carry import Carried, carry
from .command import CommandHook
from .decision import Action, Case, Decision, Present, decide
from .gate import Node, decide_all
from .present import present_from
from .state_file import StateFile

__all__ = [
    "Action",
    "AdmissionBackend",
    "Audit",
    "Carried",
    "Case",
    "CommandHook",
    "Decision",
    "Node",
    "Present",
    "StateFile",
    "carry",
    "decide",
    "decide_all",
    "present_from",
]
