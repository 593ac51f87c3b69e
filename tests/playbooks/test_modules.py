"""The modules' documentation, and the pure parts of the Ansible side."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from gpugate.errors import PolicyError
from gpugate.provision import host_policy, probe_file

PROJECT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
IDENTITY = ("machine_id", "boot_id", "hostname", "gpu_uuids")
MODULES = ("gpu_policy", "gpu_probe", "gpu_settings")
POLICY = {
    "gpugate_board": "T4",
    "gpugate_gpu_count": 1,
    "gpugate_driver_allowed": ">=550",
    "gpugate_cuda_versions": ["12.4"],
}


def load(path: Path, name: str) -> ModuleType:
    """A module of Ansible's as Python sees it on a node."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def modules() -> dict[str, Any]:
    """Every module of ours by its name."""
    load(PROJECT / "plugins/module_utils/gpugate_node.py", "ansible.module_utils.gpugate_node")
    return {name: load(PROJECT / f"plugins/modules/{name}.py", f"test_{name}") for name in MODULES}


@pytest.mark.parametrize("name", MODULES)
def test_documented_options_are_the_argument_spec(modules: dict[str, Any], name: str) -> None:
    """Every argument is documented with its own type, default and choices, and nothing else is."""
    documented = yaml.safe_load(modules[name].DOCUMENTATION)["options"]
    keys = ("type", "default", "choices", "required")
    plain = {option: {key: text[key] for key in keys if key in text} for option, text in documented.items()}
    assert plain == modules[name].ARGUMENTS


@pytest.mark.parametrize("name", MODULES)
def test_examples_use_the_module_with_options_that_it_has(modules: dict[str, Any], name: str) -> None:
    """Each example is a task or a play that gives the module known options only."""
    examples = yaml.safe_load(modules[name].EXAMPLES)
    tasks = [task for example in examples for task in example.get("tasks", [example])]
    assert tasks
    for task in tasks:
        assert set(task[name] or {}) <= set(modules[name].ARGUMENTS)


def test_ansible_doc_renders_every_module(tmp_path: Path) -> None:
    """ansible-doc reads the documentation of all modules without a warning, from the project's root and playbooks/."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {"HOME": str(tmp_path)}
    for folder in (PROJECT, PROJECT / "playbooks"):
        command: list[str | Path] = [BIN / "ansible-doc", "--json", *MODULES]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
        assert done.stderr == ""
        told = json.loads(done.stdout)
        assert set(told) == set(MODULES)
        assert all(entry["return"] and entry["examples"] for entry in told.values())
    assert list(tmp_path.iterdir()) == []


def test_both_configurations_say_the_same() -> None:
    """playbooks/ansible.cfg is ansible.cfg with its paths one folder up."""
    root, playbooks = (path.read_text().partition("[defaults]")[2] for path in
                       (PROJECT / "ansible.cfg", PROJECT / "playbooks/ansible.cfg"))  # fmt: skip
    assert playbooks.replace("= ../", "= ") == root


def test_every_inventory_gives_each_host_a_valid_policy(tmp_path: Path) -> None:
    """The shipped inventories load without a warning, and what they say of each host is a policy."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")} | {"HOME": str(tmp_path)}
    for name, hosts in (("simulated", 4), ("local", 1), ("example", 24)):
        command: list[str | Path] = [BIN / "ansible-playbook", "playbooks/policy.yml", "-i", f"inventory/{name}"]
        done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        assert "WARNING" not in done.stdout
        assert done.stdout.count("ok=1 ") == hosts


def test_host_policy_templates_ours_alone() -> None:
    """Only gpugate_ variables are templated, so a secret of another name is not even looked at."""
    seen = []

    def template(value: Any) -> Any:
        seen.append(value)
        return value

    policy = host_policy("gpu0", POLICY | {"ansible_become_password": "secret"}, template)
    assert policy.board == "T4"
    assert "secret" not in seen


def test_host_policy_names_what_is_wrong() -> None:
    """A policy that is not valid is an error with the host and the variable."""
    with pytest.raises(PolicyError, match="gpu0: gpugate_gpu_count: 0 is not between 1 and 64"):
        host_policy("gpu0", POLICY | {"gpugate_gpu_count": 0}, lambda value: value)


def test_the_probe_is_the_same_file_each_time(tmp_path: Path) -> None:
    """Two builds have one digest, which is their sha256."""
    first, second = probe_file(tmp_path / "a"), probe_file(tmp_path / "b")
    assert first[1] == second[1]
    assert first[0].read_bytes() == second[0].read_bytes()


