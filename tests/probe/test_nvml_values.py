"""What a driver answers that is no value, through nvidia-ml-py's own structures."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from gpugate.evidence.facts import Gap
from gpugate.probe.nvml import MEMORY_TEMPERATURE, POWER_INSTANT, RECOVERY_ACTION, Device

DOUBLE, UNSIGNED = 0, 1  # nvmlValueType_t


def _answer(kind: int, **value: Any) -> Any:
    field = pynvml.c_nvmlFieldValue_t()
    field.fieldId, field.valueType, field.nvmlReturn = RECOVERY_ACTION, kind, 0
    for name, number in value.items():
        setattr(field.value, name, number)
    return [field]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_field_without_a_finite_number_is_a_gap(monkeypatch: pytest.MonkeyPatch, number: float) -> None:
    """A field that holds no number is that one fact's gap, and costs no other fact."""
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda *_: _answer(DOUBLE, dVal=number))
    found = Device(0, object()).power_draw()
    assert isinstance(found, Gap)
    assert "no finite number" in found.unavailable


def test_field_of_all_ones_is_a_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """All ones stand for a value that is not available."""
    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lambda *_: _answer(UNSIGNED, uiVal=0xFFFFFFFF))
    assert isinstance(Device(0, object()).recovery_action(), Gap)


def test_sensors_that_are_fields_take_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Power and memory temperature come together; what is no field is asked by itself, temperature once for both."""
    asked: list[str] = []

    def fields(_handle: object, wanted: list[int]) -> Any:
        asked.append("fields")
        return [_answer(UNSIGNED, uiVal={POWER_INSTANT: 350000, MEMORY_TEMPERATURE: 60}[field])[0] for field in wanted]

    def no_margin(_handle: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    def temperature(_handle: object, _sensor: int) -> int:
        asked.append("temperature")
        return 50

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", fields)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetMarginTemperature", no_margin)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperatureThreshold", lambda *_: 87)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetTemperatureV", temperature)
    device = Device(0, object())
    device.below_slowdown()  # decides the scale
    asked.clear()
    found = device.sensors(["temperature_c", "below_slowdown_c", "memory_temperature_c", "power_w"])
    assert found == {
        "temperature_c": 50.0,
        "below_slowdown_c": 37.0,
        "memory_temperature_c": 60,
        "power_w": 350.0,
    }
    assert asked == ["fields", "temperature"]


def test_sensor_that_is_no_field_here_is_asked_by_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver without the field of instant power is asked for the mean by its function, and the field no more."""
    asked: list[list[int]] = []

    def fields(_handle: object, wanted: list[int]) -> Any:
        asked.append(list(wanted))
        (field,) = _answer(UNSIGNED, uiVal=0)
        field.nvmlReturn = pynvml.NVML_ERROR_INVALID_ARGUMENT
        return [field]

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", fields)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetPowerUsage", lambda _: 320000)
    device = Device(0, object())
    assert device.sensors(["power_w"]) == {"power_w": 320.0}
    asked.clear()
    assert device.sensors(["power_w"]) == {"power_w": 320.0}
    assert asked == []


def test_refusal_of_a_lost_gpu_is_no_reason_to_ask_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """A field that answers that the GPU is lost is that sensor's gap, with the code."""

    def lost(*_: object) -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetFieldValues", lost)
    found = Device(0, object()).sensors(["power_w"])["power_w"]
    assert isinstance(found, Gap)
    assert found.code == 15
