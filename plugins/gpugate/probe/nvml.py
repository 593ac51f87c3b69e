"""The one file that imports pynvml. Every answer is a value or a Gap with NVML's code and words.

nvidia-ml-py's own habits end here: None for memory that is not available, a missing function as error 13, fields
with a return code each, all-ones for "not available", empty strings. A second function is asked only where the
first does not exist or does not support the card, never after an error of the card; `answered_by` says which
answered. Sources: nvml.h 13.5; which driver has what is in the header's own version notes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, NoReturn, Union

import pynvml

from ..evidence.facts import Gap
from ..evidence.types import Clocks, Ecc, Memory, Modes, Pcie, Power, RowRemap, Thermal
from .reading import Result, T, attempt, printable, record

LIBRARY_NOT_FOUND, VERSION_MISMATCH = 12, 18
_INVALID_ARGUMENT, _NOT_SUPPORTED, _INSUFFICIENT_SIZE, _FUNCTION_NOT_FOUND = 2, 3, 7, 13
_CORRUPTED_INFOROM, _DEPRECATED = 14, 26
# Only these say "ask another way"; anything else is an answer about the card and stands.
_ASK_ELSEWHERE = (_NOT_SUPPORTED, _FUNCTION_NOT_FOUND, _DEPRECATED)
_SIZE_RETRIES = 5

_NONE_32, _NONE_64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
_GPU_SENSOR, _MEM_MAX, _GPU_MAX = 0, 2, 3
_SM, _MEMORY = 1, 2
_COMPUTE_MODES = {0: "default", 1: "exclusive_thread", 2: "prohibited", 3: "exclusive_process"}
_FIELD_TYPES = {0: "dVal", 1: "uiVal", 2: "ulVal", 3: "ullVal", 4: "sllVal", 5: "siVal", 6: "usVal"}
_UNSIGNED_NONE = {1: _NONE_32, 2: _NONE_64, 3: _NONE_64, 6: 0xFFFF}

MEMORY_TEMPERATURE, LINK_COUNT, REPLAYS, LINK_STATE, RECOVERY_ACTION = 82, 91, 94, 165, 230
POWER_INSTANT, POWER_MIN, POWER_MAX, POWER_DEFAULT, POWER_ENFORCED, POWER_REQUESTED = 186, 187, 188, 189, 190, 192
# Nanoseconds for which a reason held the clocks down, since the driver was loaded (nvml.h, R575).
_REASON_TIMES = {"sw_power_cap": 74, "sw_thermal": 269, "hw_thermal": 270, "power_brake": 271}

# Sensors by the names of a burn's series: the method that reads each, and the field that tells the same.
_SENSORS = {
    "temperature_c": "temperature",
    "below_slowdown_c": "below_slowdown",
    "memory_temperature_c": "memory_temperature",
    "power_w": "power_draw",
    "sm_mhz": "sm_clock",
    "memory_mhz": "memory_clock",
    "fan_percent": "fan",
    "event_reasons": "event_reasons",
    "pcie_generation": "pcie_generation",
    "pcie_width": "pcie_width",
    "pcie_replays": "pcie_replays",
}
_SENSOR_FIELDS = {"memory_temperature_c": MEMORY_TEMPERATURE, "power_w": POWER_INSTANT, "pcie_replays": REPLAYS}

Number = Union[int, float]


@dataclass(frozen=True)
class RunningProcess:
    """A row of the driver's process tables; `kind` is compute, graphics or mps."""

    pid: int
    kind: str
    memory_bytes: Result[int]


def start() -> Result[Nvml]:
    """An initialised NVML; the Gap carries nvmlInit's code."""
    answer = _ask("nvmlInit")
    return answer if isinstance(answer, Gap) else Nvml()


