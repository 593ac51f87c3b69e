"""placement: are the right processes computing on the right GPUs?

The driver hides processes that the reader's pid namespace cannot see, so every check here is an error outside the
initial one.
"""

from __future__ import annotations

import re

from gpugate.errors import Unavailable
from gpugate.evidence.types import Process
from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_no_strangers(node: Node, policy: Policy, expect: Expect) -> None:
    """No process uses a GPU but those of the workloads that policy names."""
    _sees_all_processes(node)
    patterns = [re.compile(workload.pattern) for workload in policy.workloads]
    for gpu in node.gpus:
        strangers = [
            _described(process)
            for process in gpu.processes
            if not any(pattern.search(process.command) for pattern in patterns)
        ]
        expect("strangers", strangers, at=gpu).none(next=Next.END_JOB, origin="policy gpugate_workloads")


def check_expected_workloads(node: Node, policy: Policy, expect: Expect) -> None:
    """Every workload that policy names computes on exactly the GPUs that policy names for it."""
    _sees_all_processes(node)
    for gpu in node.gpus:
        commands = [process.command for process in gpu.processes if process.kind != "graphics"]
        found = [
            workload.name
            for workload in policy.workloads
            if any(re.search(workload.pattern, command) for command in commands)
        ]
        wanted = [w.name for w in policy.workloads if not w.gpus or gpu.index in w.gpus]
        expect("workloads that compute here", ", ".join(found) or "none", at=gpu).equals(
            ", ".join(wanted) or "none", next="restart the service; look at its CUDA_VISIBLE_DEVICES",
            origin="policy gpugate_workloads",
        )  # fmt: skip


def check_no_cpu_fallback(node: Node, policy: Policy, expect: Expect) -> None:
    """No process of a workload that policy names runs on the host without being in any GPU's compute table."""
    _sees_all_processes(node)
    looked_for = {workload.name for workload in node.workloads}
    if unsought := [workload.name for workload in policy.workloads if workload.name not in looked_for]:
        raise Unavailable(f"the probe was not asked to look for the processes of {', '.join(unsought)}")
    on_gpu = {process.pid for gpu in node.gpus for process in gpu.processes if process.kind != "graphics"}
    stray = [
        f"{workload.name}: pid {process.pid} ({process.command[:80]})"
        for workload in node.workloads
        for process in workload.processes
        if process.pid not in on_gpu
    ]
    for gpu in node.gpus:
        expect("workload processes without any GPU", stray, at=gpu).none(
            next="fix the image or CUDA_VISIBLE_DEVICES, and restart the service", origin="policy gpugate_workloads"
        )


def check_no_orphans(node: Node, policy: Policy, expect: Expect) -> None:
    """Used memory is accounted for by living processes, within the driver's own overhead."""
    _sees_all_processes(node)
    for gpu in node.gpus:
        owned = sum(process.memory_bytes for process in gpu.processes)
        expect("memory that no process owns", (gpu.memory.used_bytes - owned) / 2**20, at=gpu).at_most(
            policy.orphan_mib, "MiB", next=Next.RESET_GPU
        )


def _sees_all_processes(node: Node) -> None:
    if not node.host.initial_pid_namespace:
        raise Unavailable("the probe ran in a pid namespace of its own, where the driver hides other processes")


def _described(process: Process) -> str:
    parts = [f"pid {process.pid} ({process.kind})"]
    for name in ("user", "command", "unit"):
        gap = process.gap(name)
        parts.append(f"{name} {'unknown' if gap else str(getattr(process, name))[:80]}")
    return ", ".join(parts)
