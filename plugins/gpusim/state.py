"""A node's state file: create it, read it, change it, inject faults.

Python and the driver libraries share the file and its lock (a robust process-shared mutex of the C library), so every
change is seen whole. `NodeState` never advances the model: that is done by whoever calls the driver.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import mmap
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import layout
from .boards import AMBIENT_C, BOARDS, Board
from .errors import GpusimError, unknown
from .exports import driver_named
from .layout import Device, Field, Process, Rule, State, Target, Value

STATE_FILE = "gpusim.state"
_EVERY_TIME = 2**64 - 1
_EOWNERDEAD = 130
_FUNCTION = re.compile(r"(nvml|cu)[A-Z]\w{1,60}")
_libc = ctypes.CDLL(None)


class NodeState:
    """The open state of one node."""

    def __init__(self, path: Path, mapping: mmap.mmap) -> None:
        self.path = path
        self._mapping = mapping
        self._state = State.from_buffer(mapping)

    @classmethod
    def open(cls, path: Path) -> NodeState:
        """Open the state file at `path`; GpusimError when it is none, or one of another version."""
        try:
            with path.open("r+b") as file:
                mapping = mmap.mmap(file.fileno(), 0)
        except (OSError, ValueError) as error:
            raise GpusimError(f"no node state at {path}: {error}") from error
        if len(mapping) != ctypes.sizeof(State):
            raise GpusimError(f"{path} is not a node state of this version of gpusim: create the node again")
        state = cls(path, mapping)
        if (state._state.magic, state._state.abi) != (layout.MAGIC, layout.ABI):
            raise GpusimError(f"{path} is not a node state of this version of gpusim: create the node again")
        return state

    @contextmanager
    def _locked(self) -> Iterator[State]:
        mutex = ctypes.byref(self._state, State.mutex.offset)
        if _libc.pthread_mutex_lock(mutex) == _EOWNERDEAD:
            _libc.pthread_mutex_consistent(mutex)
        try:
            yield self._state
        finally:
            _libc.pthread_mutex_unlock(mutex)

    @property
    def gpus(self) -> int:
        """How many GPUs the node was made with."""
        return int(self._state.gpu_count)

    def keys(self) -> list[str]:
        """Every key that may be set, with N for the GPU's number."""
        names = [field.name for field in layout.STATE if field.settable]
        for field in layout.DEVICE:
            if field.settable:
                is_array = field.count > 1 and field.kind != "text"
                names.append(f"gpu.N.{field.name}" + (".N" if is_array else ""))
        return names

    def show(self) -> dict[str, Any]:
        """Everything: the node's fields, `gpu` (a list), `rules`. As of the last call of the driver."""
        with self._locked() as state:
            node: dict[str, Any] = _fields(state, [field for field in layout.STATE if field.name != "mutex"])
            node["gpu"] = []
            for device in state.device[: state.gpu_count]:
                gpu: dict[str, Any] = _fields(device, layout.DEVICE)
                gpu["processes"] = [_fields(process, layout.PROCESS) for process in device.process if process.pid]
                node["gpu"].append(gpu)
            node["rules"] = [_fields(rule, layout.RULE) for rule in state.rule[: state.rule_count]]
            return node

    def get(self, key: str) -> Value | list[Value]:
        """The value of `key`; a list when it names several places with `*`."""
        targets = layout.resolve(key, self.gpus)
        with self._locked() as state:
            values = [_read(_owner(state, target), target) for target in targets]
        return values if "*" in key else values[0]

    def set(self, key: str, value: object) -> None:
        """Set `key` (`time_scale`, `gpu.3.cap_w`, `gpu.*.persistence`).

        GpusimError, and nothing changes, when the key or the value is wrong.
        """
        targets = layout.resolve(key, self.gpus)
        parsed = targets[0].field.parse(key, value)
        with self._locked() as state:
            if key == "time_scale":
                _restart_clock(state)
            for target in targets:
                _write(_owner(state, target), target, parsed)

    def add_process(
        self,
        gpu: int,
        pid: int,
        memory_mib: float,
        kind: str = "compute",
        *,
        memory_unavailable: bool = False,
        invisible: bool = False,
    ) -> None:
        """Put a process on a GPU. It stays until it is removed, whether such a process runs or not."""
        if kind not in layout.PROCESS_KINDS:
            raise unknown("kind of process", kind, layout.PROCESS_KINDS)
        if not 0 < pid < 2**31:
            raise GpusimError(f"pid {pid} is not a process id")
        if not 0 <= memory_mib < 1e6:
            raise GpusimError(f"memory of {memory_mib} MiB: it takes a number from 0 to 1e6")
        self._check_gpu(gpu)
        with self._locked() as state:
            table = state.device[gpu].process
            for slot in table:
                if slot.pid == 0:
                    slot.start_ticks = slot.contexts = 0
                    slot.memory_mib = memory_mib
                    slot.kind = layout.PROCESS_KINDS.index(kind)
                    slot.memory_unavailable = memory_unavailable
                    slot.invisible = invisible
                    slot.pid = pid
                    return
        raise GpusimError(f"GPU {gpu} already has {layout.MAX_PROCESSES} processes")

    def remove_process(self, gpu: int, pid: int) -> None:
        """Take a process off a GPU; GpusimError when it is not there."""
        self._check_gpu(gpu)
        with self._locked() as state:
            found = [slot for slot in state.device[gpu].process if slot.pid == pid]
            for slot in found:
                ctypes.memset(ctypes.byref(slot), 0, ctypes.sizeof(Process))
        if not found:
            raise GpusimError(f"no process {pid} on GPU {gpu}")

    def inject(
        self,
        function: str,
        code: int,
        after: int = 0,
        times: int | None = None,
        gpu: int | None = None,
        hang: bool = False,
        delay_s: float = 0,
    ) -> None:
        """Let a driver function answer `code`, after so many good calls, so many times (None: always), on one GPU.

        `hang`: the call never returns. `delay_s`: it takes so long by the wall clock; with code 0 it then goes on.
        """
        if not _FUNCTION.fullmatch(function):
            raise GpusimError(f"{function!r} is not the name of an NVML (nvml...) or CUDA driver (cu...) function")
        if not 0 <= code <= 999:
            raise GpusimError(f"return code {code}: it takes a number from 0 to 999")
        if code == 0 and not hang and delay_s <= 0:
            raise GpusimError(f"a rule for {function} with code 0 that neither hangs nor delays does nothing")
        if after < 0 or (times is not None and times < 1) or not 0 <= delay_s <= 3600:
            raise GpusimError("after takes 0 or more, times 1 or more, delay_s 0 to 3600 seconds")
        if gpu is not None:
            self._check_gpu(gpu)
        with self._locked() as state:
            if state.rule_count == layout.MAX_RULES:
                raise GpusimError(f"there are already {layout.MAX_RULES} fault rules; clear them first")
            rule = Rule(
                function=function.encode("ascii"),
                code=code,
                gpu=-1 if gpu is None else gpu,
                after=after,
                times=_EVERY_TIME if times is None else times,
                hang=hang,
                delay_s=delay_s,
            )
            state.rule[state.rule_count] = rule
            state.rule_count += 1

    def apply(self, name: str, gpu: int | None = None) -> None:
        """Apply the named fault of `gpusim.faults.FAULTS`, to one GPU (None: the first, or the node)."""
        from .faults import apply

        apply(self, name, gpu)

    def clear(self) -> None:
        """Take back every rule and fault: all settable keys get the values the node was made with,
        except how the simulation itself runs (time_scale, real_users).

        What happened stays: temperature, energy, counters of time, processes that hold a CUDA context.
        """
        with self._locked() as state:
            _restart_clock(state)
            state.rule_count = 0
            fresh = State()
            _fill(
                fresh,
                state.node_name.decode(),
                BOARDS[state.board.decode()],
                state.board.decode(),
                state.gpu_count,
                str(state.driver_branch),
                state.seed,
            )
            for field in layout.STATE:
                if field.settable and field.name not in ("time_scale", "real_users"):
                    _copy(fresh, state, field)
            for good, device in zip(fresh.device[: state.gpu_count], state.device, strict=False):
                for field in layout.DEVICE:
                    if field.settable:
                        _copy(good, device, field)
                device.launches = 0
                if device.temperature_c >= device.shutdown_c:  # a board that shut itself down has cooled
                    device.temperature_c = device.sink_c = device.memory_temperature_c = device.ambient_c
                    device.die_rise_c = 0.0
                for slot in device.process:
                    if slot.start_ticks == 0:
                        ctypes.memset(ctypes.byref(slot), 0, ctypes.sizeof(Process))

    def reboot(self) -> None:
        """What a reboot does: limits, persistence, clocks and compute mode are lost, pending modes come true.

        Volatile counters are zero, remaps are done, no process is left. What is broken stays broken.
        """
        with self._locked() as state:
            _restart_clock(state)
            for device in state.device[: state.gpu_count]:
                device.power_limit_w = device.power_default_w
                device.persistence = device.compute_mode = device.locked_sm_mhz = 0
                device.ecc_current, device.mig_current = device.ecc_pending, device.mig_pending
                device.ecc_corrected_volatile = device.ecc_uncorrected_volatile = 0
                device.remap_pending = device.retired_pending = device.reset_required = device.recovery_action = 0
                device.memory_leaked_mib = device.busy_until = device.busy_pid = device.launches = 0
                device.queue_length = 0
                ctypes.memset(ctypes.byref(device.process), 0, ctypes.sizeof(device.process))

    def _check_gpu(self, gpu: int) -> None:
        if not 0 <= gpu < self.gpus:
            raise GpusimError(f"GPU {gpu} does not exist; allowed: 0 to {self.gpus - 1}")


