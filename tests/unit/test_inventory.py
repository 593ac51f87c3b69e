"""Host patterns: whoever is named is judged, or the run says that nobody of that name exists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpugate.errors import InventoryError
from gpugate.evidence.codec import RECEIPTS
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


def test_state_file_is_absolute(inventory: str) -> None:
    """gpugate_state_file names one file wherever pytest was started; a relative path is an error."""
    document = json.loads(Path(inventory).read_text())
    for value, known in (("/srv/gpugate/state.sqlite", Path("/srv/gpugate/state.sqlite")), ("state.sqlite", None)):
        document["all"]["vars"]["gpugate_state_file"] = value
        Path(inventory).write_text(json.dumps(document))
        if known is not None:
            assert {target.state_file for target in resolve("rack1", inventory)} == {known}
        else:
            with pytest.raises(InventoryError, match=r"gpugate_state_file: 'state\.sqlite' is no absolute path"):
                resolve("rack1", inventory)


def test_host_called_as_the_receipts_are(inventory: str) -> None:
    """A host whose document would lie where the receipts of all do is refused by its name; the others are not."""
    document = json.loads(Path(inventory).read_text())
    document["all"]["children"]["rack1"]["hosts"][RECEIPTS] = {}
    Path(inventory).write_text(json.dumps(document))
    with pytest.raises(InventoryError, match=r"no host can be called gathered, .* another name in the inventory"):
        resolve("rack1", inventory)
    assert [target.name for target in resolve("gpu0", inventory)] == ["gpu0"]
