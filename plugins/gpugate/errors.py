"""Every exception of gpugate, in one leaf that imports nothing.

Runs on nodes too: Python 3.9, standard library only.
"""

from __future__ import annotations


class GpugateError(Exception):
    """Base of all errors that gpugate raises on purpose; its text is a sentence for the operator."""


class Unavailable(GpugateError):
    """A fact was asked for that the node could not measure.

    Never an AttributeError: `getattr(record, name, default)` must not turn a gap into a default.
    """


class EvidenceError(GpugateError):
    """A document is not valid evidence, or is not the evidence that was asked for."""


class NotGathered(GpugateError):
    """The host never reported: unreachable, refused, hung or without a probe."""


class PolicyError(GpugateError):
    """What the inventory says about a node is not a valid policy."""


class InventoryError(GpugateError):
    """A host pattern or an inventory cannot be resolved."""


class ReportError(GpugateError):
    """A report cannot be written, read or trusted."""


class SigningError(ReportError):
    """A report cannot be signed."""


class AdmissionError(GpugateError):
    """A decision could not be carried out."""


class ProbeError(GpugateError):
    """The probe cannot do what it was asked, for a reason that it names."""


class NotYet(ProbeError):
    """What was asked for goes on: ask again with the same nonce."""


class StateError(GpugateError):
    """The state store cannot be used, or cannot give what is asked of it."""


class StateBusy(StateError):
    """Others kept the state store locked for so long that it could not be asked; later it may."""
