"""Host patterns: whoever is named is judged, or the run says that nobody of that name exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpugate.errors import InventoryError
from gpugate.inventory import resolve
from healthy import VARIABLES


@pytest.fixture
def inventory(tmp_path: Path) -> str:
    """Two hosts in rack1; rack2 and drained are empty."""
    racks = {"rack1": {"hosts": {"gpu0": {}, "gpu1": {}}}, "rack2": {"hosts": {}}, "drained": {"hosts": {}}}
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"vars": VARIABLES, "children": racks}}))
    return str(tmp_path / "hosts.json")


@pytest.mark.parametrize("pattern", ["rack2", "rack1,rack2", "rack1:&rack2"])
def test_empty_group_is_an_error(inventory: str, pattern: str) -> None:
    """A group that was asked for and has no hosts is an error, also beside one that has some."""
    with pytest.raises(InventoryError, match=r"the group rack2 of .* has no hosts"):
        resolve(pattern, inventory)


def test_nobody_to_leave_out_is_no_error(inventory: str) -> None:
    """An empty group may be excluded: nobody is drained today."""
    assert [target.name for target in resolve("rack1:!drained", inventory)] == ["gpu0", "gpu1"]
