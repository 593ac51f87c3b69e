"""A node's root: the tree that stands for `/` of that node, as the kernel, the driver and the distribution fill it.

`write` makes everything that follows from the hardware and may be called again at any time: what it does not own
(deployed files, the kernel log, processes) it leaves alone. `boot` is what happens at a boot. Formats are those of
procfs, sysfs and the NVIDIA kernel module; values follow from the node's name, so two nodes of one name are alike,
except for the boot id: every boot has its own.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

KERNEL = "6.8.0-71-generic"
INITIAL_PID_NAMESPACE = "pid:[4026531836]"
CPUS_PER_SOCKET = 56
LINK_SPEEDS = {1: "2.5", 2: "5.0", 3: "8.0", 4: "16.0", 5: "32.0", 6: "64.0"}  # GT/s by PCIe generation
USERS = {"root": 0, "deploy": 1000}
OPEN_MODULE_SINCE = 560  # from this branch on the open kernel module is the default

CORRECTABLE = "RxErr BadTLP BadDLLP Rollover Timeout NonFatalErr CorrIntErr HeaderOF"
UNCORRECTABLE = (
    "Undefined DLP SDES TLP FCP CmpltTO CmpltAbrt UnxCmplt RxOF MalfTLP ECRC UnsupReq ACSViol UncorrIntErr "
    "BlockedTLP AtomicOpBlocked TLPBlockedErr PoisonTLPBlocked"
)


@dataclass(frozen=True)
class Gpu:
    """What host files say about one GPU. `bus_id` as sysfs spells it; ids are (vendor, device)."""

    index: int
    bus_id: str
    name: str
    uuid: str
    vbios: str
    pci: tuple[int, int]
    subsystem: tuple[int, int]
    memory_mib: int
    generation: int
    max_generation: int
    width: int
    max_width: int
    listed: bool


@dataclass(frozen=True)
class Machine:
    """What the tree of one node is made from. `driver` is a full version; `switches` counts NVSwitches."""

    name: str
    driver: str
    gpus: tuple[Gpu, ...]
    switches: int = 0


def write(root: Path, machine: Machine) -> None:
    """Write everything that follows from the hardware and its driver."""
    for folder in ("dev/shm", "opt", "root", "run", "tmp", "var/lib", "var/log"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    _distribution(root, machine)
    _kernel(root, machine)
    _module(root, machine.driver)
    _other_devices(root, machine)
    for gpu in machine.gpus:
        if gpu.listed:
            _gpu(root, machine, gpu)
        else:
            remove(root / "sys/bus/pci/devices" / gpu.bus_id)
            remove(root / "proc/driver/nvidia/gpus" / gpu.bus_id)
    for name in ("nvidiactl", "nvidia-uvm", *(f"nvidia{gpu.index}" for gpu in machine.gpus)):
        text(root / "dev" / name, "")


def boot(root: Path, *, up_for_s: int = 0) -> None:
    """Boot: a new boot id, a clock that begins, nothing in /run. Log and processes are others' to clear."""
    text(root / "proc/sys/kernel/random/boot_id", f"{uuid.uuid4()}\n")
    text(root / "proc/stat", f"cpu  0 0 0 0 0 0 0 0 0 0\nbtime {int(time.time()) - up_for_s}\nprocesses 1\n")
    tick(root)
    text(root / "proc/vmstat", "oom_kill 0\n")
    for volatile in ("run", "dev/shm"):  # in memory on a real node
        remove(root / volatile)
        (root / volatile).mkdir(parents=True)


def boot_time(root: Path) -> float:
    """Seconds since 1970 at which this node booted."""
    rows = dict(line.split(" ", 1) for line in (root / "proc/stat").read_text().splitlines())
    return float(rows["btime"])


def tick(root: Path) -> None:
    """Let the node's uptime be what it is now."""
    up_for_s = max(0.0, time.time() - boot_time(root))
    text(root / "proc/uptime", f"{up_for_s:.2f} {up_for_s * CPUS_PER_SOCKET:.2f}\n")


def boot_lines(machine: Machine) -> list[str]:
    """What the kernel log of a healthy node holds after its boot."""
    kind = module_kind(machine.driver)
    return [
        f"Linux version {KERNEL} (build@gpusim) (gcc 13.3.0) #1 SMP PREEMPT_DYNAMIC",
        "nvidia-nvlink: Nvlink Core is being initialized, major device number 234",
        *(f"nvidia {gpu.bus_id}: enabling device (0140 -> 0142)" for gpu in machine.gpus if gpu.listed),
        f"NVRM: loading {kind}  {machine.driver}",
        "nvidia-uvm: Loaded the UVM driver, major device number 510.",
    ]


