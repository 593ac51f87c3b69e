"""The journal of a gather: what was asked and answered is taken over, nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from gpugate.errors import EvidenceError
from gpugate.evidence.request import ProbeRequest
from gpugate.gather.folder import Receipt, document_path
from gpugate.gather.journal import FILE, Journal, profile_of, unfinished
from healthy import policy

REQUEST = policy().request("", "admission")


def receipt(nonce: str, **more: str) -> Receipt:
    return Receipt(nonce=nonce, asked_unix_s=1.0, received_unix_s=2.0, **more)


def asked(journal: Journal, host: str = "gpu0", request: ProbeRequest = REQUEST) -> str:
    """The nonce that this host is asked with."""
    return journal.request(host, request)[0].nonce


def test_interrupted_question_is_asked_again_with_its_nonce(tmp_path: Path) -> None:
    """A second gather asks what the first one asked and did not hear the answer of, under the same nonce."""
    first = Journal(tmp_path, "admission")
    nonce, start = asked(first), first.started_unix_s
    first.close()
    second = Journal(tmp_path, "admission")
    assert second.request("gpu0", REQUEST) == (replace(REQUEST, nonce=nonce), True)
    assert second.request("gpu1", REQUEST)[1] is False
    assert second.started_unix_s == start
    second.close()


def test_another_policy_is_another_question(tmp_path: Path) -> None:
    """Where policy asks for something else by now, neither the old nonce nor the old document counts."""
    first = Journal(tmp_path, "admission")
    nonce = asked(first)
    document_path(tmp_path, "gpu0").write_bytes(b"{}")
    first.answered("gpu0", receipt(nonce))
    assert first.whole("gpu0", REQUEST) == receipt(nonce)
    first.close()
    second = Journal(tmp_path, "admission")
    assert second.whole("gpu0", policy(burn_max_s=999.0).request("", "admission")) is None
    assert asked(second, request=policy(burn_max_s=999.0).request("", "admission")) != nonce
    assert second.whole("gpu0", REQUEST) is None
    second.close()


@pytest.mark.parametrize("why", [{"missing": "gpu0 did not answer"}, {"problem": "gpu0 answered nonsense"}])
def test_failure_is_tried_again(tmp_path: Path, why: dict[str, str]) -> None:
    """A host that could not be gathered is no host that is done."""
    journal = Journal(tmp_path, "admission")
    document_path(tmp_path, "gpu0").write_bytes(b"{}")
    journal.answered("gpu0", receipt(asked(journal), **why))
    assert journal.whole("gpu0", REQUEST) is None
    journal.close()


def test_answer_without_its_document_is_none(tmp_path: Path) -> None:
    """A receipt counts only beside the document that it is of, and for the nonce that was asked last."""
    journal = Journal(tmp_path, "admission")
    nonce = asked(journal)
    journal.answered("gpu0", receipt(nonce))
    assert journal.whole("gpu0", REQUEST) is None
    document_path(tmp_path, "gpu0").write_bytes(b"{}")
    assert journal.whole("gpu0", REQUEST) is not None
    journal.answered("gpu0", receipt("another"))
    assert journal.whole("gpu0", REQUEST) is None
    journal.close()


def test_last_line_may_be_torn(tmp_path: Path) -> None:
    """A controller that dies while it writes loses that line alone, and the journal goes on whole."""
    first = Journal(tmp_path, "admission")
    nonce = asked(first)
    first.close()
    with (tmp_path / FILE).open("ab") as stream:
        stream.write(b'{"answered":"gpu0","rec')
    second = Journal(tmp_path, "admission")
    assert asked(second) == nonce
    asked(second, "gpu1")
    second.close()
    lines = (tmp_path / FILE).read_text().splitlines()
    assert [json.loads(line).get("asked") for line in lines] == [None, "gpu0", "gpu1"]


@pytest.mark.parametrize("lines", ["no json", "[]", '{"schema": 1}', '{"schema": 2, "profile": "admission"}'])
def test_foreign_journal_is_refused(tmp_path: Path, lines: str) -> None:
    """What is no journal of this schema is refused with the file's name."""
    (tmp_path / FILE).write_text(lines + "\n")
    with pytest.raises(EvidenceError, match=str(tmp_path / FILE)):
        Journal(tmp_path, "admission")


def test_profiles_do_not_mix(tmp_path: Path) -> None:
    """A gather never goes on with one of another profile, which tells its own."""
    Journal(tmp_path, "nightly").close()
    assert profile_of(tmp_path) == "nightly"
    with pytest.raises(EvidenceError, match=r"the profile nightly; this gather is of .* the profile admission"):
        Journal(tmp_path, "admission")


def test_one_gather_at_a_time(tmp_path: Path) -> None:
    """A folder whose gather is under way is nobody else's, and does not count as unfinished."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Journal(tmp_path / name, "nightly").close()
    assert [folder.name for folder in unfinished(tmp_path)] == ["b", "a"]
    held = Journal(tmp_path / "b", "nightly")
    assert [folder.name for folder in unfinished(tmp_path)] == ["a"]
    with pytest.raises(EvidenceError, match="still under way in another process"):
        Journal(tmp_path / "b", "nightly")
    held.close()
