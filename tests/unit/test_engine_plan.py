"""`gpugate requests` and `gpugate import`: what goes out, and what comes back or is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_answers import answer, document, target
from gpugate.engine import plan
from gpugate.errors import EvidenceError, NotGathered
from gpugate.evidence.frame import pack
from gpugate.gather import load, read_log
from gpugate.probe.orders import probe_request


@pytest.fixture
def written(tmp_path: Path) -> plan.Plan:
    """A plan for two hosts, of which Kubernetes knows one by another name."""
    targets = [target("gpu0"), target("gpu1.example.net", node_name="gpu1")]
    return plan.write(targets, "admission", tmp_path / "plan")


def taken(tmp_path: Path, written: plan.Plan) -> list[str]:
    """Import what lies in `answers`; the sentences."""
    told: list[str] = []
    (tmp_path / "evidence").mkdir()
    (tmp_path / "answers").mkdir(exist_ok=True)
    plan.take(written, tmp_path / "answers", tmp_path / "evidence", lambda _, sentence: told.append(sentence))
    return told


def answers(tmp_path: Path, written: plan.Plan, node: str, name: str, nonce: str = "") -> Path:
    """A node's answer in a file, between other lines of a pod's log."""
    planned = next(planned for planned in written.hosts.values() if planned.node == node)
    lines = answer(tmp_path, node, document(node, nonce or planned.nonce))
    file = tmp_path / "answers" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\n".join([b"collecting facts", *lines, b""]))
    return file


def test_requests_are_what_the_probe_takes(tmp_path: Path, written: plan.Plan) -> None:
    """Each request is one that the probe's own strict reader takes, with the nonce of the plan, which reads back."""
    for name, host in (("gpu0", "gpu0"), ("gpu1", "gpu1.example.net")):
        request = probe_request((tmp_path / f"plan/requests/{name}.json").read_text())
        assert request.nonce == written.hosts[host].nonce
        assert request.burn is not None
    assert plan.read(tmp_path / "plan") == written
    assert len({planned.nonce for planned in written.hosts.values()}) == 2


def test_answers_become_evidence(tmp_path: Path, written: plan.Plan) -> None:
    """A log and a bare frame, named after their nodes, become an evidence folder with receipts, as over SSH."""
    answers(tmp_path, written, "gpu0", "gpu0.log")
    frame = pack(document("gpu1", written.hosts["gpu1.example.net"].nonce))
    (tmp_path / "answers/gpu1").write_bytes(b"Welcome!\n" + frame)
    assert taken(tmp_path, written) == []
    log = read_log(tmp_path / "evidence")
    for host in written.hosts:
        found = load(tmp_path / "evidence", host, log)
        assert found.evidence is not None
        assert found.nonce == written.hosts[host].nonce
        assert found.asked_unix_s <= found.received_unix_s


def test_node_that_sent_nothing_is_missing(tmp_path: Path, written: plan.Plan) -> None:
    """A node without a file never reported; the other one's evidence counts."""
    answers(tmp_path, written, "gpu0", "gpu0.log")
    (told,) = taken(tmp_path, written)
    assert told.startswith("gpu1.example.net (node gpu1) sent nothing: ")
    log = read_log(tmp_path / "evidence")
    assert isinstance(load(tmp_path / "evidence", "gpu1.example.net", log).problem, NotGathered)
    assert load(tmp_path / "evidence", "gpu0", log).evidence is not None


def test_one_node_never_speaks_for_another(tmp_path: Path, written: plan.Plan) -> None:
    """A node's answer under another node's name is refused, and so is a bare frame of another request."""
    answers(tmp_path, written, "gpu0", "gpu1.log")
    (tmp_path / "answers/gpu0").write_bytes(pack(document("gpu1", written.hosts["gpu1.example.net"].nonce)))
    told = taken(tmp_path, written)
    assert "gpu0 answers another request than ours" in told[0]
    assert "gpu1.example.net (node gpu1): this answer was made on gpu0, which counts for neither" in told[1]
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == ["gathered.json"]


def test_two_answers_of_one_node_are_refused(tmp_path: Path, written: plan.Plan) -> None:
    """Two files of a node, or two answers in one, leave none that counts."""
    first = answers(tmp_path, written, "gpu0", "gpu0.log")
    (tmp_path / "answers/gpu0.txt").write_bytes(first.read_bytes())
    second = answers(tmp_path, written, "gpu1", "gpu1.log")
    second.write_bytes(second.read_bytes() * 2)
    told = taken(tmp_path, written)
    assert "gpu0 has more than one answer (gpu0.log and gpu0.txt)" in told[0]
    assert "lines of the answer came after its end" in told[1]


def test_answers_of_another_plan_are_refused(tmp_path: Path, written: plan.Plan) -> None:
    """What a node answered yesterday is not an answer to today's request."""
    answers(tmp_path, written, "gpu0", "gpu0.log", nonce="0123456789abcdef")
    assert "gpu0 answers another request than ours (nonce 0123456789abcdef)" in taken(tmp_path, written)[0]


def test_files_of_nobody_are_told_and_passed_by(tmp_path: Path, written: plan.Plan) -> None:
    """A file of a node that the plan did not ask makes no evidence."""
    answers(tmp_path, written, "gpu0", "gpu9.log")
    assert "gpu9.log is of no node of this plan" in taken(tmp_path, written)[0]
    assert [path.name for path in (tmp_path / "evidence").iterdir()] == ["gathered.json"]


def test_endless_log_is_refused(tmp_path: Path, written: plan.Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log that is larger than any answer is refused unread."""
    monkeypatch.setattr(plan, "MOST_BYTES", 1000)
    answers(tmp_path, written, "gpu0", "gpu0.log")
    assert "has more than 1000 bytes" in taken(tmp_path, written)[0]


@pytest.mark.parametrize("change", [{"schema": 2}, {"profile": "yearly"}, {"hosts": {"gpu0": {"node": "gpu0"}}}])
def test_broken_plan_is_refused(tmp_path: Path, written: plan.Plan, change: dict[str, object]) -> None:
    """A plan that this version does not know, or that was edited badly, is told and not guessed."""
    file = tmp_path / "plan/plan.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(EvidenceError, match=r"plan\.json is (no|a) plan of"):
        plan.read(file)


def test_plan_gets_a_folder_of_its_own(tmp_path: Path, written: plan.Plan) -> None:
    """Requests are never mixed with those of another plan."""
    with pytest.raises(EvidenceError, match="is not empty"):
        plan.write([target("gpu0")], "admission", tmp_path / "plan")


@pytest.mark.parametrize("names", [("../etc", None), ("gpu0", "gpu0"), ("a b", None)])
def test_names_that_cannot_be_files_are_refused(tmp_path: Path, names: tuple[str, str | None]) -> None:
    """A node's name leads out of no folder, and two hosts are never one node."""
    targets = [target("one", node_name=names[0]), *([target("two", node_name=names[1])] if names[1] else [])]
    with pytest.raises(EvidenceError, match="cannot name a node here"):
        plan.write(targets, "admission", tmp_path / "plan")