class Nvml:
    """NVML after a successful nvmlInit."""

    def close(self) -> Gap | None:
        """Shut NVML down; the Gap says why that failed."""
        answer = _ask("nvmlShutdown")
        return answer if isinstance(answer, Gap) else None

    def driver_version(self) -> Result[str]:
        return _text("nvmlSystemGetDriverVersion", _ask("nvmlSystemGetDriverVersion"))

    def count(self) -> Result[int]:
        return _whole("nvmlDeviceGetCount_v2", _ask("nvmlDeviceGetCount"))

    def devices(self) -> Result[list[Device]]:
        """Every device that NVML counts, those it has lost too."""
        count = self.count()
        if isinstance(count, Gap):
            return count
        return [Device(index, _ask("nvmlDeviceGetHandleByIndex", index)) for index in range(count)]

    def device_by_uuid(self, uuid: str) -> Result[Device]:
        """The device with this UUID; its NVML index is looked up, as CUDA's index may be another."""
        handle = _ask("nvmlDeviceGetHandleByUUID", uuid)
        if isinstance(handle, Gap):
            return handle
        index = _whole("nvmlDeviceGetIndex", _ask("nvmlDeviceGetIndex", handle))
        return index if isinstance(index, Gap) else Device(index, handle)


class Device:
    """One GPU. Each method is one fact and one or two calls, cheap enough to be sampled.

    A GPU that was lost before it could be opened answers every question with the Gap that its handle met.
    """

    def __init__(self, index: int, handle: Any) -> None:
        self.index = index
        self.answered_by: dict[str, str] = {}
        self._handle = handle
        self._scale: str | None = None
        self._gpu_max: int | None = None
        self._no_field: set[str] = set()  # sensors that this driver or card does not give as field values

    # identity

    def uuid(self) -> Result[str]:
        return self._text("nvmlDeviceGetUUID")

    def serial(self) -> Result[str]:
        return self._text("nvmlDeviceGetSerial")

    def name(self) -> Result[str]:
        return self._text("nvmlDeviceGetName")

    def bus_id(self) -> Result[str]:
        """As the kernel writes it: `0000:18:00.0`."""
        return _map(self._pci(), lambda pci: f"{pci.domain:04x}:{pci.bus:02x}:{pci.device:02x}.0")

    def device_id(self) -> Result[str]:
        """Vendor and device, as `10de:2330`."""
        return _map(self._pci(), lambda pci: _pci_id(pci.pciDeviceId))

    def subsystem_id(self) -> Result[str]:
        return _map(self._pci(), lambda pci: _pci_id(pci.pciSubSystemId))

    def compute_capability(self) -> Result[str]:
        return _map(self._ask("nvmlDeviceGetCudaComputeCapability"), lambda pair: f"{pair[0]}.{pair[1]}")

    def vbios(self) -> Result[str]:
        return self._text("nvmlDeviceGetVbiosVersion")

    def gsp_firmware(self) -> Result[str]:
        return self._text("nvmlDeviceGetGspFirmwareVersion")

    def inforom_valid(self) -> Result[bool]:
        """Reads the card's flash: ask once a run."""
        answer = self._ask("nvmlDeviceValidateInforom")
        if isinstance(answer, Gap):
            return False if answer.code == _CORRUPTED_INFOROM else answer
        return True

    def recovery_action(self) -> Result[int]:
        return _map(self._field(RECOVERY_ACTION), int)

    def utilisation(self) -> Result[int]:
        name = "nvmlDeviceGetUtilizationRates"
        return _map(self._ask(name), lambda rates: _whole(name, rates.gpu))

    # sampling

    def sensors(self, wanted: Sequence[str]) -> dict[str, Result[Number]]:
        """What the named sensors say at one moment, those that are field values in one call.

        Temperature is to be named before the degrees below slowdown, which may be counted from it. KeyError for a name
        that is no sensor.
        """
        batch = [name for name in wanted if name in _SENSOR_FIELDS and name not in self._no_field]
        found: dict[str, Result[Number]] = {}
        for name, answer in zip(batch, self._fields([_SENSOR_FIELDS[name] for name in batch]) if batch else []):
            if not isinstance(answer, Gap):
                found[name] = answer / 1000 if name == "power_w" else answer
            elif answer.code in (*_ASK_ELSEWHERE, _INVALID_ARGUMENT):
                self._no_field.add(name)
            else:
                found[name] = answer
        for name in wanted:
            if name == "below_slowdown_c" and self._scale == "gpu_max" and "temperature_c" in found:
                found[name] = self._below_gpu_max(found["temperature_c"])
            elif name not in found:
                found[name] = getattr(self, _SENSORS[name])()
        return found

    # modes

    def modes(self) -> Modes:
        mig, ecc = self._pair("nvmlDeviceGetMigMode"), self._pair("nvmlDeviceGetEccMode")
        return record(
            Modes,
            persistence=self.persistence(),
            mig_current=_flag("current MIG mode", mig[0]),
            mig_pending=_flag("pending MIG mode", mig[1]),
            ecc_current=_flag("current ECC mode", ecc[0]),
            ecc_pending=_flag("pending ECC mode", ecc[1]),
            compute_mode=self._compute_mode(),
        )

    def persistence(self) -> Result[bool]:
        return _flag("persistence mode", self._ask("nvmlDeviceGetPersistenceMode"))

    def set_persistence(self, on: bool) -> Gap | None:
        """None when the driver accepted, else its refusal; read back to know."""
        answer = self._ask("nvmlDeviceSetPersistenceMode", int(on))
        return answer if isinstance(answer, Gap) else None

    def _compute_mode(self) -> Result[str]:
        def name(mode: int) -> Result[str]:
            return _COMPUTE_MODES.get(mode) or Gap(f"the driver answered a compute mode that is not known: {mode}")

        return _map(self._ask("nvmlDeviceGetComputeMode"), name)

    # power, in watts

    def power(self) -> Power:
        low, high = self.power_constraints()
        return record(
            Power,
            draw_w=self.power_draw(),
            limit_w=self.power_limit(),
            enforced_limit_w=self.enforced_limit(),
            default_limit_w=self.default_limit(),
            min_limit_w=low,
            max_limit_w=high,
        )

    def power_draw(self) -> Result[float]:
        """Instant draw; a driver without it gives nvmlDeviceGetPowerUsage, a mean over 1 s on Ampere and later."""
        return self._first(
            "draw_w",
            (_label(POWER_INSTANT), lambda: _map(self._field(POWER_INSTANT), _to_watts)),
            ("nvmlDeviceGetPowerUsage", lambda: _map(self._whole("nvmlDeviceGetPowerUsage"), _to_watts)),
        )

    def power_limit(self) -> Result[float]:
        """The limit that was requested of the card."""
        return self._watts("limit_w", "nvmlDeviceGetPowerManagementLimit", POWER_REQUESTED)

    def enforced_limit(self) -> Result[float]:
        """The limit that holds, whoever set it."""
        return self._watts("enforced_limit_w", "nvmlDeviceGetEnforcedPowerLimit", POWER_ENFORCED)

    def default_limit(self) -> Result[float]:
        """The limit that the card has when nobody set one."""
        return self._watts("default_limit_w", "nvmlDeviceGetPowerManagementDefaultLimit", POWER_DEFAULT)

    def power_constraints(self) -> tuple[Result[float], Result[float]]:
        """Lowest and highest limit that the card accepts."""
        return self._constraint("min_limit_w", 0, POWER_MIN), self._constraint("max_limit_w", 1, POWER_MAX)

    def set_power_limit(self, watts: float) -> Gap | None:
        """None when the driver accepted, else its refusal; read back to know."""
        answer = self._ask("nvmlDeviceSetPowerManagementLimit", round(watts * 1000))
        return answer if isinstance(answer, Gap) else None

    def _watts(self, fact: str, function: str, field: int) -> Result[float]:
        return self._first(
            fact,
            (function, lambda: _map(self._whole(function), _to_watts)),
            (_label(field), lambda: _map(self._field(field), _to_watts)),
        )

    def _constraint(self, fact: str, place: int, field: int) -> Result[float]:
        name = "nvmlDeviceGetPowerManagementLimitConstraints"
        return self._first(
            fact,
            (name, lambda: _map(_whole(name, self._pair(name)[place]), _to_watts)),
            (_label(field), lambda: _map(self._field(field), _to_watts)),
        )

    # temperatures, in degrees Celsius

    def thermal(self) -> Thermal:
        return record(
            Thermal,
            temperature_c=self.temperature(),
            below_slowdown_c=self.below_slowdown(),
            scale=self.scale(),
            memory_temperature_c=self.memory_temperature(),
            memory_max_c=self.memory_max(),
        )

    def temperature(self) -> Result[float]:
        names = ("nvmlDeviceGetTemperatureV", "nvmlDeviceGetTemperature")
        celsius = self._first_function("temperature_c", names, _GPU_SENSOR)
        return celsius if isinstance(celsius, Gap) else float(celsius)

    def scale(self) -> Result[str]:
        """What `below_slowdown` is counted from: margin (the card's own), or gpu_max. Decided once: they never mix."""
        if self._scale is None:
            margin = self._ask("nvmlDeviceGetMarginTemperature")
            if not isinstance(margin, Gap):
                self._scale = "margin"
            elif margin.code not in _ASK_ELSEWHERE:
                return margin
            else:
                limit = self._threshold(_GPU_MAX)
                if isinstance(limit, Gap):
                    return Gap(f"{margin.unavailable}; and for GPU_MAX {limit.unavailable}", limit.code)
                self._scale, self._gpu_max = "gpu_max", limit
        return self._scale

    def below_slowdown(self) -> Result[float]:
        """Degrees below software slowdown; negative beyond it."""
        scale = self.scale()
        if isinstance(scale, Gap):
            return scale
        if scale == "margin":
            self.answered_by["below_slowdown_c"] = "nvmlDeviceGetMarginTemperature"
            return _map(self._ask("nvmlDeviceGetMarginTemperature"), float)
        self.answered_by["below_slowdown_c"] = "nvmlDeviceGetTemperatureThreshold(GPU_MAX) - temperature"
        return self._below_gpu_max(self.temperature())

    def _below_gpu_max(self, temperature: Result[float]) -> Result[float]:
        if isinstance(temperature, Gap):
            return temperature
        if self._gpu_max is None:
            return Gap("probe error: scale gpu_max was chosen without a threshold")
        return self._gpu_max - temperature

    def memory_temperature(self) -> Result[float]:
        return _map(self._field(MEMORY_TEMPERATURE), float)

    def memory_max(self) -> Result[float]:
        """The memory's limit as a temperature. Field 195 is not asked: it is a margin, on another scale."""
        return _map(self._threshold(_MEM_MAX), float)

    def fan(self) -> Result[int]:
        """The fan's speed in percent of its highest. Cards that the chassis cools have none: a Gap."""
        return self._whole("nvmlDeviceGetFanSpeed")

    def _threshold(self, which: int) -> Result[int]:
        return self._whole("nvmlDeviceGetTemperatureThreshold", which)

    # clocks, in MHz

    def clocks(self) -> Clocks:
        return record(
            Clocks,
            sm_mhz=self.sm_clock(),
            memory_mhz=self.memory_clock(),
            max_sm_mhz=self._whole("nvmlDeviceGetMaxClockInfo", _SM),
            event_reasons=self.event_reasons(),
        )

    def sm_clock(self) -> Result[int]:
        return self._whole("nvmlDeviceGetClockInfo", _SM)

    def memory_clock(self) -> Result[int]:
        return self._whole("nvmlDeviceGetClockInfo", _MEMORY)

    def event_reasons(self) -> Result[int]:
        """The mask of reasons that hold the clocks down now (before R535 they were called throttle reasons)."""

        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")
        return self._first_function("event_reasons", names, not_available=_NONE_64)

    def event_reason_times(self) -> Result[dict[str, int]]:
        """Nanoseconds since the driver was loaded by reason, all of them or a Gap (drivers before R575)."""
        answers = dict(zip(_REASON_TIMES, self._fields(list(_REASON_TIMES.values()))))
        times: dict[str, int] = {}
        for reason, answer in answers.items():
            if isinstance(answer, Gap):
                return answer
            times[reason] = int(answer)
        return times

    # memory and processes

    def memory(self) -> Memory:
        """v2 tells reserved memory apart; where only v1 answers, used and reserved cannot be told from each other."""
        name = "nvmlDeviceGetMemoryInfo"
        info = self._first(
            "memory",
            (name + "_v2", lambda: self._ask(name, pynvml.nvmlMemory_v2)),
            (name, lambda: self._ask(name)),
        )
        if isinstance(info, Gap):
            return record(Memory, info, info, info, info)
        joined = Gap(f"only {name} answered, whose used memory includes the reserved")
        apart = hasattr(info, "reserved")
        return record(
            Memory,
            total_bytes=_whole(name, info.total, _NONE_64),
            reserved_bytes=_whole(name, info.reserved, _NONE_64) if apart else joined,
            used_bytes=_whole(name, info.used, _NONE_64) if apart else joined,
            free_bytes=_whole(name, info.free, _NONE_64),
        )

    def processes(self) -> Result[list[RunningProcess]]:
        """The driver's tables of compute, graphics and MPS processes; one table that cannot be read is a Gap."""
        found: list[RunningProcess] = []
        for kind, name in (("compute", "Compute"), ("graphics", "Graphics"), ("mps", "MPSCompute")):
            rows = self._process_table(kind, f"nvmlDeviceGet{name}RunningProcesses")
            if isinstance(rows, Gap):
                return Gap(f"{kind} processes: {rows.unavailable}", rows.code)
            for row in rows:
                unknown = Gap(f"the driver does not say how much memory process {row.pid} uses")
                used = unknown if row.usedGpuMemory is None else int(row.usedGpuMemory)
                found.append(RunningProcess(int(row.pid), kind, used))
        return found

    def _process_table(self, kind: str, name: str) -> Result[list[Any]]:
        def by(function: str) -> Callable[[], Result[list[Any]]]:
            return lambda: self._ask(function)

        return self._first(f"{kind}_processes", (name + "_v3", by(name + "_v3")), (name + "_v2", by(name + "_v2")))

    # health

    def ecc(self) -> Ecc:
        return record(
            Ecc,
            volatile_corrected=self.ecc_corrected(),
            volatile_uncorrected=self.ecc_uncorrected(),
            aggregate_corrected=self._ecc("aggregate_corrected", 5, 0, 1),
            aggregate_uncorrected=self._ecc("aggregate_uncorrected", 6, 1, 1),
        )

    def ecc_corrected(self) -> Result[int]:
        """Corrected errors since the driver was loaded."""
        return self._ecc("volatile_corrected", 3, 0, 0)

    def ecc_uncorrected(self) -> Result[int]:
        """Uncorrected errors since the driver was loaded."""
        return self._ecc("volatile_uncorrected", 4, 1, 0)

    def _ecc(self, fact: str, field: int, error_type: int, counter: int) -> Result[int]:
        total = "nvmlDeviceGetTotalEccErrors"
        return self._first(
            fact,
            (_label(field), lambda: _map(self._field(field), int)),
            (total, lambda: _whole(total, self._ask(total, error_type, counter), _NONE_64)),
        )

    def row_remap(self) -> RowRemap:
        name = "nvmlDeviceGetRemappedRows"
        fields = (142, 143, 144, 145)
        ways = ((name, lambda: self._ask(name)), (_label(*fields), lambda: _all(self._fields(fields))))
        rows = self._first("row_remap", *ways)
        if isinstance(rows, Gap):
            return record(RowRemap, rows, rows, rows, rows)
        return record(
            RowRemap,
            corrected_rows=_whole(name, rows[0]),
            uncorrected_rows=_whole(name, rows[1]),
            pending=_flag("pending row remap", rows[2]),
            failed=_flag("failed row remap", rows[3]),
        )

    def pcie(self) -> Pcie:
        return record(Pcie, generation=self.pcie_generation(), width=self.pcie_width(), replays=self.pcie_replays())

    def pcie_generation(self) -> Result[int]:
        return self._whole("nvmlDeviceGetCurrPcieLinkGeneration")

    def pcie_width(self) -> Result[int]:
        return self._whole("nvmlDeviceGetCurrPcieLinkWidth")

    def pcie_replays(self) -> Result[int]:
        name = "nvmlDeviceGetPcieReplayCounter"
        return self._first(
            "replays",
            (name, lambda: self._whole(name)),
            (_label(REPLAYS), lambda: _map(self._field(REPLAYS), int)),
        )

    def nvlink_states(self) -> Result[list[int]]:
        """The state of each of the card's NVLinks, by field 165; a link that cannot be read makes the list a Gap."""
        count = self._field(LINK_COUNT)
        if isinstance(count, Gap):
            return count
        links = range(int(count))
        if not links:
            return []
        name = "nvmlDeviceGetNvLinkState"
        return self._first(
            "nvlink_states",
            (_label(LINK_STATE), lambda: _all_whole(self._fields([(LINK_STATE, link) for link in links]))),
            (name, lambda: _all_whole([self._whole(name, link) for link in links])),
        )

    # asking

    def _ask(self, name: str, *arguments: Any) -> Any:
        return self._handle if isinstance(self._handle, Gap) else _ask(name, self._handle, *arguments)

    def _text(self, name: str) -> Result[str]:
        return _text(name, self._ask(name))

    def _whole(self, name: str, *arguments: Any) -> Result[int]:
        return _whole(name, self._ask(name, *arguments))

    def _pair(self, name: str) -> tuple[Any, Any]:
        answer = self._ask(name)
        return (answer, answer) if isinstance(answer, Gap) else (answer[0], answer[1])

    def _pci(self) -> Any:
        return self._ask("nvmlDeviceGetPciInfo")

    def _field(self, field: int) -> Result[Number]:
        return self._fields([field])[0]

    def _fields(self, wanted: Sequence[int | tuple[int, int]]) -> list[Result[Number]]:
        """The values of fields, or (field, scope) pairs, in one call; each has its own return code."""
        answer = self._ask("nvmlDeviceGetFieldValues", list(wanted))
        if isinstance(answer, Gap):
            return [answer] * len(wanted)
        return [_field_value(value) for value in answer]

    def _first_function(
        self, fact: str, names: Sequence[str], *arguments: Any, not_available: int = _NONE_32
    ) -> Result[int]:
        """A whole number from the first of these functions that answers; once one did, from that one alone."""

        def by(name: str) -> Callable[[], Result[int]]:
            return lambda: _whole(name, self._ask(name, *arguments), not_available)

        known = self.answered_by.get(fact)
        return by(known)() if known else self._first(fact, *[(name, by(name)) for name in names])

    def _first(self, fact: str, *ways: tuple[str, Callable[[], Result[T]]]) -> Result[T]:
        """The first way's answer; the next way only where one does not exist for this driver or card.

        The way that answered once is the only one from then on: sampling costs one call, and nothing jumps between
        two sources.
        """
        refusals: list[Gap] = []
        known = self.answered_by.get(fact)
        for label, ask in ways:
            if known not in (None, label):
                continue
            answer = ask()
            if not isinstance(answer, Gap):
                self.answered_by[fact] = label
                return answer
            refusals.append(answer)
            # A driver that is older than a field's number calls it an invalid argument.
            unknown_field = answer.code == _INVALID_ARGUMENT and label.startswith("field")
            if answer.code not in _ASK_ELSEWHERE and not unknown_field:
                return answer
        return Gap("; ".join(dict.fromkeys(gap.unavailable for gap in refusals)), refusals[-1].code)


