"""The document, or one burn, as a person reads it on a terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_GIB = 1024**3
_UNITS = {"stream": "GB/s", "s8": "TOP/s"}  # the others' are floating point
_UNKNOWN: dict[str, Any] = {}


def summary(document: dict[str, Any]) -> str:
    """A few lines on host and driver, two a GPU, then every gap with its reason."""
    return "\n".join([*_host(document), "", *_driver(document["driver"]), "", *_gpus(document), "", *_gaps(document)])


def burn_summary(burn: dict[str, Any]) -> str:
    """How it ended and why, two lines a GPU, the node, then every gap with its reason. `burn` is a Burn's JSON data."""
    return "\n".join([*_burn(burn), "", *_gaps(burn)])


def _host(document: dict[str, Any]) -> Iterator[str]:
    host = document["host"]
    yield f"host     {_say(host['hostname'])}, kernel {_say(host['kernel_release'])}, boot {_say(host['boot_id'])}"
    log = document["kernel_log"]
    if "lines" in log:
        reach = "back to boot" if log["complete"] is True else "not back to boot"
        yield f"log      {len(log['lines'])} lines of the driver from {log['source']}, {reach}"
        for line in log["lines"]:
            if "Xid" in line or "fallen off" in line:
                yield f"         {line}"


def _driver(driver: dict[str, Any]) -> Iterator[str]:
    yield (
        f"driver   module {_say(driver['module_version'])} ({_say(driver['module_flavour'])}), "
        f"installed {_say(driver['installed_module_version'])}, NVML {_say(driver['nvml_version'])}"
    )
    cuda = driver["cuda_version"]
    version = f"{cuda // 1000}.{cuda % 1000 // 10}" if isinstance(cuda, int) else "?"
    yield f"         CUDA {version}, libcuda {_path(driver['libcuda'])}"


def _gpus(document: dict[str, Any]) -> Iterator[str]:
    gpus = document["gpus"]
    if not isinstance(gpus, list):
        yield f"GPUs     could not be read: {gpus['unavailable']}"
        return
    for gpu in gpus:
        power, thermal, memory, pcie = gpu["power"], gpu["thermal"], gpu["memory"], gpu["pcie"]
        yield f"GPU {gpu['index']:<3}  {_say(gpu['name'])}, {_say(gpu['uuid'])}, {_say(gpu['bus_id'])}"
        processes = gpu["processes"]
        yield "         " + ", ".join(
            [
                f"{_say(power['draw_w'], '.0f')} of {_say(power['limit_w'], '.0f')} W",
                f"{_say(thermal['temperature_c'], '.0f')} C "
                f"({_say(thermal['below_slowdown_c'], '.0f')} below slowdown by {_say(thermal['scale'])})",
                f"{_say(_gib(memory['used_bytes']), '.1f')} of {_say(_gib(memory['total_bytes']), '.1f')} GiB used",
                f"PCIe {_say(pcie['generation'])} x{_say(pcie['width'])}",
                f"{len(processes) if isinstance(processes, list) else '?'} processes",
            ]
        )


def _burn(burn: dict[str, Any]) -> Iterator[str]:
    yield f"burn     {burn['id']}: {burn['work']}, {burn['seconds']:.1f} s of device time"
    reasons: dict[str, list[str]] = {}
    for index, gpu in enumerate(burn["gpus"]):
        reasons.setdefault(f"{gpu['ended']}: {gpu['reason']}", []).append(f"GPU {index}")
    for reason, gpus in reasons.items():
        yield f"         {reason} ({', '.join(gpus) if len(reasons) > 1 else 'all GPUs'})"
    for index, gpu in enumerate(burn["gpus"]):
        yield f"GPU {index:<3}  {gpu['uuid']}: {gpu['ended']}, {gpu['seconds']:.1f} s, {_mismatches(gpu)}"
        yield "         " + ", ".join(
            [
                f"{_settles(gpu['below_slowdown_c'])} C below slowdown once steady",
                f"{_say(gpu['power_w'], '.0f')} W at {_say(gpu['sm_mhz'], '.0f')} MHz",
                *_rates(gpu["rates"]),
                _memory_test(gpu["memory_test"]),
            ]
        )
    share, xids = burn["sampler_core_share"], burn["xids_gained"]
    rates = [gpu["samples_per_s"] for gpu in burn["gpus"] if not isinstance(gpu["samples_per_s"], dict)]
    yield (
        f"node     {_say(min(rates) if rates else _UNKNOWN, '.1f')} samples a second of each GPU or more, "
        f"{_say(share if isinstance(share, dict) else 100 * share, '.2f')} % of a core for that, {_say(xids)} Xids"
    )


def _settles(steady: dict[str, Any]) -> str:
    if "unavailable" in steady:
        return "?"
    return f"{steady['value']:.1f} ({steady['low']:.1f} to {steady['high']:.1f})"


def _rates(rates: dict[str, Any]) -> list[str]:
    """Works that are counted in one unit stand together."""
    if "unavailable" in rates:
        return ["rates ?"]
    units: dict[str, list[str]] = {}
    for work, rate in rates.items():
        units.setdefault(_UNITS.get(work, "TFLOP/s"), []).append(f"{work} {rate:.4g}")
    return [f"{', '.join(found)} {unit}" for unit, found in units.items()]


def _memory_test(test: dict[str, Any]) -> str:
    if "unavailable" in test:
        return "memory test ?"
    part, free, pieces = _gib(test["tested_bytes"]), _gib(test["free_bytes"]), test["pieces"]
    whole = "in one piece" if pieces == 1 else f"in {pieces} pieces"
    return f"memory {part:.1f} of {free:.1f} GiB free tested {whole} at {_say(test['gb_per_s'], '.0f')} GB/s"


def _mismatches(gpu: dict[str, Any]) -> str:
    count, wrong = gpu["mismatches"], gpu["wrong"]
    if isinstance(count, dict):
        return "mismatches ?"
    if not count:
        return "no mismatch"
    if not wrong or isinstance(wrong, dict):
        return f"{count} MISMATCHES, none of them located"
    first = wrong[0]
    return (
        f"{count} MISMATCHES, the first in {first['work']} on SM {first['sm']}, block {first['block']}, thread "
        f"{first['thread']}, launch {first['launch']}, round {first['round']}, word {first['word']}: "
        f"{first['expected']:#010x} xor {first['found']:#010x} = {first['expected'] ^ first['found']:#010x}"
    )


def _gaps(document: dict[str, Any]) -> Iterator[str]:
    """Facts with one reason stand together, so that eight GPUs without a sensor are one line."""
    places: dict[str, list[str]] = {}
    for place, gap in _find(document, ""):
        code = "" if gap["code"] is None else f" [{gap['code']}]"
        places.setdefault(gap["unavailable"] + code, []).append(place)
    if not places:
        yield "Every fact was measured."
        return
    yield f"{sum(map(len, places.values()))} facts could not be measured:"
    for reason, where in places.items():
        more = f" and {len(where) - 4} more" if len(where) > 4 else ""
        yield f"  {', '.join(where[:4])}{more}: {reason}"


def _find(value: Any, place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if set(value) == {"unavailable", "code"}:
            yield place, value
            return
        for key, item in value.items():
            yield from _find(item, f"{place}.{key}" if place else key)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find(item, f"{place}[{index}]")


def _say(value: Any, form: str = "") -> str:
    return "?" if isinstance(value, dict) else format(value, form)


def _path(library: dict[str, Any]) -> str:
    return str(library.get("path", "?"))


def _gib(value: Any) -> Any:
    return value if isinstance(value, dict) else value / _GIB
