"""Persistence and power limits on a simulated node: checked, set, read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from probing import Machine

Make = Callable[..., Machine]


def _limits(node: Machine) -> Any:
    return node.state.get("gpu.*.power_limit_w")


def _reset(node: Machine) -> None:
    node.state.set("gpu.*.persistence", False)


def test_settings_are_set_read_back_and_then_left_alone(machine: Make) -> None:
    """The first run changes what differs and tells before and after; the second changes nothing."""
    node = machine()
    _reset(node)

    status, answer = node.settings()
    assert status == 0
    assert answer["changed"] is True
    assert [row["uuid"] for row in answer["gpus"]] == node.state.get("gpu.*.uuid")
    assert answer["gpus"][1]["before"] == {"persistence": False, "power_limit_w": 700.0}
    assert answer["gpus"][1]["after"] == {"persistence": True, "power_limit_w": 650.0}
    assert _limits(node) == [650.0, 650.0]

    status, answer = node.settings()
    assert (status, answer["changed"], answer["notes"]) == (0, False, [])
    assert answer["gpus"][0]["before"] == answer["gpus"][0]["after"]


def test_a_check_says_what_would_be_and_changes_nothing(machine: Make) -> None:
    """With --check, `after` is what would be, and the cards stay as they are."""
    node = machine()
    _reset(node)

    status, answer = node.settings("--check")

    assert (status, answer["changed"]) == (0, True)
    assert answer["gpus"][0]["after"] == {"persistence": True, "power_limit_w": 650.0}
    assert _limits(node) == [700.0, 700.0]
    assert node.state.get("gpu.*.persistence") == [False, False]


def test_half_a_watt_is_no_difference(machine: Make) -> None:
    """A limit that differs by no more than 0.5 W is left alone."""
    node = machine()
    node.state.set("gpu.*.power_limit_w", 650.4)

    status, answer = node.settings()

    assert (status, answer["changed"]) == (0, False)


def test_without_a_limit_only_persistence_is_touched(machine: Make) -> None:
    """A policy without a power limit leaves the limits alone."""
    node = machine()
    _reset(node)

    status, answer = node.settings(power_limit_w=None)

    assert (status, answer["changed"]) == (0, True)
    assert _limits(node) == [700.0, 700.0]
    assert node.state.get("gpu.*.persistence") == [True, True]


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"power_limit_w": 150.0}, "takes power limits from 200 to 700 W, policy wants 150 W"),
        ({"power_limit_w": 701.0}, "takes power limits from 200 to 700 W, policy wants 701 W"),
        ({"device_id": "10de:2901"}, "is a board 10de:2330, policy is for 10de:2901"),
        ({"gpu_count": 8}, "NVML shows 2 GPUs, policy has 8"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_changes(
    machine: Make, wanted: dict[str, Any], words: str
) -> None:
    """A limit outside the card's constraints, another board, another count: an error, and nothing was changed."""
    node = machine()
    _reset(node)

    for arguments in ([], ["--check"]):
        status, answer = node.settings(*arguments, **wanted)
        assert status == 1
        assert words in answer["error"]
        assert "nothing was changed" in answer["error"]
    assert _limits(node) == [700.0, 700.0]
    assert node.state.get("gpu.*.persistence") == [False, False]


def test_a_card_that_cannot_be_read_is_refused_before_anything_changes(machine: Make) -> None:
    """One lost GPU keeps all of them as they are."""
    node = machine()
    node.state.set("gpu.1.lost", True)

    status, answer = node.settings()

    assert status == 1
    assert "GPU 1" in answer["error"]
    assert "answered 15" in answer["error"]
    assert node.state.get("gpu.0.power_limit_w") == 700.0


def test_missing_permission_is_said_with_what_to_do(machine: Make) -> None:
    """Permission denied names the GPU, says that nothing was changed and to run it as root."""
    node = replace(machine(), root_user=False)

    status, answer = node.settings()

    assert status == 1
    assert "GPU 0" in answer["error"]
    assert "run it as root; nothing was changed" in answer["error"]


def test_a_limit_that_does_not_stick_is_an_error(machine: Make) -> None:
    """A driver that accepts and does nothing is found by reading back, with GPU and values."""
    node = machine()
    node.state.set("gpu.1.ignore_power_set", True)

    status, answer = node.settings()

    assert status == 1
    assert f"GPU 1 ({node.state.get('gpu.1.uuid')}" in answer["error"]
    assert "set to 650.0 and the driver accepted, but it reads back as 700.0" in answer["error"]
    assert f"changed so far: GPU 0 ({node.state.get('gpu.0.uuid')}" in answer["error"]


def test_persistence_that_does_not_stick_is_an_error(machine: Make) -> None:
    """The same for persistence mode."""
    node = machine()
    _reset(node)
    node.state.set("gpu.0.ignore_persistence_set", True)

    status, answer = node.settings()

    assert status == 1
    assert "persistence mode was set to True" in answer["error"]


def test_a_partial_failure_says_what_was_changed(machine: Make) -> None:
    """When the second card refuses, the error names the first as changed already."""
    node = machine()
    node.state.inject("nvmlDeviceSetPowerManagementLimit", 999, gpu=1)

    status, answer = node.settings()

    assert status == 1
    assert "GPU 1" in answer["error"]
    assert "changed so far: GPU 0" in answer["error"]
    assert _limits(node) == [650.0, 700.0]


def test_a_cap_from_outside_is_noted(machine: Make) -> None:
    """An enforced limit below the requested one is no failure of the settings, and is told."""
    node = machine()
    node.state.set("gpu.1.cap_w", 500)

    status, answer = node.settings()

    assert status == 0
    assert len(answer["notes"]) == 1
    assert "GPU 1" in answer["notes"][0]
    assert "enforces 500 W" in answer["notes"][0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("{}", "lacks 'device_id'"),
        ('{"device_id": "x", "gpu_count": true, "persistence": true, "power_limit_w": null}', "gpu_count must be"),
        ('{"device_id": "x", "gpu_count": 1, "persistence": "yes", "power_limit_w": null}', "persistence must be"),
        ('{"device_id": "x", "gpu_count": 1, "persistence": true, "power_limit_w": "650"}', "power_limit_w must be"),
        ('{"device_id": "x", "gpu_count": 1, "persistence": true, "power_limit_w": 1, "y": 1}', "unknown key 'y'"),
    ],
)
def test_a_wrong_request_is_an_error(machine: Make, text: str, words: str) -> None:
    """A request that is not exactly understood is refused as one JSON object with the sentence."""
    done = machine().run("settings", "--request", "-", stdin=text)

    assert done.returncode == 1
    assert words in json.loads(done.stdout)["error"]


def test_without_nvml_the_error_says_why(machine: Make) -> None:
    """A driver that is not loaded is named with its code."""
    node = machine()
    node.state.set("nvml_init_code", 9)

    status, answer = node.settings()

    assert status == 1
    assert "nvmlInit answered 9 (Driver Not Loaded)" in answer["error"]
