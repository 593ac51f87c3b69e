"""Xids: hardware complaints count, single application faults do not, unknown codes do."""

from __future__ import annotations

import pytest
from gpugate.xid import complaints


@pytest.mark.parametrize("code", [48, 62, 64, 74, 79, 94, 95, 119, 120, 140, 143, 154, 999])
@pytest.mark.parametrize("form", ["PCI:0000:3b:00", "0000:3b:00"])
def test_hardware_and_unknown_codes_count(code: int, form: str) -> None:
    """A hardware Xid, or one that nobody knows, is held against the node, with or without `PCI:`."""
    found = complaints([f"NVRM: Xid ({form}): {code}, pid=1, name=x, something"])
    assert len(found) == 1
    assert f"Xid {code} on 0000:3b:00" in found[0].sentence
    assert found[0].action


@pytest.mark.parametrize("code", [13, 31, 43, 45, 63])
def test_single_application_faults_do_not_count(code: int) -> None:
    """What an application did to itself, or the remap check judges, fails no node."""
    assert complaints([f"NVRM: Xid (PCI:0000:3b:00): {code}, pid=1"] * 2) == []


def test_repeated_application_faults_on_one_gpu_count() -> None:
    """An application fault that sticks to one GPU is a hardware suspicion; spread over GPUs it is not."""
    assert len(complaints(["NVRM: Xid (PCI:0000:3b:00): 31, pid=1"] * 5)) == 1
    assert complaints([f"NVRM: Xid (PCI:0000:{n:02x}:00): 31, pid=1" for n in range(5)]) == []


@pytest.mark.parametrize(
    "line",
    [
        "NVRM: GPU 0000:3b:00.0: GPU has fallen off the bus.",
        "NVRM: RmInitAdapter failed! (0x22:0x56:667)",
        "nvidia-nvswitch0: SXid (PCI:0000:85:00.0): 20034, Fatal, Link 33 LTSSM Fault Up",
        "NVRM: Xid ???",
    ],
)
def test_loss_without_a_code_counts(line: str) -> None:
    """Bus loss without an Xid, SXids, and Xid lines that cannot be read all count."""
    assert len(complaints([line])) == 1


def test_quiet_log_has_no_complaints() -> None:
    """The driver's greeting is no complaint."""
    assert complaints(["NVRM: loading NVIDIA UNIX x86_64 Kernel Module  580.95.05"]) == []