_calling = "nothing yet"


def latest_call() -> str:
    """The function of NVML that is under way, or was last: for whoever watches from aside."""
    return _calling


def _ask(name: str, *arguments: Any) -> Any:
    """What pynvml's function answers, or a Gap. Code 7 is a list that grew between size and read: asked again."""
    global _calling  # NVML itself is one for the whole process
    _calling = name
    answer: Any = None
    for _ in range(1 + _SIZE_RETRIES):
        try:
            return getattr(pynvml, name)(*arguments)
        except pynvml.NVMLError as error:
            answer = Gap(printable(f"{name} answered {error.value} ({str(error).rstrip('.')})"), int(error.value))
        except Exception as error:
            return attempt(name, functools.partial(_raise, error))
        if answer.code != _INSUFFICIENT_SIZE:
            break
    return answer


def _raise(error: Exception) -> NoReturn:
    raise error


def _field_value(value: Any) -> Result[Number]:
    code, kind = value.nvmlReturn, value.valueType
    if code:
        words = str(pynvml.NVMLError(code)).rstrip(".")
        return Gap(printable(f"{_label(value.fieldId)} answered {code} ({words})"), int(code))
    member = _FIELD_TYPES.get(kind)
    if member is None:
        return Gap(f"{_label(value.fieldId)} answered a value of a type that is not known: {kind}")
    number: Number = getattr(value.value, member)
    if number == _UNSIGNED_NONE.get(kind):
        return Gap(f"{_label(value.fieldId)} answered all ones, which stands for not available")
    if not math.isfinite(number):
        return Gap(f"{_label(value.fieldId)} answered {number}, which is no finite number")
    return number


