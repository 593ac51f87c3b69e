"""What decisions are carried out with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..errors import AdmissionError
from .decision import Decision
from .standing import Standing


class AdmissionBackend(Protocol):
    """Puts nodes into service and takes them out, and says which are in. Many nodes in one call.

    A back end never decides. Where it cannot tell or cannot do something for one host, that host's answer is an
    AdmissionError, a sentence for the operator; where it can do nothing for anybody, it raises one. It never guesses a
    state, and never reports done what it did not see done. Doing what is already done is no error.
    """

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        """Where each node stands now. Changes nothing."""
        ...

    def begin(self) -> None:
        """Called once, after the decisions and before the audit and the first change; never in check mode."""
        ...

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        """Do what each decision says, which is ADMIT or REMOVE; None where it is done.

        `decision.standing` is what the decision was made on: a back end that sees another one by now refuses that host.
        """
        ...

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        """Show the other decisions where people look, if there is such a place; whom it could not be shown of."""
        ...
