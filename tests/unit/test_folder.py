"""The evidence folder: a document counts only as the answer to what was asked."""

from __future__ import annotations

from pathlib import Path

import pytest
from gpugate.errors import EvidenceError, NotGathered
from gpugate.evidence.codec import serialise
from gpugate.gather import GatherLog, load, merge, read_log
from gpugate.gather.folder import Receipt, document_path, write_log
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


def evidence_set(folder: Path, profile: str = "admission", receipts: bool = True, **hosts: str) -> Path:
    """A folder with evidence of these hosts; a word in place of an answer is why there is none."""
    folder.mkdir()
    for host, missing in hosts.items():
        if not missing:
            document_path(folder, host).write_bytes(serialise(healthy(host)))
    if receipts:
        known = {
            host: Receipt(nonce=NONCE, asked_unix_s=1.0, received_unix_s=2.0, missing=why)
            for host, why in hosts.items()
        }
        write_log(folder, GatherLog(started_unix_s=float(len(hosts)), profile=profile, hosts=known))
    return folder


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


def test_sets_become_one(tmp_path: Path, into: Path) -> None:
    """Hosts of either set are judged as if they were gathered together, whichever reached them."""
    first = evidence_set(tmp_path / "a", gpu0="", gpu1="gpu1 did not answer", gpu2="gpu2 did not answer")
    second = evidence_set(tmp_path / "b", gpu1="", gpu3="")
    merge([first, second], into)
    merged = read_log(into)
    assert merged is not None
    assert merged.started_unix_s == 2.0
    known = {host: load(into, host, merged) for host in ("gpu0", "gpu1", "gpu2", "gpu3", "gpu4")}
    assert [host for host, gathered in known.items() if gathered.evidence is not None] == ["gpu0", "gpu1", "gpu3"]
    assert str(known["gpu2"].problem) == "gpu2 did not answer"
    assert str(known["gpu4"].problem) == "gpu4 was not asked in this gather"


def test_sets_without_receipts_become_one(tmp_path: Path, into: Path) -> None:
    """Documents that other engines brought are put together by their hosts alone."""
    merge(
        [evidence_set(tmp_path / "a", receipts=False, gpu0=""), evidence_set(tmp_path / "b", receipts=False, gpu1="")],
        into,
    )
    assert read_log(into) is None
    assert [load(into, host, None).evidence is not None for host in ("gpu0", "gpu1", "gpu2")] == [True, True, False]


def test_two_answers_of_one_host_are_refused(tmp_path: Path, into: Path) -> None:
    """Nobody chooses between two documents of one host in silence."""
    first, second = evidence_set(tmp_path / "a", gpu0="", gpu1=""), evidence_set(tmp_path / "b", gpu1="")
    with pytest.raises(EvidenceError, match=f"{first} and {second} both hold an answer of gpu1"):
        merge([first, second], into)


def test_an_answer_that_was_unusable_is_an_answer(tmp_path: Path, into: Path) -> None:
    """A host that answered nonsense to one engine is not made good by another."""
    first, second = evidence_set(tmp_path / "a", gpu0=""), evidence_set(tmp_path / "b", gpu0="")
    bad = Receipt(nonce=NONCE, asked_unix_s=1.0, received_unix_s=2.0, problem="gpu0 answered nonsense")
    write_log(first, GatherLog(started_unix_s=1.0, profile="admission", hosts={"gpu0": bad}))
    document_path(first, "gpu0").unlink()
    with pytest.raises(EvidenceError, match="both hold an answer of gpu0"):
        merge([first, second], into)


def test_sets_that_do_not_fit_are_refused(tmp_path: Path, into: Path) -> None:
    """Other profiles, sets of which some have no receipts, and one set given twice are no run."""
    first = evidence_set(tmp_path / "a", gpu0="")
    with pytest.raises(EvidenceError, match="different profiles"):
        merge([first, evidence_set(tmp_path / "b", profile="nightly", gpu1="")], into)
    with pytest.raises(EvidenceError, match=f"is missing in {tmp_path / 'c'}"):
        merge([first, evidence_set(tmp_path / "c", receipts=False, gpu1="")], into)
    with pytest.raises(EvidenceError, match="given twice"):
        merge([first, first], into)