def test_a_probe_that_says_no_json_is_an_error_with_its_words(modules: dict[str, Any], tmp_path: Path) -> None:
    """What an old interpreter or a broken file says instead of an answer reaches the operator."""
    node = sys.modules["ansible.module_utils.gpugate_node"]
    probe = tmp_path / "probe.py"
    probe.write_text("import sys; sys.exit('needs Python 3.9 or newer')")
    with pytest.raises(node.NodeError, match=r"ended with status 1 on `identity` and said: needs Python 3\.9"):
        node.ask(str(probe), "/", None, "identity")
    with pytest.raises(node.NodeError, match=r"there is no probe at .*: run playbooks/provision.yml") as missing:
        node.ask(str(tmp_path / "none"), "/", None, "identity")
    assert missing.value.facts == {"probe_missing": True}


def test_provisioned_by_several_at_once(modules: dict[str, Any], tmp_path: Path) -> None:
    """Runs that meet on one node each end with the whole build in place, and leave nothing half done."""
    src = tmp_path / "probe.py"
    src.write_text(f"print({json.dumps(json.dumps(dict.fromkeys(IDENTITY, 'x')))})")
    digest = hashlib.sha256(src.read_bytes()).hexdigest()
    for turn in range(5):
        root = tmp_path / str(turn)
        with ProcessPoolExecutor(6, multiprocessing.get_context("fork")) as pool:
            done = [pool.submit(_provision, root, src, digest) for _ in range(6)]
        assert [one.result()["digest"] for one in done] == [digest] * 6
        assert {path.name for path in (root / "opt/gpugate/probe").iterdir()} == {"current", digest}


def _provision(root: Path, src: Path, digest: str) -> dict[str, Any]:
    gpu_probe: Any = sys.modules["test_gpu_probe"]
    module = _Module(root, src, digest)
    result: dict[str, Any] = gpu_probe.present(module, gpu_probe.Builds(module))
    return result


class _Module:
    """What the work of gpu_probe needs of an AnsibleModule."""

    check_mode = False

    def __init__(self, root: Path, src: Path, digest: str) -> None:
        self.params = {"root": str(root), "src": str(src), "digest": digest, "keep": 2, "driver_root": None,
                       "build": "this"}  # fmt: skip

    def sha256(self, path: str) -> str:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _build(folder: Path, name: str) -> tuple[Path, str]:
    """A probe that says who it is, and its digest."""
    src = folder / f"{name}.py"
    src.write_text(f"print({json.dumps(json.dumps(dict.fromkeys(IDENTITY, name)))})")
    return src, hashlib.sha256(src.read_bytes()).hexdigest()


def _back(root: Path, this: str, check_mode: bool = False) -> dict[str, Any]:
    gpu_probe: Any = sys.modules["test_gpu_probe"]
    module = _Module(root, root, this)
    module.params["build"] = "previous"
    module.check_mode = check_mode
    result: dict[str, Any] = gpu_probe.present(module, gpu_probe.Builds(module))
    return result


def test_going_back_is_to_the_build_that_was_current_before(modules: dict[str, Any], tmp_path: Path) -> None:
    """Back to the build before this checkout's, once: asked again nothing changes; forward and back work again."""
    (old, a), (new, b) = _build(tmp_path, "old"), _build(tmp_path, "new")
    root, current = tmp_path / "root", tmp_path / "root/opt/gpugate/probe/current"
    for src, digest in ((new, b), (old, a), (new, b)):  # whichever was put there first
        _provision(root, src, digest)
    assert _back(root, b, check_mode=True)["changed"] is True
    assert str(current.readlink()) == b
    for changed in (True, False):
        found = _back(root, b)
        assert (found["changed"], found["digest"], found["identity"]["hostname"]) == (changed, a, "old")
        assert str(current.readlink()) == a
    assert _provision(root, new, b)["changed"] is True
    assert _back(root, b)["digest"] == a


def test_a_node_that_never_had_this_checkouts_build_stays_as_it_is(modules: dict[str, Any], tmp_path: Path) -> None:
    """Of a fleet whose upgrade was stopped half way, the half without the new build has nothing to go back from."""
    builds = [_build(tmp_path, name) for name in ("oldest", "old", "new")]
    for src, digest in builds[:2]:
        _provision(tmp_path / "root", src, digest)
    found = _back(tmp_path / "root", builds[2][1])
    assert (found["changed"], found["digest"]) == (False, builds[1][1])


