"""memory: is there a margin before the crash?"""

from __future__ import annotations

from gpugate.errors import Unavailable
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


def check_allocatable(node: Node, policy: Policy, expect: Expect) -> None:
    """The margin that policy promises to jobs could be allocated in one piece on each GPU, written and read back; where
    a job leaves too little for that beside a reserve, nothing is taken from it and the check cannot tell."""
    tried = {allocation.uuid: allocation for allocation in node.allocations}
    for gpu in node.gpus:
        if gpu.uuid not in tried:
            raise Unavailable("no allocation was tried on it")
        allocation = tried[gpu.uuid]
        expect("MiB asked for in one piece", allocation.asked_bytes / 2**20, at=gpu).at_least(
            policy.promised_bytes / 2**20, "MiB", next=Next.RERUN,
            origin="policy gpugate_memory_margin_mib, or what gpugate_memory_failed_percent leaves",
        )  # fmt: skip
        expect("read back as written", allocation.correct, at=gpu).equals(
            True, next=Next.RMA, origin="what was written"
        )


def check_pattern(node: Node, policy: Policy, expect: Expect) -> None:
    """Patterns (moving inversions, addresses, random) written to nearly all free memory read back exactly, while the
    ECC counters stand still."""
    for gpu, burn in node.burnt():
        wrong = [word for word in burn.wrong if word.work == "memory"]  # told even where the test was cut short
        bits = f"; first at byte {4 * wrong[0].word}, xor {wrong[0].expected ^ wrong[0].found:#010x}" if wrong else ""
        expect(f"words located that read back otherwise{bits}", len(wrong), at=gpu).equals(0, next=Next.RMA)
        test = burn.memory_test
        expect("words that read back otherwise", test.mismatches, at=gpu).equals(0, next=Next.RMA)
        expect("share of free memory that was tested", test.tested_bytes / test.free_bytes, at=gpu).at_least(
            policy.memory_test_share, next=Next.RERUN
        )
        expect("patterns that were tested", len(test.patterns), at=gpu).at_least(4, next=Next.RERUN)
        expect("uncorrectable errors gained", burn.ecc_uncorrected_gained, at=gpu).equals(0, next=Next.HARDWARE)
        expect("corrected errors gained", burn.ecc_corrected_gained, at=gpu).at_most(
            policy.ecc_corrected_gained_max, next=Next.HARDWARE
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
