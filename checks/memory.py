"""memory: is there a margin before the crash?"""

from __future__ import annotations

from gpugate.policy import Policy
from gpugate.verdict import Expect, Next, Node


def check_margin(node: Node, policy: Policy, expect: Expect) -> None:
    """Memory in use stays under policy's share of what jobs can have (total less reserved), and the margin that
    policy promises in MiB is free."""
    for gpu in node.gpus:
        usable = gpu.memory.total_bytes - gpu.memory.reserved_bytes
        expect("memory in use", 100 * gpu.memory.used_bytes / usable, at=gpu).at_most(
            policy.memory_failed_percent, "%", comfortable=policy.memory_marginal_percent,
            next="end the job, or give it a smaller batch",
        )  # fmt: skip
        expect("free memory", gpu.memory.free_bytes / 2**20, at=gpu).at_least(
            policy.memory_margin_mib, "MiB", next="end the job, or give it a smaller batch"
        )


def check_returns(node: Node, policy: Policy, expect: Expect) -> None:
    """After the burn, used memory is back where it was."""
    for gpu, burn in node.burnt():
        kept = (burn.used_after_bytes - burn.used_before_bytes) / 2**20
        expect("memory that the burn left behind", kept, at=gpu).at_most(
            policy.memory_return_mib, "MiB", next=Next.RESET_GPU
        )


def check_host(node: Node, policy: Policy, expect: Expect) -> None:
    """Host memory and shared memory are large enough to feed the GPUs."""
    gpu_bytes = policy.gpu_count * policy.reference.memory_mib * 2**20
    expect("host memory per GPU memory", node.host.memory_total_bytes / gpu_bytes).at_least(
        policy.host_memory_ratio, next=Next.HARDWARE
    )
    expect("shared memory (/dev/shm)", node.host.shm_bytes / 2**20).at_least(
        policy.host_shm_mib, "MiB", next="mount a larger /dev/shm"
    )