def text(path: Path, content: str | bytes) -> None:
    """Put a file in place at once: a reader sees the old content or the new, and links are not written through."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and not path.is_symlink() and path.read_bytes() == data:
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_bytes(data)
    fresh.replace(path)


def link(path: Path, target: str) -> None:
    """Put a symbolic link in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def module_kind(driver: str) -> str:
    """How the kernel module of this version calls itself."""
    if int(driver.partition(".")[0]) >= OPEN_MODULE_SINCE:
        return "NVIDIA UNIX Open Kernel Module for x86_64"
    return "NVIDIA UNIX x86_64 Kernel Module"


def loaded_module(root: Path, driver: str) -> None:
    """Write the places where the running kernel module tells its version."""
    text(root / "sys/module/nvidia/version", f"{driver}\n")
    built = "Mon Sep  1 12:00:00 UTC 2025"
    text(
        root / "proc/driver/nvidia/version",
        f"NVRM version: {module_kind(driver)}  {driver}  {built}\nGCC version:  gcc version 13.3.0\n",
    )


def installed_module(root: Path, driver: str) -> None:
    """Write the kernel module on disk: an ELF object whose `.modinfo` section tells its version."""
    records = [f"version={driver}", "license=NVIDIA", f"vermagic={KERNEL} SMP preempt mod_unload modversions"]
    modinfo = b"".join(record.encode() + b"\0" for record in records)
    text(root / f"lib/modules/{KERNEL}/updates/dkms/nvidia.ko", _elf_object(modinfo))


def _elf_object(modinfo: bytes) -> bytes:
    """A relocatable ELF64 file with two sections beside the empty one: .modinfo and the section names."""
    names = b"\0.modinfo\0.shstrtab\0"
    body_at = 64
    headers_at = -(-(body_at + len(modinfo) + len(names)) // 8) * 8
    ident = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64 bit, little endian
    header = ident + struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, headers_at, 0, 64, 0, 0, 64, 3, 2)
    progbits, strtab, alloc = 1, 3, 2
    sections = [
        bytes(64),
        struct.pack("<IIQQQQIIQQ", 1, progbits, alloc, 0, body_at, len(modinfo), 0, 0, 1, 0),
        struct.pack("<IIQQQQIIQQ", 10, strtab, 0, 0, body_at + len(modinfo), len(names), 0, 0, 1, 0),
    ]
    body = header + modinfo + names
    return body + bytes(headers_at - len(body)) + b"".join(sections)


def _distribution(root: Path, machine: Machine) -> None:
    text(root / "etc/hostname", f"{machine.name}\n")
    text(root / "etc/machine-id", hashlib.sha256(machine.name.encode()).hexdigest()[:32] + "\n")
    text(
        root / "etc/os-release",
        'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nVERSION="24.04.3 LTS (Noble Numbat)"\n'
        "VERSION_CODENAME=noble\nID=ubuntu\nID_LIKE=debian\n",
    )
    if not (root / "etc/passwd").exists():
        accounts(root)


