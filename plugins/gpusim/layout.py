"""The layout of a node's state file, stated once: C header, ctypes structures and the checks of keys come from it.

A state file holds one `sim_state`: what the whole node shares, then up to MAX_GPUS devices. Units are in the names
(`_w` watt, `_c` degree Celsius, `_mib` mebibyte, `_s` simulated second). A field without `settable` belongs to the
model or to the node's identity: it can be read but not set.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .errors import GpusimError, unknown

MAX_GPUS = 16
MAX_RULES = 32
MAX_PROCESSES = 64
MAX_LINKS = 18
MAX_QUEUE = 8  # kinds of work that wait on a GPU, one after another
MAGIC = 0x4D49535F55504721
MUTEX_BYTES = 64  # pthread_mutex_t is 40 bytes on x86-64 and 48 on aarch64

Kind = Literal["u32", "i32", "u64", "f64", "flag", "choice", "text"]
_C_TYPES: dict[Kind, Any] = {
    "u32": ctypes.c_uint32,
    "i32": ctypes.c_int32,
    "u64": ctypes.c_uint64,
    "f64": ctypes.c_double,
    "flag": ctypes.c_uint32,
    "choice": ctypes.c_uint32,
}
_C_NAMES: dict[Kind, str] = {
    "u32": "uint32_t",
    "i32": "int32_t",
    "u64": "uint64_t",
    "f64": "double",
    "flag": "uint32_t",
    "choice": "uint32_t",
    "text": "char",
}

Value = int | float | bool | str


@dataclass(frozen=True)
class Field:
    """One member of a structure. `count` is its length as an array (for text: bytes with the closing zero)."""

    name: str
    kind: Kind
    doc: str
    low: float = 0
    high: float = 0
    choices: tuple[str, ...] = ()
    count: int = 1
    settable: bool = False

    def allowed(self) -> str:
        """What may be set, in words."""
        if self.kind == "flag":
            return "true or false"
        if self.kind == "choice":
            return "one of " + ", ".join(self.choices)
        if self.kind == "text":
            return f"1 to {self.count - 1} printable ASCII characters"
        number = "a number" if self.kind == "f64" else "a whole number"
        return f"{number} from {self.low:g} to {self.high:g}"

    def parse(self, key: str, value: object) -> Value:
        """Check `value` (a Python value or the text of one) for `key`; GpusimError says what is allowed."""
        if not self.settable:
            raise GpusimError(f"{key} belongs to the model or to the node's identity and cannot be set ({self.doc})")
        parsed = self._parse(value)
        if parsed is None:
            raise GpusimError(f"{key} cannot be {value!r}: it takes {self.allowed()} ({self.doc})")
        return parsed

    def _parse(self, value: object) -> Value | None:
        if self.kind == "flag":
            if isinstance(value, bool):
                return value
            return {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}.get(
                str(value).lower()
            )
        if self.kind == "choice":
            return str(value) if str(value) in self.choices else None
        if self.kind == "text":
            text = str(value)
            return text if 0 < len(text) < self.count and text.isascii() and text.isprintable() else None
        if isinstance(value, bool):
            return None
        try:
            number = float(str(value)) if self.kind == "f64" else int(str(value))
        except ValueError:
            return None
        return number if self.low <= number <= self.high else None  # NaN is in no range

    def to_c(self, value: Value) -> int | float | bytes:
        """The raw value to store."""
        if self.kind == "choice":
            return self.choices.index(str(value))
        if self.kind == "text":
            return str(value).encode("ascii")
        return float(value) if self.kind == "f64" else int(value)

    def from_c(self, raw: Any) -> Value:
        """The value as it is shown."""
        if self.kind == "flag":
            return bool(raw)
        if self.kind == "choice":
            return self.choices[int(raw)]
        if self.kind == "text":
            return bytes(raw).decode("ascii")
        return float(raw) if self.kind == "f64" else int(raw)


def _flag(name: str, doc: str, *, settable: bool = True) -> Field:
    return Field(name, "flag", doc, settable=settable)


def _choice(name: str, doc: str, *choices: str) -> Field:
    return Field(name, "choice", doc, choices=choices, settable=True)


def _u32(name: str, doc: str, low: int, high: int, count: int = 1) -> Field:
    return Field(name, "u32", doc, low, high, count=count, settable=True)


def _u64(name: str, doc: str, low: int = 0, high: int = 2**53, count: int = 1) -> Field:
    return Field(name, "u64", doc, low, high, count=count, settable=True)


def _f64(name: str, doc: str, low: float, high: float) -> Field:
    return Field(name, "f64", doc, low, high, settable=True)


def _text(name: str, doc: str, size: int, *, settable: bool = True) -> Field:
    return Field(name, "text", doc, count=size, settable=settable)


def _model(kind: Kind, *names: str, count: int = 1) -> list[Field]:
    return [Field(name, kind, "kept by the model", count=count) for name in names]


CORRUPTIONS = ("none", "bit_once", "always", "nan", "after_warmup", "under_heat", "memory")
WORKS = ("any", "fma", "f16", "bf16", "s8", "stream")
PROCESS_KINDS = ("compute", "graphics", "mps")

RULE = [
    _text("function", "name of the function the rule answers for", 64),
    Field("code", "i32", "return code; 0 lets the call through after the delay"),
    Field("gpu", "i32", "device position, -1 for every one"),
    Field("after", "u64", "calls that pass first"),
    Field("times", "u64", "how many calls it answers; all ones: every one"),
    Field("seen", "u64", "calls seen so far"),
    Field("fired", "u64", "calls answered so far"),
    Field("hang", "flag", "the call never returns"),
    Field("delay_s", "f64", "wall seconds a call takes: the host's clock is not accelerated"),
]

PROCESS = [
    Field("memory_mib", "f64", "GPU memory it holds"),
    Field("start_ticks", "u64", "start time from /proc, of processes that hold a CUDA context; 0 for added ones"),
    Field("pid", "u32", "0: the slot is free"),
    Field("kind", "choice", "in which of NVML's lists it stands", choices=PROCESS_KINDS),
    Field("contexts", "u32", "CUDA contexts it holds"),
    Field("memory_unavailable", "flag", "NVML cannot say its memory"),
    Field("invisible", "flag", "in no list (another pid namespace), while its memory is in use"),
]

DEVICE = [
    # identity
    *[
        _text(name, "identity", size)
        for name, size in (("name", 96), ("uuid", 48), ("serial", 32), ("vbios", 32), ("board_part", 32))
    ],
    _text("bus_id", "PCI bus id as NVML spells it", 32, settable=False),
    _text("inforom_version", "InfoROM image version", 32),
    *_model("u32", "pci_bus", "minor", "architecture", "cc_major", "cc_minor", "sm_count", "cores_per_sm"),
    _u32("pci_device_id", "device id in the upper, vendor id in the lower 16 bits", 0, 2**32 - 1),
    _u32("pci_subsystem_id", "the same of the subsystem", 0, 2**32 - 1),
    # health
    _flag("listed", "the driver counts this GPU"),
    _flag("lost", "fallen off the bus: every call answers 15"),
    _flag("reset_required", "readings answer 16"),
    _flag("inforom_corrupt", "InfoROM calls answer 14"),
    _u32("recovery_action", "field 230: 0 none, 1 reset, 2 reboot, 3 drain P2P, 4 drain and reset, ...", 0, 99),
    _u32("last_xid", "Xid that NVML's event listeners get", 0, 999),
    # memory
    _f64("memory_total_mib", "as NVML reports it", 1, 1e6),
    _f64("memory_reserved_mib", "reserved by the driver", 0, 1e5),
    _f64("memory_leaked_mib", "in use without any process", 0, 1e6),
    _f64("memory_leak_mib_per_s", "growth of the leak", 0, 1e5),
    *_model("u32", "bar1_mib", "memory_bus_bits", "context_mib"),
    # power
    *_model("f64", "power_default_w", "power_min_w", "power_max_w", "idle_w"),
    _f64("power_limit_w", "requested limit", 1, 2000),
    _f64("cap_w", "limit set out of band; 0: none", 0, 2000),
    _flag("ignore_power_set", "setting a limit succeeds and changes nothing"),
    _flag("ignore_persistence_set", "setting persistence mode succeeds and changes nothing"),
    _flag("power_brake", "external power brake asserted (reason 0x80)"),
    _f64("burn_power_share", "power under full load, as a share of the board's maximum limit", 0, 1.5),
    *_model("f64", "power_w", "power_mean_w", "energy_j"),
    # thermal
    _f64("ambient_c", "inlet temperature", -20, 80),
    _f64("thermal_resistance", "kelvin per watt, core to inlet, fans at 100%; a fouled heat sink has more", 0.001, 10),
    _f64("thermal_tau_s", "time constant of the heat sink", 0.5, 600),
    _f64("die_share", "share of the resistance that is between core and heat sink", 0, 0.9),
    _f64("die_tau_s", "time constant of that part", 0.1, 60),
    _f64("neighbour_c_per_w", "kelvin at the inlet for each watt of the node's other GPUs", 0, 1),
    _f64("neighbour_tau_s", "time constant of that", 0.5, 600),
    _f64("memory_offset_c", "memory above core at the maximum power limit and full traffic, half of it without", 0, 60),
    *_model("f64", "temperature_c", "sink_c", "die_rise_c", "inlet_rise_c", "memory_temperature_c"),
    # fans
    _u32("fan_count", "fans of its own; 0: the chassis cools it", 0, 4),
    _f64("fan_idle_percent", "speed below fan_target_c", 1, 100),
    _f64("fan_max_percent", "highest speed", 1, 100),
    _f64("fan_target_c", "core temperature from which the speed rises", 0, 150),
    _f64("fan_percent_per_c", "how fast it rises with the temperature", 0, 100),
    _f64("fan_slew_percent_per_s", "how fast it can change", 0.01, 1000),
    *_model("f64", "fan_percent"),
    *[_flag(name, "the board has it", settable=False) for name in ("has_memory_sensor", "has_margin")],
    *_model("f64", "slowdown_c", "hw_slowdown_c", "shutdown_c", "memory_max_c"),
    _f64("sensor_noise_c", "amplitude of the noise on the temperature", 0, 20),
    _f64("power_noise_w", "amplitude of the noise on the power that is read", 0, 500),
    _flag("sensor_stuck", "the temperature sensor repeats sensor_stuck_c"),
    _f64("sensor_stuck_c", "what a stuck sensor repeats", -40, 150),
    # clocks and load
    *_model("u32", "max_sm_mhz", "idle_sm_mhz", "max_mem_mhz", "idle_mem_mhz", "sm_mhz", "hw_slow"),
    _u32("locked_sm_mhz", "locked graphics clock; 0: not locked", 0, 4000),
    *_model("u64", "event_reasons"),
    *_model("f64", "sw_power_s", "sw_thermal_s", "hw_thermal_s", "power_brake_s"),
    *_model("f64", "busy_until", "utilization"),
    *_model("f64", "queue_until", "queue_power_share", "queue_traffic", count=MAX_QUEUE),
    *_model("u32", "busy_pid", "launches", "queue_length"),
    _f64("load_utilization", "per cent of utilisation from a load outside the simulated CUDA", 0, 100),
    _f64("load_power_share", "that load's power, as a share of the board's maximum limit", 0, 1.5),
    *_model("f64", "fp32_tflops", "f16_tflops", "bf16_tflops", "s8_tops", "mma_efficiency", "memory_gb_s"),
    _f64("speed_factor", "speed of this GPU; its siblings have 1", 0.01, 2),
    # PCIe
    *_model("u32", "pcie_gen_gpu", "pcie_width_gpu"),
    _u32("pcie_gen_slot", "what GPU and slot together can do", 1, 6),
    _u32("pcie_gen_loaded", "generation reached under load", 1, 6),
    _u32("pcie_gen_idle", "generation of an idle link", 1, 6),
    _u32("pcie_width_loaded", "lanes, always", 1, 16),
    _u64("pcie_replays", "replay counter"),
    _f64("pcie_replays_per_s", "growth of the replay counter under load", 0, 1e6),
    # NVLink
    *_model("u32", "nvlink_count", "nvlink_version"),
    _u32("nvlink_state", "0 inactive, 1 active, 2 sleep, 3 active without traffic", 0, 3, MAX_LINKS),
    _u64("nvlink_crc_errors", "data CRC errors of a link", count=MAX_LINKS),
    _u64("nvlink_replays", "replays of a link", count=MAX_LINKS),
    _u64("nvlink_recoveries", "recoveries of a link", count=MAX_LINKS),
    # ECC, remapping, retired pages
    _flag("ecc_supported", "the board has ECC", settable=False),
    _flag("ecc_current", "ECC is on"),
    _flag("ecc_pending", "ECC after the next reboot"),
    _u64("ecc_corrected_volatile", "since the driver was loaded"),
    _u64("ecc_uncorrected_volatile", "since the driver was loaded"),
    _u64("ecc_corrected_aggregate", "over the board's life"),
    _u64("ecc_uncorrected_aggregate", "over the board's life"),
    _u64("sram_parity", "unique parity errors of the SRAM, aggregate"),
    _u64("sram_secded", "unique SEC-DED errors of the SRAM, aggregate"),
    _f64("ecc_corrected_per_s", "corrected errors gained in a second of load", 0, 1e6),
    _f64("ecc_uncorrected_per_s", "uncorrected errors gained in a second of load", 0, 1e6),
    *_model("f64", "ecc_corrected_carry", "ecc_uncorrected_carry", "replay_carry"),
    _flag("remap_supported", "the board remaps rows; else it retires pages", settable=False),
    _u32("remapped_corrected", "rows remapped for corrected errors", 0, 512),
    _u32("remapped_uncorrected", "rows remapped for uncorrected errors", 0, 512),
    _flag("remap_pending", "a remap waits for a reset"),
    _flag("remap_failed", "a remap failed"),
    _u32("retired_pages_single", "pages retired for single-bit errors", 0, 64),
    _u32("retired_pages_double", "pages retired for double-bit errors", 0, 64),
    _flag("retired_pending", "a page waits for its retirement"),
    # modes
    _flag("persistence", "persistence mode"),
    _choice("compute_mode", "compute mode", "default", "exclusive_thread", "prohibited", "exclusive_process"),
    _flag("mig_supported", "the board has MIG", settable=False),
    _flag("mig_current", "MIG is on"),
    _flag("mig_pending", "MIG after the next reset"),
    # fabric
    _flag("fabric_supported", "the board registers with a fabric manager", settable=False),
    _u32("fabric_state", "0 not supported, 1 not started, 2 in progress, 3 completed", 0, 3),
    _u32("fabric_status", "NVML code; counts in state 3 only", 0, 999),
    _u32("fabric_health_mask", "bits as NVML defines them", 0, 2**32 - 1),
    # wrong answers
    _choice("corruption", "how the burn kernel goes wrong", *CORRUPTIONS),
    _choice("corruption_work", "which work of it goes wrong", *WORKS),
    _u32("corruption_after_launches", "for after_warmup; launches count from a process's first context", 0, 10**9),
    _f64("corruption_above_c", "for under_heat", -40, 150),
    # launches that never end, and launches that end all
    _flag("hang_launch", "launches never end"),
    _u32("hang_after_launches", "so many still do", 0, 10**9),
    _u32("lost_after_launches", "the GPU falls off the bus with the launch after these; 0: it does not", 0, 10**9),
]

STATE = [
    *_model("u64", "magic", "abi"),
    Field("mutex", "text", "robust process-shared pthread mutex", count=MUTEX_BYTES),
    _text("node_name", "identity", 64, settable=False),
    _text("board", "identity", 32, settable=False),
    _text("driver_version", "version the driver reports", 32),
    _text("nvml_version", "version NVML reports", 32),
    Field("driver_branch", "u32", "535, 550 or 580"),
    _u32("cuda_version", "as cuDriverGetVersion says it", 1000, 99990),
    Field("gpu_count", "u32", "GPUs of the node, lost ones too"),
    _u32("nvml_init_code", "what nvmlInit answers", 0, 999),
    _u32("cuda_init_code", "what cuInit answers", 0, 999),
    _choice("cuda_order", "order in which CUDA enumerates the GPUs", "pci", "reversed"),
    _f64("time_scale", "simulated seconds in a wall second", 0.01, 10_000),
    _flag("real_users", "root is who the kernel says; else who this node's own sudo made root"),
    *_model("f64", "anchor_wall_s", "anchor_sim_s", "model_time_s", "epoch_s"),
    *_model("u64", "seed"),
    *_model("u32", "rule_count"),
]


def _members(fields: list[Field]) -> list[tuple[str, Any]]:
    members = []
    for field in fields:
        c_type = ctypes.c_char if field.kind == "text" else _C_TYPES[field.kind]
        members.append((field.name, c_type * field.count if field.count > 1 else c_type))
    return members


class Rule(ctypes.Structure):
    """A fault rule."""

    _fields_ = _members(RULE)


class Process(ctypes.Structure):
    """A process on a GPU."""

    _fields_ = _members(PROCESS)


class Device(ctypes.Structure):
    """A GPU."""

    _fields_ = [*_members(DEVICE), ("process", Process * MAX_PROCESSES)]


class State(ctypes.Structure):
    """A node."""

    _fields_ = [*_members(STATE), ("rule", Rule * MAX_RULES), ("device", Device * MAX_GPUS)]


STATE_FIELDS = {field.name: field for field in STATE}
DEVICE_FIELDS = {field.name: field for field in DEVICE}


def _struct(name: str, structure: type[ctypes.Structure], fields: list[Field], tail: str = "") -> str:
    lines = [f"struct {name} {{"]
    for field in fields:
        array = f"[{field.count}]" if field.count > 1 else ""
        lines.append(f"    {_C_NAMES[field.kind]} {field.name}{array};")
    lines += [f"    {tail}" if tail else "", "};"]
    for field in fields:
        offset = getattr(structure, field.name).offset
        lines.append(f'_Static_assert(offsetof(struct {name}, {field.name}) == {offset}, "layout");')
    lines.append(f'_Static_assert(sizeof(struct {name}) == {ctypes.sizeof(structure)}, "layout");')
    return "\n".join(line for line in lines if line)


def _enums() -> Iterator[str]:
    for field in [*PROCESS, *DEVICE, *STATE]:
        if field.choices:
            names = ", ".join(f"{field.name}_{choice}".upper() for choice in field.choices)
            yield f"enum {{ {names} }};"


def _body() -> str:
    return "\n\n".join(
        [
            f"enum {{ MAX_GPUS = {MAX_GPUS}, MAX_PROCESSES = {MAX_PROCESSES}, MAX_LINKS = {MAX_LINKS},"
            f" MAX_QUEUE = {MAX_QUEUE} }};",
            *_enums(),
            _struct("sim_rule", Rule, RULE),
            _struct("sim_process", Process, PROCESS),
            _struct("sim_device", Device, DEVICE, f"struct sim_process process[{MAX_PROCESSES}];"),
            _struct(
                "sim_state",
                State,
                STATE,
                f"struct sim_rule rule[{MAX_RULES}];\n    struct sim_device device[{MAX_GPUS}];",
            ),
        ]
    )


ABI = int.from_bytes(hashlib.sha256(_body().encode()).digest()[:8], "big")


def c_header() -> str:
    """The C header of this layout; it asserts every offset, so that C and Python cannot differ."""
    return (
        "/* Generated from gpusim/layout.py. */\n#ifndef GPUSIM_LAYOUT_H\n#define GPUSIM_LAYOUT_H\n"
        "#include <stddef.h>\n#include <stdint.h>\n"
        f"#define SIM_MAGIC UINT64_C({MAGIC:#x})\n#define SIM_ABI UINT64_C({ABI:#x})\n\n{_body()}\n#endif\n"
    )


@dataclass(frozen=True)
class Target:
    """One place that a dotted key names: its field, the GPU (None: the node) and the array index."""

    key: str
    field: Field
    gpu: int | None
    element: int | None


def resolve(key: str, gpus: int) -> list[Target]:
    """The places that `key` names: `time_scale`, `gpu.3.cap_w`, `gpu.*.nvlink_state.5`; GpusimError when none."""
    head, _, rest = key.partition(".")
    if head != "gpu":
        field = STATE_FIELDS.get(key)
        if field is None or field.name == "mutex":
            names = [name for name in STATE_FIELDS if name != "mutex"]
            raise unknown("key", key, [*names, *(f"gpu.N.{name}" for name in DEVICE_FIELDS)])
        return [Target(key, field, None, None)]
    number, _, path = rest.partition(".")
    name, _, element = path.partition(".")
    if name not in DEVICE_FIELDS:
        raise unknown(f"key of a GPU in {key!r}:", name, DEVICE_FIELDS)
    field = DEVICE_FIELDS[name]
    is_array = field.count > 1 and field.kind != "text"
    if bool(element) != is_array:
        hint = f"gpu.{number}.{name}" + (".0" if is_array else "")
        raise GpusimError(f"key {key!r}: write it as {hint!r} (or with * for all)")
    targets = []
    for gpu in _numbers(key, "GPU", number, gpus):
        for index in _numbers(key, "element", element, field.count) if is_array else [None]:
            suffix = "" if index is None else f".{index}"
            targets.append(Target(f"gpu.{gpu}.{name}{suffix}", field, gpu, index))
    return targets


def _numbers(key: str, what: str, text: str, count: int) -> list[int]:
    if text == "*":
        return list(range(count))
    if text.isascii() and text.isdigit() and int(text) < count:
        return [int(text)]
    raise GpusimError(f"key {key!r}: {what} {text!r} does not exist; allowed: 0 to {count - 1}, or *")
