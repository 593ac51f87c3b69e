"""A real kube-apiserver under the gate. Nothing here is skipped: what this machine lacks is a failure that says so."""

from __future__ import annotations

from collections.abc import Iterator

import kube_cluster
import need_apiserver
import pytest


def pytest_sessionstart(session: pytest.Session) -> None:
    """Say what is missing before anything is tried."""
    if told := need_apiserver.missing():
        pytest.exit(told, returncode=1)
    if not need_apiserver.PROGRAM.exists():
        pytest.exit("there is no kube-apiserver: run python tools/need_apiserver.py", returncode=1)


@pytest.fixture(scope="session")
def kubernetes() -> Iterator[kube_cluster.Cluster]:
    """A cluster without Nodes."""
    with kube_cluster.cluster() as up:
        yield up
