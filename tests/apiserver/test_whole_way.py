"""From a bare node to its Node in Kubernetes and out again, by the commands that a person runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import yaml
from fleets import simulated_fleet
from judged_site import POLICY, Site
from kube_cluster import DEPLOY, Cluster

[NEW] = yaml.safe_load((DEPLOY / "kubelet.conf.d/50-gpugate.conf").read_text())["registerWithTaints"]


@pytest.fixture(scope="module")
def site(kubernetes: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Two nodes of two GPUs that nobody has provisioned yet, and whose Nodes have registered with the taint."""
    folder = tmp_path_factory.mktemp("site")
    with simulated_fleet(folder, nodes=[{"gpus": 2}] * 2, time_scale=6) as fleet:
        variables = fleet.inventory.parent / "group_vars"
        variables.mkdir()
        known = POLICY | {
            "gpugate_checks": POLICY["gpugate_checks"] | {"settings.power_limit": "evict"},  # type: ignore[operator]
            "gpugate_greens_to_return": 1,
            "gpugate_node_name": "kube-{{ inventory_hostname }}",
            "gpugate_admission_backend": "kubernetes",
            "gpugate_admission_kubeconfig": str(kubernetes.gate()),
            "gpugate_admission_cordon": True,
            "gpugate_admission_state": str(folder / "state/admission.json"),
            "gpugate_report": str(folder / "reports/latest/junit.xml"),
        }
        (variables / "gpu_fleet.yml").write_text(yaml.safe_dump(known))
        for host in ("gpu0", "gpu1"):
            kubernetes.register(f"kube-{host}", NEW)
        yield Site(fleet, folder / "reports")


def closed(kubernetes: Cluster) -> dict[str, list[str]]:
    """What keeps pods off each of the two nodes: gpugate's taint by its value, and a cordon."""
    found = {}
    for host in ("gpu0", "gpu1"):
        spec = kubernetes.node(f"kube-{host}")["spec"]
        found[host] = [each["value"] for each in spec.get("taints", []) if each["key"] == "gpugate/unvalidated"]
        found[host] += ["cordon"] * spec.get("unschedulable", False)
    return found


def shown(kubernetes: Cluster, host: str) -> tuple[str, str]:
    """Status and message of gpugate's condition."""
    conditions = kubernetes.node(f"kube-{host}")["status"]["conditions"]
    [ours] = [each for each in conditions if each["type"] == "GpugateHealthy"]
    return ours["status"], ours["message"]


def admit(site: Site, *options: str) -> str:
    """Run admit.yml; what it said."""
    done = site.playbook("admit.yml", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_from_bare_to_service_and_out_again(site: Site, kubernetes: Cluster) -> None:
    """New nodes are provisioned, checked and let in; a fault found by night takes one out with its reason, and repaired
    it comes back, while one that an operator has cordoned stays so. --check changes nothing."""
    done = site.playbook("provision.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    judged = site.pytest()
    assert judged.returncode == 0, judged.stdout
    assert closed(kubernetes) == {"gpu0": ["new"], "gpu1": ["new"]}
    assert "would be admitted" in admit(site, "--check")
    assert closed(kubernetes) == {"gpu0": ["new"], "gpu1": ["new"]}
    assert "admitted" in admit(site)
    assert closed(kubernetes) == {"gpu0": [], "gpu1": []}
    assert shown(kubernetes, "gpu1")[0] == "True"

    kubernetes.cordon("kube-gpu0")
    site.fleet.cli("inject", "gpu1", "power_limit_lost", "--gpu", "1")
    assert site.pytest("--profile=nightly").returncode == 1
    assert "removed: settings.power_limit FAIL" in admit(site)
    assert closed(kubernetes) == {"gpu0": ["cordon"], "gpu1": ["removed", "cordon"]}
    status, message = shown(kubernetes, "gpu1")
    assert (status, "settings.power_limit FAIL" in message, "GPU 1" in message) == ("False", True, True)

    site.fleet.cli("clear", "gpu1")
    assert site.playbook("provision.yml").returncode == 0
    judged = site.pytest()
    assert judged.returncode == 0, judged.stdout
    said = admit(site)
    assert "not gpugate's to let in: cordoned by kubectl-cordon" in said
    assert closed(kubernetes) == {"gpu0": ["cordon"], "gpu1": []}
    assert shown(kubernetes, "gpu0")[0] == "True"
