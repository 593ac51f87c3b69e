"""A person's release through the real back ends: what gpugate took out comes back, and nobody else's."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from fake_apiserver import FakeApiServer, serving
from gpugate.admission import Action, AdmissionBackend, Audit, Decision, Memory, Standing, Word
from gpugate.admission import words as people
from gpugate.admission.kubernetes import Kubernetes
from gpugate.admission.kubernetes_api import Api
from gpugate.admission.scontrol import Scontrol
from gpugate.admission.slurm import Slurm
from gpugate.admission.words import Results
from gpugate.report.reader import Report
from gpugate.state.store import Store
from test_slurm import Cluster

RUN = "20260301T115000000000Z-abcdef"
STAND_IN = Path(__file__).with_name("scontrol_stand_in.py")


class Case:
    """A gate's records in a folder, and the ways to take a node out and to release it."""

    def __init__(self, folder: Path, backend: Callable[[Memory], AdmissionBackend]) -> None:
        self.memory = Memory(Store(folder / "gpugate.sqlite"))
        now = datetime.now().astimezone()
        report = Report("", RUN, now, "admission", "partial", "a word", {})
        self.audit = Audit(folder / "audit.jsonl", report, "ada")
        self.word = Word("release", "ada", "deadline", "OPS-7", now, now + timedelta(hours=1))
        self._backend = backend

    def remove(self) -> None:
        """Have gpugate take gpu0 out."""
        backend = self._backend(self.memory)
        stands = backend.standings(["gpu0"])["gpu0"]
        assert isinstance(stands, Standing)
        removal = Decision("gpu0", Action.REMOVE, ("hot",), stands, checks=("thermal.headroom",))
        assert backend.carry_out([removal]) == {"gpu0": None}

    def release(self) -> Results:
        """Release it, by a command of its own."""
        red = {"gpu0": ["thermal.headroom FAIL: hot"]}
        return people.release(["gpu0"], self.word, red, self._backend(self.memory), self.memory, self.audit)

    @property
    def words(self) -> dict[str, Word]:
        """Whose word is good in a minute."""
        return people.words_of(self.memory, self.audit, self.word.since + timedelta(minutes=1))


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A stand-in for scontrol with gpu0 in service."""
    script = tmp_path / "scontrol"
    script.write_text(f"#!{sys.executable} -IS\n{STAND_IN.read_text()}")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    cluster = Cluster(tmp_path)
    cluster.set(nodes={"gpu0": ["IDLE", ""]})
    return cluster


def through_slurm(folder: Path) -> Case:
    """A gate over Slurm."""
    return Case(folder, lambda memory: Slurm(Scontrol(30.0), memory, RUN, {}, folder / "admission.json"))


def test_slurm(slurm: Cluster, tmp_path: Path) -> None:
    """gpugate's own drain is taken back, and the word counts."""
    case = through_slurm(tmp_path)
    case.remove()
    assert case.release() == {"gpu0": None}
    assert slurm.states()["gpu0"] == ["IDLE", ""]
    assert case.words == {"gpu0": case.word}


def test_drained_by_somebody_else(slurm: Cluster, tmp_path: Path) -> None:
    """A drain whose reason somebody changed is theirs: it stays, and no word is said."""
    case = through_slurm(tmp_path)
    case.remove()
    slurm.set(nodes={"gpu0": ["IDLE+DRAIN", "fan on order"]})
    assert "not gpugate's to put back" in str(case.release()["gpu0"])
    assert slurm.states()["gpu0"] == ["IDLE+DRAIN", "fan on order"]
    assert case.words == {}


def through_kubernetes(folder: Path, fake: FakeApiServer) -> Case:
    """A gate over an API server."""
    config = str(fake.kubeconfig(folder / "kubeconfig"))
    return Case(folder, lambda _: Kubernetes(Api(config, "", 30.0), RUN, {}, pool_taints=(), cordon=False))


def test_kubernetes(tmp_path: Path) -> None:
    """gpugate's own taint is taken away, and the condition says by whose word and what is red."""
    with serving() as fake:
        fake.register("gpu0")
        case = through_kubernetes(tmp_path, fake)
        case.remove()
        assert case.release() == {"gpu0": None}
        assert fake.taints("gpu0") == []
        shown = fake.condition("gpu0")
        assert shown["status"] == "Unknown"
        assert "OVERRIDE: released by ada until" in shown["message"]
        assert "thermal.headroom FAIL: hot" in shown["message"]
        assert case.words == {"gpu0": case.word}


def test_new_node_of_kubernetes(tmp_path: Path) -> None:
    """A node that registered with the taint comes in by a green report alone."""
    with serving() as fake:
        fake.register("gpu0", "gpugate/unvalidated=new:NoSchedule")
        case = through_kubernetes(tmp_path, fake)
        assert "gpugate did not take it out" in str(case.release()["gpu0"])
        assert fake.taints("gpu0") == ["gpugate/unvalidated=new:NoSchedule"]
        assert case.words == {}
