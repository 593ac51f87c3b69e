"""The driver's complaints in the kernel log, after NVIDIA's Xid catalogue (in our own words and grouping)."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

_RESET, _REBOOT, _SUPPORT = "drain the node and reset the GPU", "reboot the node", "open a case with support"
_INSPECT = "take the node out and inspect the hardware"

_XID = re.compile(r"NVRM: Xid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)")
_SXID = re.compile(r"SXid \((?:PCI:)?([0-9a-fA-F:.]+)\): (\d+)")
_LOST = re.compile(r"fallen off the bus|RmInitAdapter failed", re.IGNORECASE)

# What an application did to itself: the node is no worse for it, unless it repeats on one GPU.
_APPLICATION = {8, 11, 13, 25, 31, 32, 39, 40, 41, 43, 45, 60, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86,
                88, 89, *range(96, 106), *range(126, 136), 139}  # fmt: skip
# What is only said, or judged by a check of its own (63: the row remapper's).
_INFORMATION = {63, 106, 107, 121, 137, 141, 152, 153, 160, 161, 162, 163}
_HARDWARE = {
    37: ("illegal driver access", _SUPPORT),
    38: ("illegal firmware access", _SUPPORT),
    44: ("context switch fault", _RESET),
    46: ("GPU stopped processing", _RESET),
    48: ("uncorrectable ECC error", _RESET),
    54: ("auxiliary power missing", "check the power cabling"),
    62: ("power management unit halted", _RESET),
    64: ("row remap could not be recorded", _RESET),
    66: ("illegal access by the driver", _SUPPORT),
    67: ("illegal access by the driver", _SUPPORT),
    74: ("NVLink error", _RESET),
    78: ("vGPU start failed", _SUPPORT),
    79: ("GPU has fallen off the bus", f"{_REBOOT}; {_SUPPORT} if it recurs"),
    92: ("high single-bit error rate", _SUPPORT),
    93: ("InfoROM wear", _SUPPORT),
    94: ("contained memory error", _RESET),
    95: ("uncontained memory error", _RESET),
    109: ("context switch timeout", _RESET),
    110: ("security fault", _RESET),
    119: ("GSP timeout", _RESET),
    120: ("GSP error", _RESET),
    125: ("InfoROM or device error", _INSPECT),
    136: ("NVLink training failed", _RESET),
    140: ("unrecovered ECC error", _RESET),
    142: ("encoder error", _SUPPORT),
    143: ("GPU initialisation failed", _RESET),
    144: ("NVLink unit error", _RESET),
    145: ("NVLink unit error", _RESET),
    146: ("NVLink unit error", _RESET),
    147: ("NVLink unit error", _RESET),
    148: ("NVLink unit error", _RESET),
    149: ("NVLink unit error", _RESET),
    150: ("NVLink unit error", _RESET),
    151: ("key rotation error", "restart the VM"),
    154: ("the driver asks for a recovery action", "do what the line says"),
    155: ("NVLink taken down", _RESET),
    156: ("resource retirement", _RESET),
    157: ("resource retirement failed", _RESET),
    158: ("fatal GPU timeout", _RESET),
    159: ("CHI error", _RESET),
    164: ("power smoothing worn", "plan a replacement"),
    165: ("power smoothing worn", "plan a replacement"),
    167: ("fatal PCIe timeout", _INSPECT),
    168: ("memory reduced for lack of ECC", "enable ECC"),
    169: ("SEC2 halted", _INSPECT),
    171: ("memory subsystem or link error", _INSPECT),
    172: ("memory subsystem or link error", _INSPECT),
    173: ("memory subsystem or link error", _INSPECT),
    174: ("memory subsystem or link error", _INSPECT),
    175: ("memory subsystem or link error", _INSPECT),
    176: ("memory subsystem or link error", _INSPECT),
}

REPEATS = 3


@dataclass(frozen=True)
class Complaint:
    """One thing that the kernel log holds against the node: a sentence, and what to do about it."""

    sentence: str
    action: str


def complaints(lines: list[str]) -> list[Complaint]:
    """What in the driver's log lines needs somebody, each kind and GPU once, in order of first appearance.

    An Xid that the catalogue does not know counts. An application fault counts from REPEATS times on one GPU.
    """
    seen: Counter[tuple[str, int, str]] = Counter()
    found: dict[Complaint, None] = {}
    for line in lines:
        if match := _SXID.search(line):
            found[Complaint(f"SXid {match[2]} on the NVSwitch {match[1]}", _SUPPORT)] = None
        elif match := _XID.search(line):
            seen["xid", int(match[2]), match[1]] += 1
            code, bus_id = int(match[2]), match[1]
            if complaint := _judged(code, bus_id, seen["xid", code, bus_id]):
                found[complaint] = None
        elif _LOST.search(line):
            found[Complaint(f"the log says: {line[:160]}", f"{_REBOOT}; {_INSPECT} if it recurs")] = None
        elif "NVRM" in line and "Xid" in line:
            found[Complaint(f"an Xid line that cannot be read: {line[:160]}", _SUPPORT)] = None
    return list(found)


def _judged(code: int, bus_id: str, times: int) -> Complaint | None:
    if code in _INFORMATION:
        return None
    if code in _APPLICATION:
        if times == REPEATS:
            return Complaint(f"Xid {code} on {bus_id} repeats: an application fault that sticks to one GPU", _INSPECT)
        return None
    meaning, action = _HARDWARE.get(code, ("a code that the catalogue does not know", _SUPPORT))
    return Complaint(f"Xid {code} on {bus_id}: {meaning}", action)
