"""The process tables, the memory behind them, and a state that processes and threads share."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pynvml
import pytest
from cuda_calls import Burn
from driver_node import DriverNode, MakeNode

HOLD = """
import ctypes, sys
cuda = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
assert cuda.cuInit(0) == 0
assert cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
assert cuda.cuCtxSetCurrent(context) == 0
address = ctypes.c_uint64()
assert cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(1000 << 20)) == 0
print("holding", flush=True)
sys.stdin.read()
"""


def _hold(node: DriverNode) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=node.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "holding\n"
    return process


def _used_mib(gpu: object) -> float:
    used: int = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2).used
    return used / 2**20


def test_processes_stand_in_the_list_of_their_kind(make_node: MakeNode) -> None:
    """Compute, graphics and MPS lists hold pid and memory; unknown memory is None to pynvml, invisible pids miss."""
    node = make_node()
    gpu = node.gpu()
    node.state.add_process(0, 101, 500, "compute")
    node.state.add_process(0, 102, 600, "graphics")
    node.state.add_process(0, 103, 700, "mps")
    node.state.add_process(0, 104, 800, "compute", memory_unavailable=True)
    node.state.add_process(0, 105, 900, "compute", invisible=True)
    lists = {
        "compute": pynvml.nvmlDeviceGetComputeRunningProcesses(gpu),
        "graphics": pynvml.nvmlDeviceGetGraphicsRunningProcesses(gpu),
        "mps": pynvml.nvmlDeviceGetMPSComputeRunningProcesses(gpu),
    }
    shown = {kind: [(p.pid, p.usedGpuMemory and p.usedGpuMemory >> 20) for p in found] for kind, found in lists.items()}
    assert shown == {"compute": [(101, 500), (104, None)], "graphics": [(102, 600)], "mps": [(103, 700)]}
    assert _used_mib(gpu) == 500 + 600 + 700 + 800 + 900
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(node.gpu(1)) == []
    node.state.remove_process(0, 104)
    assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)] == [101]


def test_memory_v1_counts_the_reserved_as_used(make_node: MakeNode) -> None:
    """Version 2 keeps it apart; a leak is used without any process."""
    node = make_node()
    node.state.set("gpu.0.memory_leaked_mib", 3000)
    gpu = node.gpu()
    assert pynvml.nvmlDeviceGetMemoryInfo(gpu).used >> 20 == 3480
    info = pynvml.nvmlDeviceGetMemoryInfo(gpu, version=pynvml.nvmlMemory_v2)
    assert (info.used >> 20, info.reserved >> 20) == (3000, 480)
    assert info.total == info.used + info.free + info.reserved
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []


def test_a_process_with_a_context_is_listed_until_it_dies(make_node: MakeNode) -> None:
    """Its memory is context and allocations; when it is killed both are free again."""
    node = make_node()
    gpu = node.gpu()
    process = _hold(node)
    listed = pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)
    assert [(p.pid, p.usedGpuMemory >> 20) for p in listed] == [(process.pid, 1520)]
    assert _used_mib(gpu) == 1520
    process.kill()
    process.communicate()
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []
    assert _used_mib(gpu) == 0


def test_the_work_of_a_dead_process_ends(make_node: MakeNode) -> None:
    """A GPU does not burn on for hours when its process is killed: power and clock are those of an idle one."""
    node = make_node(time_scale=10)
    program = (
        "import sys; from pathlib import Path; from cuda_calls import Burn, Cuda\n"
        "burn = Burn(Cuda(Path('libcuda.so.1')))\n"
        "for _ in range(50): burn.launch(seconds=100)\n"
        "print('burning', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**node.environment(), "PYTHONPATH": str(Path(__file__).parent)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "burning\n"
    gpu = node.gpu()
    assert pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) == 1980
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while pynvml.nvmlDeviceGetPowerUsage(gpu) > 71_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) == 345


def test_modes_keep_contexts_out(make_node: MakeNode) -> None:
    """Prohibited keeps everybody out, exclusive everybody but the first: 46."""
    node = make_node()
    process = _hold(node)
    node.state.apply("compute_exclusive", gpu=0)
    node.state.apply("compute_prohibited", gpu=1)
    cuda = node.cuda()
    context = ctypes.c_void_p()
    codes = [cuda.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) for device in (0, 1)]
    assert codes == [46, 46]
    process.communicate("")
    Burn(cuda, 0).close()


@pytest.mark.usefixtures("become")
def test_processes_share_one_state(make_node: MakeNode) -> None:
    """What one process sets another reads."""
    node = make_node()
    done = node.python(
        "import pynvml; pynvml.nvmlInit()\n"
        "pynvml.nvmlDeviceSetPowerManagementLimit(pynvml.nvmlDeviceGetHandleByIndex(1), 450000)"
    )
    assert done.stderr == ""
    assert pynvml.nvmlDeviceGetPowerManagementLimit(node.gpu(1)) == 450_000
    assert node.state.get("gpu.1.power_limit_w") == 450


def test_a_crash_while_holding_the_lock_does_not_stop_the_node(make_node: MakeNode) -> None:
    """The next caller takes the lock over, in Python as in the driver."""
    node = make_node()
    crash = """
import os, signal, sys
from pathlib import Path
from gpusim.state import NodeState
node = NodeState.open(Path(sys.argv[1]))
with node._locked():
    os.kill(os.getpid(), signal.SIGKILL)
"""
    path = str(node.libdir / "gpusim.state")
    assert node.python(crash, path).returncode == -signal.SIGKILL
    assert pynvml.nvmlDeviceGetTemperature(node.gpu(), 0) > 20
    assert node.python(crash, path).returncode == -signal.SIGKILL
    node.state.set("gpu.0.cap_w", 400)
    assert pynvml.nvmlDeviceGetEnforcedPowerLimit(node.gpu()) == 400_000


def test_eight_threads_read_and_write_at_once(make_node: MakeNode) -> None:
    """Every reading is whole: a GPU's limit is always one of those that were set."""
    node = make_node(gpus=8)
    handles = [node.gpu(i) for i in range(8)]
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for watts in (300, 500):
                node.state.set("gpu.*.cap_w", watts)

    def read(index: int) -> set[int]:
        return {pynvml.nvmlDeviceGetEnforcedPowerLimit(handles[index]) for _ in range(2000)}

    node.state.set("gpu.*.cap_w", 300)
    writer = threading.Thread(target=write)
    writer.start()
    with ThreadPoolExecutor(8) as pool:
        seen = set().union(*pool.map(read, range(8)))
    stop.set()
    writer.join()
    assert seen == {300_000, 500_000}


def test_a_fork_can_use_the_driver(make_node: MakeNode) -> None:
    """A child that inherits the mapping reads the same node."""
    node = make_node()
    gpu = node.gpu()
    child = os.fork()
    if child == 0:
        os._exit(pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) != 700_000)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
