"""The evidence folder: a document counts only as the answer to what was asked."""

from __future__ import annotations

from pathlib import Path

from gpugate.errors import EvidenceError, NotGathered
from gpugate.evidence.codec import serialise
from gpugate.gather import GatherLog, load
from gpugate.gather.folder import Receipt, document_path
from healthy import NONCE, healthy


def log(profile: str = "admission") -> GatherLog:
    return GatherLog(
        started_unix_s=1.0, profile=profile, hosts={"gpu0": Receipt(nonce=NONCE, asked_unix_s=1.0, received_unix_s=2.0)}
    )


def test_answer_is_taken(tmp_path: Path) -> None:
    """The document of a host that was asked is its evidence."""
    document_path(tmp_path, "gpu0").write_bytes(serialise(healthy()))
    assert load(tmp_path, "gpu0", log()).evidence is not None


def test_answer_for_another_profile_is_refused(tmp_path: Path) -> None:
    """A node that was asked to burn in does not get away with saying that this was a nightly look."""
    document_path(tmp_path, "gpu0").write_bytes(serialise(healthy()))
    gathered = load(tmp_path, "gpu0", log("nightly"))
    assert gathered.evidence is None
    assert isinstance(gathered.problem, EvidenceError)
    assert "answered for the profile admission, asked for nightly" in str(gathered.problem)


def test_document_of_a_host_that_was_not_asked_is_none(tmp_path: Path) -> None:
    """A document that lies in the folder although nobody asked for it counts for nothing."""
    document_path(tmp_path, "gpu1").write_bytes(serialise(healthy("gpu1")))
    assert isinstance(load(tmp_path, "gpu1", log()).problem, NotGathered)
