"""Simulated nodes for the tests: libraries are built once, each node has its own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from driver_node import DriverNode, MakeNode
from gpusim.build import install_driver
from gpusim.state import create_node_state


@pytest.fixture(scope="session")
def driver_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The build folder that all tests of this run share."""
    return tmp_path_factory.mktemp("driver-build")


@pytest.fixture
def make_node(tmp_path: Path, driver_build: Path) -> Iterator[MakeNode]:
    """Makes nodes: board, number of GPUs, driver, time scale, name, seed."""

    def make(
        board: str = "H100-SXM5-80GB",
        gpus: int = 2,
        driver: str = "580",
        time_scale: float = 1.0,
        name: str = "node",
        seed: int = 0,
    ) -> DriverNode:
        libdir = tmp_path / name
        install_driver(libdir, driver, build_dir=driver_build)
        state = create_node_state(libdir / "gpusim.state", name, board, gpus, driver, time_scale=time_scale, seed=seed)
        return DriverNode(libdir, state)

    yield make
    pynvml.nvmlLib = None
    pynvml._nvmlGetFunctionPointer_cache.clear()


@pytest.fixture
def become(monkeypatch: pytest.MonkeyPatch) -> None:
    """Act as the node's administrator."""
    monkeypatch.setenv("GPUSIM_BECOME", "1")