def create_node_state(
    path: Path,
    node_name: str,
    board: str,
    gpus: int,
    driver: str,
    *,
    time_scale: float = 1.0,
    seed: int = 0,
) -> NodeState:
    """Write a new node's state to `path` (`<libdir>/gpusim.state`), replacing what is there, and open it.

    The same name, seed, board and number of GPUs give the same UUIDs and serials; another name gives others.
    """
    if board not in BOARDS:
        raise unknown("board", board, BOARDS)
    branch = driver_named(driver).branch
    if branch < BOARDS[board].oldest_driver:
        raise GpusimError(f"{board} needs a driver of branch {BOARDS[board].oldest_driver} or later, not {driver}")
    if not 1 <= gpus <= layout.MAX_GPUS:
        raise GpusimError(f"{gpus} GPUs: a node takes 1 to {layout.MAX_GPUS}")
    scale = layout.STATE_FIELDS["time_scale"].parse("time_scale", time_scale)
    if not (0 < len(node_name) < 64 and node_name.isascii() and node_name.isprintable()):
        raise GpusimError(f"node name {node_name!r}: it takes 1 to 63 printable ASCII characters")
    if not 0 <= seed < 2**64:
        raise GpusimError(f"seed {seed}: it takes a whole number from 0 to 2**64 - 1")
    state = State()
    _fill(state, node_name, BOARDS[board], board, gpus, driver, seed)
    state.time_scale = scale
    state.anchor_wall_s = time.monotonic()
    state.epoch_s = time.time()
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(bytes(state))
    made = NodeState.open(fresh)
    _make_mutex(made)
    fresh.rename(path)
    made.path = path
    return made