def test_going_back_where_there_is_nothing_before_is_refused(modules: dict[str, Any], tmp_path: Path) -> None:
    """Without a build before, with a damaged one alone, or from an older checkout: a sentence, and nothing changes."""
    node = sys.modules["ansible.module_utils.gpugate_node"]
    (old, a), (new, b) = _build(tmp_path, "old"), _build(tmp_path, "new")
    root, current = tmp_path / "root", tmp_path / "root/opt/gpugate/probe/current"
    with pytest.raises(node.NodeError, match=r"no previous build .* \(current is None\): run provision\.yml"):
        _back(root, b)
    assert not root.exists()
    _provision(root, old, a)
    with pytest.raises(node.NodeError, match=rf"no previous build .* \(current is {a}\)"):
        _back(root, a)
    _provision(root, new, b)
    with pytest.raises(node.NodeError, match=rf"{b}, was deployed after this checkout's, {a}: go back in the checkout"):
        _back(root, a)
    (current.parent / a / "gpugate-probe.pyz").write_text("damaged")
    with pytest.raises(node.NodeError, match=rf"no previous build .* \(current is {b}\)"):
        _back(root, b)
    assert str(current.readlink()) == b


def test_nobody_else_can_put_a_probe_in_the_builds_place(modules: dict[str, Any], tmp_path: Path) -> None:
    """Whatever the umask, no folder that provisioning makes above a build can be written by others."""
    src = tmp_path / "probe.py"
    src.write_text(f"print({json.dumps(json.dumps(dict.fromkeys(IDENTITY, 'x')))})")
    before = os.umask(0)
    try:
        _provision(tmp_path / "root", src, hashlib.sha256(src.read_bytes()).hexdigest())
    finally:
        os.umask(before)
    opt = tmp_path / "root/opt"
    assert {path.stat().st_mode & 0o777 for path in (opt / "gpugate", *(opt / "gpugate/probe").glob("**"))} == {0o755}


def test_samples_of_burns_go_with_the_probe(modules: dict[str, Any], tmp_path: Path) -> None:
    """What burns left on the node is taken back too, whether the probe is still there or not."""
    samples = tmp_path / "var/lib/gpugate/samples/x.json.gz"
    samples.parent.mkdir(parents=True)
    samples.write_bytes(b"x")
    gpu_probe, module = modules["gpu_probe"], _Module(tmp_path, tmp_path, "")
    assert gpu_probe.absent(module, gpu_probe.Builds(module))["changed"] is True
    assert not samples.parent.parent.exists()
    assert gpu_probe.absent(module, gpu_probe.Builds(module))["changed"] is False


def test_a_node_that_lost_a_gpu_says_how_to_leave_its_cards(modules: dict[str, Any], tmp_path: Path) -> None:
    """Cards that cannot be given back stop the removal, with the file that has to go for it to go on without them."""
    node, settings = sys.modules["ansible.module_utils.gpugate_node"], modules["gpu_settings"]
    restore = tmp_path / "etc/gpugate/restore.json"
    restore.parent.mkdir(parents=True)
    restore.write_text("{}")

    class Lost:
        def plan(self, request: str) -> dict[str, Any]:
            raise node.NodeError("GPU 1: its UUID cannot be read: GPU is lost: nothing was changed")

    module = _Module(tmp_path, tmp_path, "")
    with pytest.raises(node.NodeError, match=rf"GPU is lost.*; .* remove {restore} and run again"):
        settings.absent(module, Lost())
    assert restore.exists()


def test_the_request_that_gives_cards_back(modules: dict[str, Any]) -> None:
    """Default limits; persistence off where no card had it on, untouched where one had; the first answer stays."""
    settings, document = modules["gpu_settings"], '{"device_id": "10de:2330", "gpu_count": 1, "power_limit_w": 650}'
    off, on = ([{"before": {"persistence": mode}}] for mode in (False, True))
    fresh = settings.request_back(document, None, off)
    assert json.loads(fresh)["power_limit_w"] == "default"
    assert json.loads(fresh)["persistence"] is False
    assert json.loads(settings.request_back(document, fresh, on))["persistence"] is False
    assert json.loads(settings.request_back(document, None, on))["persistence"] is None
