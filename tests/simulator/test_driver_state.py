"""The state file: keys, their checks, named faults, and taking them back."""

from __future__ import annotations

from pathlib import Path

import pytest
from driver_node import MakeNode
from gpusim.errors import GpusimError
from gpusim.faults import FAULTS
from gpusim.state import NodeState, create_node_state


@pytest.fixture
def state(tmp_path: Path) -> NodeState:
    """A node of four GPUs; no driver is needed to read and change its state."""
    return create_node_state(tmp_path / "gpusim.state", "node", "H100-SXM5-80GB", 4, "580")


def test_keys_name_one_gpu_or_all(state: NodeState) -> None:
    """`gpu.2.x` sets one, `gpu.*.x` all, `nvlink_state.5` one element; text of the value is as good as the value."""
    state.set("gpu.2.cap_w", "350")
    assert state.get("gpu.*.cap_w") == [0, 0, 350, 0]
    state.set("gpu.*.persistence", "off")
    assert state.get("gpu.*.persistence") == [False] * 4
    state.set("gpu.1.nvlink_state.5", 2)
    assert state.get("gpu.1.nvlink_state.*") == [1] * 5 + [2] + [1] * 12
    state.set("gpu.0.compute_mode", "prohibited")
    assert state.show()["gpu"][0]["compute_mode"] == "prohibited"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("time_scal", 2, "allowed: time_scale"),
        ("gpu.0.thermal_resistence", 0.1, "allowed: thermal_resistance"),
        ("gpu.4.cap_w", 100, "allowed: 0 to 3, or *"),
        ("gpu.0.cap_w", 9999, "a number from 0 to 2000"),
        ("gpu.0.cap_w", "nan", "a number from 0 to 2000"),
        ("gpu.0.persistence", "maybe", "true or false"),
        ("gpu.0.compute_mode", "shared", "one of default"),
        ("gpu.0.nvlink_state", 0, "write it as 'gpu.0.nvlink_state.0'"),
        ("gpu.0.nvlink_state.18", 0, "allowed: 0 to 17"),
        ("gpu.0.temperature_c", 99, "cannot be set"),
        ("gpu.0.pcie_gen_slot", 2.5, "a whole number from 1 to 6"),
        ("gpu.0.name", "x" * 200, "1 to 95 printable"),
        ("mutex", 0, "unknown key"),
    ],
)
def test_wrong_keys_and_values_say_what_is_allowed(state: NodeState, key: str, value: object, words: str) -> None:
    """The error names what was wrong and what would be right, the closest first; nothing changes."""
    before = state.show()
    with pytest.raises(GpusimError) as caught:
        state.set(key, value)
    assert words in str(caught.value)
    assert state.show() == before


def test_a_wrong_fault_or_rule_is_refused(state: NodeState) -> None:
    """Names of faults and functions, codes and GPUs are checked."""
    with pytest.raises(GpusimError, match="allowed: gpu_lost"):
        state.apply("gpu_los")
    with pytest.raises(GpusimError, match="not the name of"):
        state.inject("printf", 3)
    with pytest.raises(GpusimError, match="does nothing"):
        state.inject("nvmlInit_v2", 0)
    with pytest.raises(GpusimError, match="GPU 9 does not exist"):
        state.inject("nvmlDeviceGetName", 3, gpu=9)
    with pytest.raises(GpusimError, match="allowed: compute, graphics, mps"):
        state.add_process(0, 5, 100, "copy")
    assert state.show()["rules"] == []


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_changes_its_gpu_only_and_is_taken_back(state: NodeState, name: str) -> None:
    """A fault leaves a trace on the GPU it was given or on the node, none on another GPU; `clear` removes it all."""
    state.set("gpu.2.power_limit_w", 500)
    before = state.show()
    state.apply(name, gpu=2)
    after = state.show()
    assert after != before
    assert [after["gpu"][i] for i in (0, 1, 3)] == [before["gpu"][i] for i in (0, 1, 3)]
    state.clear()
    state.set("gpu.2.power_limit_w", 500)
    cleared = state.show()
    for clock in ("anchor_wall_s", "anchor_sim_s"):
        before.pop(clock), cleared.pop(clock)
    assert cleared == before


def test_a_reboot_forgets_settings_and_keeps_damage(state: NodeState) -> None:
    """Limit and persistence are lost, pending modes become current; a failed remap stays."""
    state.set("gpu.0.power_limit_w", 400)
    state.apply("remap_failed", gpu=0)
    state.apply("ecc_pending", gpu=0)
    state.apply("ecc_uncorrectable", gpu=0)
    state.reboot()
    gpu = state.show()["gpu"][0]
    assert (gpu["power_limit_w"], gpu["persistence"], gpu["ecc_current"]) == (700, False, False)
    assert (gpu["ecc_uncorrected_volatile"], gpu["ecc_uncorrected_aggregate"], gpu["remap_failed"]) == (0, 1, True)


def test_a_foreign_file_is_no_state(tmp_path: Path, make_node: MakeNode) -> None:
    """A file of another size or version is refused by Python and by the driver (999), with the way out."""
    path = tmp_path / "gpusim.state"
    path.write_bytes(b"something else")
    with pytest.raises(GpusimError, match="create the node again"):
        NodeState.open(path)
    with pytest.raises(GpusimError, match="no node state at"):
        NodeState.open(tmp_path / "absent")
    node = make_node()
    (node.libdir / "gpusim.state").write_bytes(b"something else")
    done = node.python("import pynvml; pynvml.nvmlInit()")
    assert "Unknown Error" in done.stderr
    assert "create the node again" in done.stderr