def _make_mutex(node: NodeState) -> None:
    """A mutex that processes share and that survives the death of its holder (pthread's constants on Linux)."""
    attributes = ctypes.create_string_buffer(64)
    shared, robust = 1, 1
    for result in (
        _libc.pthread_mutexattr_init(attributes),
        _libc.pthread_mutexattr_setpshared(attributes, shared),
        _libc.pthread_mutexattr_setrobust(attributes, robust),
        _libc.pthread_mutex_init(ctypes.byref(node._state, State.mutex.offset), attributes),
    ):
        if result != 0:
            raise GpusimError(f"this system cannot make a robust process-shared mutex: {os.strerror(result)}")


def _restart_clock(state: State) -> None:
    """Let simulated time go on from here with a time scale that may change now."""
    now = time.monotonic()
    state.anchor_sim_s += max(now - state.anchor_wall_s, 0.0) * state.time_scale
    state.anchor_wall_s = now


def _fill(state: State, node_name: str, board: Board, board_key: str, gpus: int, driver: str, seed: int) -> None:
    chosen = driver_named(driver)
    state.magic, state.abi = layout.MAGIC, layout.ABI
    state.node_name, state.board = node_name.encode(), board_key.encode()
    state.driver_version = chosen.version.encode()
    state.nvml_version = f"{chosen.cuda // 1000}.{chosen.version}".encode()
    state.driver_branch, state.cuda_version = chosen.branch, chosen.cuda
    state.gpu_count, state.seed = gpus, seed
    for index in range(gpus):
        digest = hashlib.sha256(f"{seed}/{node_name}/{index}".encode()).digest()
        _fill_device(state.device[index], board, index, digest)