def _whole(name: str, answer: Any, not_available: int = _NONE_32) -> Result[int]:
    if isinstance(answer, Gap):
        return answer
    if answer is None or answer == not_available:
        return Gap(f"{name} answered that the value is not available")
    return int(answer)


def _text(name: str, answer: Any) -> Result[str]:
    if isinstance(answer, Gap):
        return answer
    text = answer.decode("utf-8", "backslashreplace") if isinstance(answer, bytes) else str(answer)
    if not text.strip() or text in ("N/A", "[N/A]"):
        return Gap(f"{name} answered {text!r}, which is no value")
    return printable(text)


def _flag(what: str, answer: Any) -> Result[bool]:
    if isinstance(answer, Gap):
        return answer
    if answer not in (0, 1):
        return Gap(f"the driver answered {answer} for {what}, which is neither off nor on")
    return bool(answer)


def _map(answer: Any, convert: Callable[[Any], Result[T]]) -> Result[T]:
    return answer if isinstance(answer, Gap) else attempt("NVML's answer", lambda: convert(answer))


def _all(answers: Sequence[Result[Number]]) -> Result[list[Number]]:
    values: list[Number] = []
    for place, answer in enumerate(answers):
        if isinstance(answer, Gap):
            return Gap(f"item {place} of {len(answers)}: {answer.unavailable}", answer.code)
        values.append(answer)
    return values


def _all_whole(answers: Sequence[Result[Number]]) -> Result[list[int]]:
    return _map(_all(answers), lambda values: [int(value) for value in values])


def _label(*fields: int) -> str:
    return "field " + ", ".join(map(str, fields))


def _pci_id(number: int) -> str:
    return f"{number & 0xFFFF:04x}:{number >> 16:04x}"


def _to_watts(milliwatts: Number) -> float:
    return milliwatts / 1000