def _kernel(root: Path, machine: Machine) -> None:
    text(root / "proc/sys/kernel/osrelease", f"{KERNEL}\n")
    link(root / "proc/self/ns/pid", INITIAL_PID_NAMESPACE)
    total_kib = max(64, 2 * sum(gpu.memory_mib for gpu in machine.gpus) // 1024 // 8 * 8) * 1024 * 1024
    memory(root, total_kib)
    text(
        root / "proc/mounts",
        "/dev/nvme0n1p2 / ext4 rw,relatime 0 0\nproc /proc proc rw,nosuid,nodev,noexec,relatime 0 0\n"
        "sysfs /sys sysfs rw,nosuid,nodev,noexec,relatime 0 0\n"
        f"tmpfs /dev/shm tmpfs rw,nosuid,nodev,size={total_kib // 2}k 0 0\n",
    )
    for socket in (0, 1):
        text(root / f"sys/devices/system/node/node{socket}/cpulist", f"{_cpus(socket)}\n")
    text(root / "sys/devices/system/cpu/online", f"0-{4 * CPUS_PER_SOCKET - 1}\n")


def memory(root: Path, total_kib: int) -> None:
    """Write the host's memory, of which nine tenths are available."""
    available = total_kib * 9 // 10
    text(
        root / "proc/meminfo",
        "".join(
            f"{name + ':':<16}{value:>8} kB\n"
            for name, value in {
                "MemTotal": total_kib,
                "MemFree": available,
                "MemAvailable": available,
                "SwapTotal": 0,
                "SwapFree": 0,
            }.items()
        ),
    )


def _module(root: Path, driver: str) -> None:
    loaded_module(root, driver)
    installed_module(root, driver)
    for module in ("nvidia_uvm", "nvidia_modeset"):
        text(root / f"sys/module/{module}/initstate", "live\n")
    text(root / "sys/module/nvidia/initstate", "live\n")
    shutil.rmtree(root / "sys/module/nouveau", ignore_errors=True)
    modules(root, ["nvidia_uvm", "nvidia_modeset", "nvidia"])


def modules(root: Path, names: list[str]) -> None:
    """Write the list of loaded kernel modules."""
    text(root / "proc/modules", "".join(f"{name} 65536 0 - Live 0x0000000000000000\n" for name in names))


def _cpus(socket: int) -> str:
    first = socket * CPUS_PER_SOCKET
    sibling = first + 2 * CPUS_PER_SOCKET
    return f"{first}-{first + CPUS_PER_SOCKET - 1},{sibling}-{sibling + CPUS_PER_SOCKET - 1}"


def _pci(root: Path, bus_id: str, ids: tuple[int, int], subsystem: tuple[int, int], kind: int, socket: int) -> Path:
    device = root / "sys/bus/pci/devices" / bus_id
    for name, value in (("vendor", ids[0]), ("device", ids[1])):
        text(device / name, f"0x{value:04x}\n")
    for name, value in (("subsystem_vendor", subsystem[0]), ("subsystem_device", subsystem[1])):
        text(device / name, f"0x{value:04x}\n")
    text(device / "class", f"0x{kind:06x}\n")
    text(device / "numa_node", f"{socket}\n")
    text(device / "local_cpulist", f"{_cpus(socket)}\n")
    return device


def _other_devices(root: Path, machine: Machine) -> None:
    """Neighbours on the bus, some of which resemble a GPU: a display of the BMC, a switch of the same vendor."""
    _pci(root, "0000:00:00.0", (0x8086, 0x09A2), (0x8086, 0x0000), 0x088000, 0)
    _pci(root, "0000:02:00.0", (0x1A03, 0x2000), (0x1A03, 0x2000), 0x030000, 0)
    _pci(root, "0000:03:00.0", (0x144D, 0xA80A), (0x144D, 0xA813), 0x010802, 0)
    _pci(root, "0000:04:00.0", (0x15B3, 0x1021), (0x15B3, 0x0023), 0x020700, 0)
    for bus in range(5, 5 + machine.switches):
        _pci(root, f"0000:{bus:02x}:00.0", (0x10DE, 0x22A3), (0x10DE, 0x1796), 0x068000, 0)


def _gpu(root: Path, machine: Machine, gpu: Gpu) -> None:
    socket = 0 if gpu.index < (len(machine.gpus) + 1) // 2 else 1
    device = _pci(root, gpu.bus_id, gpu.pci, gpu.subsystem, 0x030200, socket)
    for prefix, generation, width in (
        ("current", gpu.generation, gpu.width),
        ("max", gpu.max_generation, gpu.max_width),
    ):
        text(device / f"{prefix}_link_speed", f"{LINK_SPEEDS[generation]} GT/s PCIe\n")
        text(device / f"{prefix}_link_width", f"{width}\n")
    for kind, names, total in (
        ("correctable", CORRECTABLE, "COR"),
        ("fatal", UNCORRECTABLE, "FATAL"),
        ("nonfatal", UNCORRECTABLE, "NONFATAL"),
    ):
        text(device / f"aer_dev_{kind}", "".join(f"{name} 0\n" for name in [*names.split(), f"TOTAL_ERR_{total}"]))
    rows = {
        "Model": gpu.name,
        "IRQ": str(100 + gpu.index),
        "GPU UUID": gpu.uuid,
        "Video BIOS": gpu.vbios,
        "Bus Type": "PCIe",
        "DMA Size": "52 bits",
        "DMA Mask": "0xfffffffffffff",
        "Bus Location": gpu.bus_id,
        "Device Minor": str(gpu.index),
        "GPU Firmware": machine.driver,
        "GPU Excluded": "No",
    }
    text(
        root / f"proc/driver/nvidia/gpus/{gpu.bus_id}/information",
        "".join(f"{name + ':':<16}{value}\n" for name, value in rows.items()),
    )


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def accounts(root: Path) -> None:
    """Write the accounts that a new node has."""
    text(root / "etc/passwd", "".join(f"{name}:x:{uid}:{uid}::/:/bin/sh\n" for name, uid in USERS.items()))


def owner(user: str, root: Path) -> int:
    """The uid of a user of this node; a new one is added to its password file."""
    passwd = root / "etc/passwd"
    users = {line.split(":")[0]: int(line.split(":")[2]) for line in passwd.read_text().splitlines()}
    if user not in users:
        users[user] = max(uid for uid in users.values()) + 1
        with passwd.open("a") as file:
            file.write(f"{user}:x:{users[user]}:{users[user]}::/home/{user}:/bin/sh\n")
    return users[user]
