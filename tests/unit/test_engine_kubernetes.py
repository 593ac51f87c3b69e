"""The Kubernetes recipes: valid by Kubernetes' own schemas, and asking the probe in words that it understands."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from gpugate import zipapp
from gpugate.engine import on_node
from gpugate.probe import cli

DEPLOY = Path(__file__).parents[2] / "deploy/kubernetes"
MANIFESTS = sorted(DEPLOY.glob("*.yml"))
SCRIPT = DEPLOY / "driver_libraries.sh"


def manifest(name: str) -> dict[str, Any]:
    """A manifest as data."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / f"{name}.yml").read_text())
    return found


def containers(name: str) -> dict[str, Any]:
    """All containers of a manifest's pod, by name."""
    pod = manifest(name)["spec"]["template"]["spec"]
    return {one["name"]: one for one in [*pod["initContainers"], *pod["containers"]]}


@pytest.mark.parametrize("version", ["1.25", "1.29", "1.33"])
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: str(path.stem))
def test_manifest_fits_the_schema(path: Path, version: str) -> None:
    """Every manifest is valid, with no member that Kubernetes does not know."""
    for document in yaml.safe_load_all(path.read_text()):
        kubernetes_validate.validate(document, version, strict=True)


def test_misspelt_member_would_be_found() -> None:
    """The schemas here are strict: a misspelt member is an error."""
    broken = manifest("daemonset")
    broken["spec"]["template"]["spec"]["hostPid"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.29", strict=True)


@pytest.mark.parametrize("name", ["daemonset", "job"])
def test_pod_asks_the_probe_as_its_parser_reads_it(name: str) -> None:
    """The pod runs on_node.py with its node's request, and with the one command, which the probe's parser takes."""
    container = containers(name)["probe"]
    python, isolated, program, request, *command = container["command"]
    assert (python, isolated, Path(program).name) == ("python3", "-I", Path(on_node.__file__).name)
    assert request == "/requests/$(NODE_NAME).json"
    assert {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}} in container["env"]
    assert command[:3] == ["python3", "-I", "/opt/gpugate/gpugate-probe.pyz"]
    options = cli._parser().parse_args(command[3:])
    assert (options.run, options.request) == (cli._collect, "-")
    assert (str(options.rootfs), str(options.driver_root)) == ("/host", "/driver")
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert set(mounts) == {"/host", "/host/var/lib/gpugate", "/driver", "/requests"}
    assert [path for path, mount in mounts.items() if not mount.get("readOnly")] == ["/host/var/lib/gpugate"]


def test_both_ways_run_the_same() -> None:
    """A Job's pod and a DaemonSet's differ in how often they run, and in nothing that they do."""
    for name in ("driver", "probe"):
        assert containers("job")[name] == containers("daemonset")[name]
    pods = [manifest(name)["spec"]["template"]["spec"] for name in ("job", "daemonset")]
    same = ("hostPID", "tolerations", "nodeSelector", "volumes", "automountServiceAccountToken", "enableServiceLinks")
    assert [pods[0][key] for key in same] == [pods[1][key] for key in same]


def test_only_the_probe_is_privileged() -> None:
    """Nothing else in these pods has a privilege, and the pods get no account of the cluster."""
    for name in ("daemonset", "job"):
        privileged = [key for key, one in containers(name).items() if one["securityContext"].get("privileged")]
        assert privileged == ["probe"]
        others = [one["securityContext"] for key, one in containers(name).items() if key != "probe"]
        assert all(one["runAsNonRoot"] and one["capabilities"] == {"drop": ["ALL"]} for one in others)
        assert manifest(name)["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_image_holds_what_the_pods_run(tmp_path: Path) -> None:
    """Every file that a container runs is one that the recipe copies, from a Python without a registry's name."""
    recipe = (DEPLOY / "Dockerfile").read_text().splitlines()
    (base,) = [line.split()[1] for line in recipe if line.startswith("FROM ")]
    assert "/" not in base
    (copied,) = [line.split()[1:-1] for line in recipe if line.startswith("COPY ")]
    run = {Path(word).name for one in containers("daemonset").values() for word in one["command"] if "/opt/" in word}
    assert set(copied) == run
    zipapp.build(tmp_path / "gpugate-probe.pyz")
    sources = {"gpugate-probe.pyz": tmp_path, "on_node.py": Path(on_node.__file__).parent, SCRIPT.name: DEPLOY}
    assert all((sources[name] / name).is_file() for name in copied)


def links(host: Path, into: Path) -> tuple[dict[str, str], str]:
    """What the script links, and what it says."""
    done = subprocess.run(["sh", SCRIPT, host, into], capture_output=True, text=True, timeout=60, check=True)
    return {path.name: str(path.readlink()) for path in (into / "usr/lib64").iterdir()}, done.stdout + done.stderr


def driver(root: Path, folder: str) -> Path:
    """A root with a driver's libraries and a libc."""
    place = root / folder
    place.mkdir(parents=True)
    for name in ("libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1", "libc.so.6", "libm.so.6"):
        (place / name).touch()
    return place


def test_driver_of_the_host_is_found(tmp_path: Path) -> None:
    """The driver's libraries on the host are linked, and its libc is not."""
    place = driver(tmp_path / "host", "usr/lib64")
    found, said = links(tmp_path / "host", tmp_path / "driver")
    assert set(found) == {"libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-ptxjitcompiler.so.1"}
    assert set(found.values()) == {str(place / name) for name in found}
    assert said == f"the driver is below {tmp_path}/host\n"


def test_driver_in_a_container_comes_first(tmp_path: Path) -> None:
    """Where the GPU Operator runs the driver in a container, that one is taken, whatever lies on the host."""
    driver(tmp_path / "host", "usr/lib64")
    inside = driver(tmp_path / "host/run/nvidia/driver", "usr/lib/x86_64-linux-gnu")
    found, _ = links(tmp_path / "host", tmp_path / "driver")
    assert found["libnvidia-ml.so.1"] == str(inside / "libnvidia-ml.so.1")


def test_node_without_a_driver_is_left_to_the_probe(tmp_path: Path) -> None:
    """Where there is no driver the pod goes on: what the loader does not find is the probe's to say."""
    (tmp_path / "host").mkdir()
    found, said = links(tmp_path / "host", tmp_path / "driver")
    assert found == {}
    assert "holds libnvidia-ml.so.1" in said