def _fill_device(d: Device, board: Board, index: int, digest: bytes) -> None:
    text = digest.hex()
    d.name = board.name.encode()
    d.uuid = f"GPU-{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:32]}".encode()
    d.serial = f"16{int(text[32:44], 16) % 10**11:011d}".encode()
    d.pci_bus = 0x18 + 0x0D * index
    d.bus_id = f"00000000:{d.pci_bus:02X}:00.0".encode()
    d.minor = index
    d.vbios, d.board_part, d.inforom_version = board.vbios.encode(), board.part.encode(), board.inforom.encode()
    d.architecture = board.architecture
    d.cc_major, d.cc_minor = board.compute_capability
    d.sm_count, d.cores_per_sm = board.sm_count, board.cores_per_sm
    d.pci_device_id, d.pci_subsystem_id = board.device_id, board.subsystem_id
    d.listed = True

    d.memory_total_mib, d.memory_reserved_mib = board.memory_mib, board.reserved_mib
    d.bar1_mib, d.memory_bus_bits, d.context_mib = board.bar1_mib, board.memory_bus_bits, board.context_mib

    d.power_default_w, d.power_min_w, d.power_max_w = board.power_w
    d.power_limit_w, d.idle_w, d.burn_power_share = d.power_default_w, board.idle_w, 0.97
    d.power_w = d.power_mean_w = board.idle_w

    spread = digest[22] / 255 - 0.5  # boards of one kind differ by a few kelvin
    d.ambient_c, d.thermal_tau_s = AMBIENT_C, board.tau_s
    d.thermal_resistance = board.thermal_resistance * (1 + 0.08 * spread)
    d.has_memory_sensor, d.has_margin = board.memory_max_c is not None, board.has_margin
    d.memory_offset_c = 9.0 if d.has_memory_sensor else 0.0
    d.die_share, d.die_tau_s, d.neighbour_tau_s = 0.25, 1.5, 15.0
    d.die_rise_c = d.thermal_resistance * d.die_share * d.power_w
    d.sink_c = d.ambient_c + d.thermal_resistance * (1 - d.die_share) * d.power_w
    d.temperature_c = d.sink_c + d.die_rise_c
    d.fan_idle_percent, d.fan_max_percent, d.fan_target_c = 30.0, 100.0, 60.0
    d.fan_percent, d.fan_percent_per_c, d.fan_slew_percent_per_s = d.fan_idle_percent, 4.0, 5.0
    d.memory_temperature_c = d.temperature_c + d.memory_offset_c * d.power_w / d.power_max_w
    d.slowdown_c, d.hw_slowdown_c, d.shutdown_c = board.slowdown_c, board.hw_slowdown_c, board.shutdown_c
    d.memory_max_c = board.memory_max_c or 0.0
    d.sensor_stuck_c = 30.0

    d.idle_sm_mhz, d.max_sm_mhz = board.sm_mhz
    d.idle_mem_mhz, d.max_mem_mhz = board.memory_mhz
    d.sm_mhz, d.event_reasons = d.idle_sm_mhz, 1
    d.fp32_tflops, d.f16_tflops, d.bf16_tflops, d.s8_tops = board.fp32_tflops, *board.tensor_tops
    d.mma_efficiency, d.memory_gb_s, d.speed_factor = board.mma_efficiency, board.memory_gb_s, 1.0

    d.pcie_gen_gpu = d.pcie_gen_slot = d.pcie_gen_loaded = board.pcie_gen
    d.pcie_gen_idle, d.pcie_width_gpu, d.pcie_width_loaded = 1, 16, 16
    d.nvlink_count, d.nvlink_version = board.nvlinks, board.nvlink_version
    for link in range(board.nvlinks):
        d.nvlink_state[link] = 1

    d.ecc_supported = d.ecc_current = d.ecc_pending = True
    d.remap_supported, d.mig_supported = board.row_remap, board.mig
    d.persistence = True
    d.fabric_supported, d.fabric_state = board.fabric, 3 if board.fabric else 0
    d.corruption_after_launches, d.corruption_above_c = 10, 50.0
    d.hang_after_launches = 20


def _owner(state: State, target: Target) -> State | Device:
    return state if target.gpu is None else state.device[target.gpu]


def _read(owner: ctypes.Structure, target: Target) -> Value:
    raw = getattr(owner, target.field.name)
    return target.field.from_c(raw if target.element is None else raw[target.element])


def _write(owner: ctypes.Structure, target: Target, value: Value) -> None:
    raw = target.field.to_c(value)
    if target.element is None:
        setattr(owner, target.field.name, raw)
    else:
        getattr(owner, target.field.name)[target.element] = raw


def _copy(source: ctypes.Structure, to: ctypes.Structure, field: Field) -> None:
    setattr(to, field.name, getattr(source, field.name))


def _fields(structure: ctypes.Structure, fields: list[Field]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    for field in fields:
        raw = getattr(structure, field.name)
        if field.count > 1 and field.kind != "text":
            shown[field.name] = [field.from_c(element) for element in raw]
        else:
            value = field.from_c(raw)
            shown[field.name] = round(value, 6) if isinstance(value, float) and math.isfinite(value) else value
    return shown
