"""A simulated node as the tests use it."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pynvml
from cuda_calls import Cuda
from gpusim.state import NodeState


@dataclass
class DriverNode:
    """A node's driver folder and its state, and ways to call the driver in this process or in another."""

    libdir: Path
    state: NodeState

    def nvml(self) -> Any:
        """pynvml on this node's library, initialised."""
        pynvml.nvmlLib = ctypes.CDLL(str(self.libdir / "libnvidia-ml.so.1"))
        pynvml._nvmlGetFunctionPointer_cache.clear()
        pynvml.nvmlInit()
        return pynvml

    def gpu(self, index: int = 0) -> Any:
        """NVML's handle of a GPU."""
        return self.nvml().nvmlDeviceGetHandleByIndex(index)

    def cuda(self) -> Cuda:
        """This node's libcuda, initialised."""
        return Cuda(self.libdir / "libcuda.so.1")

    def environment(self) -> dict[str, str]:
        """The environment of a process on this node."""
        return {**os.environ, "LD_LIBRARY_PATH": str(self.libdir)}

    def python(self, program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a Python program on this node."""
        return subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env={**self.environment(), **environment},
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


MakeNode = Callable[..., DriverNode]


def load(node: DriverNode, gpu: int = 0, **keys: float) -> None:
    """Put a load on a GPU that is as much as a full burn, from outside the simulated CUDA."""
    for key, value in {"load_utilization": 100, "load_power_share": 0.97, **keys}.items():
        node.state.set(f"gpu.{gpu}.{key}", value)


def let_pass(node: DriverNode, seconds: float, gpu: int = 0) -> dict[str, Any]:
    """Let simulated time pass, at least so much, and show the GPU."""
    handle = node.gpu(gpu)
    start = node.state.show()["model_time_s"]
    deadline = time.monotonic() + 30
    while node.state.show()["model_time_s"] < start + seconds:
        assert time.monotonic() < deadline
        time.sleep(0.005)
        pynvml.nvmlDeviceGetName(handle)
    shown: dict[str, Any] = node.state.show()["gpu"][gpu]
    return shown
