"""Verdicts: what a check says about a host, and how it says it."""

from .expect import Expect
from .judge import Gathered, Node, because, conclude, judge, missing, traced, uncovered, unjudged
from .types import Finding, Next, Outcome, Verdict

__all__ = [
    "Expect",
    "Finding",
    "Gathered",
    "Next",
    "Node",
    "Outcome",
    "Verdict",
    "because",
    "conclude",
    "judge",
    "missing",
    "traced",
    "uncovered",
    "unjudged",
]
