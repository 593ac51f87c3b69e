"""What a driver answers that is no value, through nvidia-ml-py's own structures."""

from __future__ import annotations

from typing import Any

import pynvml
import pytest
from gpugate.evidence.facts import Gap
from gpugate.probe.nvml import RECOVERY_ACTION, Device

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
