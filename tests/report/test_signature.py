"""Signatures: made by a key that is fit for it, checked against those who may sign, and by pytest as people run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
from gpugate.errors import ReportError, SigningError
from gpugate.policy import Policy
from gpugate.report import Signer, Signers, Store, basis_of, usable_signer
from gpugate.report.signed import read_signed
from healthy import policy
from replays import Project, project
from runs import failed, passed, run_of

CHECK = """
def check_it(node, expect):
    for gpu in node.gpus:
        expect("index", gpu.index, at=gpu).at_least(0)
"""


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Keys outside of any project: `good`, `other`, and `locked`, which has a passphrase."""
    folder = tmp_path_factory.mktemp("keys")
    for name, passphrase in (("good", ""), ("other", ""), ("locked", "secret")):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", passphrase, "-f", folder / name], check=True)
    return folder


@pytest.fixture(scope="module")
def agent(keys: Path) -> Iterator[str]:
    """The socket of an agent that has the key `other`."""
    socket = keys / "agent"
    with subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # it listens once it has said where
        add = ["ssh-add", "-q", str(keys / "other")]
        subprocess.run(add, env=os.environ | {"SSH_AUTH_SOCK": str(socket)}, check=True)
        yield str(socket)
        process.terminate()


def public(key: Path) -> str:
    """Its public half, as a signers file has it."""
    return " ".join(key.with_suffix(".pub").read_text().split()[:2])


def signers(folder: Path, *lines: str) -> Signers:
    """A signers file of these lines."""
    (folder / "signers").write_text("\n".join(lines) + "\n")
    return Signers(folder / "signers")


def test_who_signed_is_told(keys: Path, tmp_path: Path) -> None:
    """A signature names its signer and key; comments may hold anything, and of several lines the fitting one counts."""
    known = signers(
        tmp_path, "# *, for nobody", f"ada@site {public(keys / 'other')}", f"eve,bob {public(keys / 'good')}"
    )
    told = known.signer_of(b"all well", Signer(keys / "good").sign(b"all well"))
    assert told.startswith("eve with ED25519 key SHA256:")


def test_other_bytes_have_no_signer(keys: Path, tmp_path: Path) -> None:
    """One byte more, and the signature holds no more."""
    signature = Signer(keys / "good").sign(b"all well")
    with pytest.raises(ReportError, match=r"of ada does not hold: .*incorrect signature"):
        signers(tmp_path, f"ada {public(keys / 'good')}").signer_of(b"all well!", signature)


def test_key_in_an_agent(keys: Path, tmp_path: Path, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A public key is enough where an agent has the private half; without the agent it is refused."""
    (tmp_path / "other.pub").write_text((keys / "other.pub").read_text())
    with pytest.raises(SigningError, match="No private key found"):
        usable_signer(tmp_path / "other.pub", tmp_path / "project")
    monkeypatch.setenv("SSH_AUTH_SOCK", agent)
    signature = usable_signer(tmp_path / "other.pub", tmp_path).sign(b"all well")
    known = signers(tmp_path, f"ada {public(keys / 'other')}")
    assert known.signer_of(b"all well", signature).startswith("ada ")


@pytest.mark.parametrize("kind", ["key", "public half", "link to the key"])
def test_key_in_the_project(keys: Path, tmp_path: Path, kind: str) -> None:
    """A private key in the project is refused, whichever way it is named."""
    for name in ("key", "key.pub"):
        (tmp_path / "project").mkdir(exist_ok=True)
        (tmp_path / "project" / name).write_bytes((keys / name.replace("key", "good")).read_bytes())
        (tmp_path / "project" / name).chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "project/key")
    named = {"key": "project/key", "public half": "project/key.pub", "link to the key": "link"}[kind]
    with pytest.raises(SigningError, match="lies in the project"):
        usable_signer(tmp_path / named, tmp_path / "project")


def test_key_that_others_can_read(keys: Path, tmp_path: Path) -> None:
    """A private key that others can read is refused, before anything is signed with it."""
    (tmp_path / "key").write_bytes((keys / "good").read_bytes())
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(SigningError, match="others can read or change the signing key"):
        usable_signer(tmp_path / "key", tmp_path / "project")


@pytest.mark.parametrize(("name", "reason"), [("nowhere", "No such file"), ("locked", "passphrase"), ("", "directory")])
def test_key_that_cannot_sign(keys: Path, tmp_path: Path, name: str, reason: str) -> None:
    """A key that is missing, locked or no key is refused at the start, and nobody is asked for a passphrase."""
    with pytest.raises(SigningError, match=reason):
        usable_signer(keys / name, tmp_path)


def test_ssh_keygen_that_hangs(keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a deadline, for signing and for checking, and is ended with it."""
    known = replace(signers(tmp_path, f"ada {public(keys / 'good')}"), deadline_s=0.2)
    signature = Signer(keys / "good").sign(b"all well")
    (tmp_path / "ssh-keygen").write_text(f"#!{sys.executable}\nimport time\ntime.sleep(3600)\n")
    (tmp_path / "ssh-keygen").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SigningError, match=r"took longer than 0\.2 s"):
        Signer(keys / "good", deadline_s=0.2).sign(b"all well")
    with pytest.raises(ReportError, match=r"took longer than 0\.2 s"):
        known.signer_of(b"all well", signature)


def test_run_that_cannot_be_signed(keys: Path, tmp_path: Path) -> None:
    """Nothing of it is left, and the run before stays the latest."""
    store = Store(tmp_path)
    good = store.write(run_of(passed("gpu0")), {}, Signer(keys / "good"))
    with pytest.raises(SigningError, match="nowhere"):
        store.write(run_of(passed("gpu0")), {}, Signer(keys / "nowhere"))
    assert list((tmp_path / "runs").iterdir()) == [good]
    assert (tmp_path / "latest").resolve() == good
    assert (good / "run.json.sig").read_text().startswith("-----BEGIN SSH SIGNATURE-----")


def test_signed_run_is_read_back(keys: Path, tmp_path: Path) -> None:
    """A signed run is read with its verdicts and its signer, through the link to the latest."""
    run = run_of(failed("gpu0"), basis=basis_of({"gpu0": only("thermal.headroom")}, "admission", {}))
    Store(tmp_path).write(run, {}, Signer(keys / "good"))
    report = read_signed(tmp_path / "latest/junit.xml", signers(tmp_path, f"ada {public(keys / 'good')}"))
    assert report.signer.startswith("ada with ")
    assert not report.hosts["gpu0"].cells["thermal.headroom"].outcome.green


def only(*checks: str) -> Policy:
    """A policy that expects these checks alone, under the profile admission."""
    return policy(checks=dict.fromkeys(policy().expected("admission"), "absent") | dict.fromkeys(checks, "admit"))


def test_basis_tells_apart_what_was_judged_by() -> None:
    """Another check, another waiver and another file each give another basis; the order of hosts gives none."""
    waiver = {"check": "errors.ecc", "host": "*", "who": "Ada", "why": "x", "ticket": "T", "expires": "2031-01-01"}
    one, two = only("errors.ecc"), only("errors.ecc", "errors.xid")
    plain = basis_of({"gpu0": one, "gpu1": one}, "admission", {"a.py": "1"})
    assert plain == basis_of({"gpu1": one, "gpu0": one}, "admission", {"a.py": "1"})
    assert plain.expected_sha256 != basis_of({"gpu0": one, "gpu1": two}, "admission", {"a.py": "1"}).expected_sha256
    waived = basis_of({"gpu0": one, "gpu1": replace(one, waivers=policy(waivers=[waiver]).waivers)}, "admission", {})
    assert plain.waivers_sha256 != waived.waivers_sha256
    assert plain.checks != waived.checks


@pytest.fixture
def site(tmp_path: Path) -> Project:
    """A project with one check and a conftest.py."""
    (tmp_path / "project").mkdir()
    made = project(tmp_path / "project", CHECK)
    (made.folder / "checks/conftest.py").write_text("")
    return made


def trusted(made: Project, keys: Path) -> Signers:
    """The good key's owner may sign this project's reports."""
    return signers(made.folder.parent, f"controller {public(keys / 'good')}")


@pytest.mark.parametrize("workers", ["", "-n2"])
def test_pytest_signs_what_it_judged_by(site: Project, keys: Path, workers: str) -> None:
    """A run signs report, evidence, and the files that its checks came from, also where xdist's workers judge."""
    done = site.pytest("-o", f"gpugate_signing_key={keys / 'good'}", *filter(None, [workers]))
    assert done.returncode == 0, done.stdout + done.stderr
    report = read_signed(site.folder / "reports/latest/junit.xml", trusted(site, keys))
    assert report.signer.startswith("controller with ")
    basis = json.loads((site.folder / "reports/latest/run.json").read_text())["basis"]
    files = {f"checks/{name}": site.folder / "checks" / name for name in ("mine.py", "conftest.py")}
    assert basis["checks"] == {name: sha256(path.read_bytes()).hexdigest() for name, path in files.items()}


def test_key_of_the_environment_and_of_the_inventory(site: Project, keys: Path, tmp_path: Path) -> None:
    """The inventory names the key, and the environment stands above it."""
    inventory = json.loads((site.folder / "hosts.json").read_text())
    inventory["gpu_fleet"]["vars"]["gpugate_signing_key"] = str(keys / "{{ 'go' ~ 'od' }}")
    (site.folder / "hosts.json").write_text(json.dumps(inventory))
    assert site.pytest().returncode == 0
    assert read_signed(site.folder / "reports/latest/junit.xml", trusted(site, keys)).signer.startswith("controller ")
    environment = site.env | {"GPUGATE_SIGNING_KEY": str(keys / "other")}
    subprocess.run(site.command(), cwd=site.folder, env=environment, capture_output=True, timeout=120, check=True)
    with pytest.raises(ReportError, match="nobody signed it whom"):
        read_signed(site.folder / "reports/latest/junit.xml", trusted(site, keys))


def test_hosts_with_different_keys(tmp_path: Path, keys: Path) -> None:
    """A run has one signature: hosts whose keys differ are refused at the start."""
    (tmp_path / "project").mkdir()
    made = project(tmp_path / "project", CHECK, hosts=("gpu0", "gpu1"))
    inventory = json.loads((made.folder / "hosts.json").read_text())
    inventory["gpu_fleet"]["hosts"]["gpu1"]["gpugate_signing_key"] = str(keys / "good")
    (made.folder / "hosts.json").write_text(json.dumps(inventory))
    done = made.pytest()
    assert done.returncode == 4
    assert "gpugate_signing_key differs from host to host (gpu0: none" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        ("{project}/key", "lies in the project"),
        ("keys/good", "is no absolute path"),
        ("{keys}/nowhere", "No such file"),
    ],
)
def test_key_that_may_not_sign_stops_the_run(site: Project, keys: Path, key: str, reason: str) -> None:
    """It stops before anything is judged, with exit status 4."""
    (site.folder / "key").write_bytes((keys / "good").read_bytes())
    (site.folder / "key").chmod(0o600)
    given = ("-o", f"gpugate_signing_key={key.format(project=site.folder, keys=keys)}")
    done = site.pytest(*given)
    assert done.returncode == 4
    assert reason in done.stdout + done.stderr
    assert not (site.folder / "reports/latest").is_symlink()


def test_collecting_needs_no_key(site: Project, keys: Path) -> None:
    """Who only looks at what would run needs no key, and signs nothing."""
    assert site.pytest("-o", f"gpugate_signing_key={keys / 'lost'}", "--collect-only").returncode == 0
    assert not (site.folder / "reports").exists()


def test_key_that_is_lost_during_the_run(site: Project, keys: Path, tmp_path: Path) -> None:
    """The run is an error and never the latest; what was judged stands in a partial report that nobody signed."""
    key = tmp_path / "fleeting"
    key.write_bytes((keys / "good").read_bytes())
    key.chmod(0o600)
    losing = f"    __import__('pathlib').Path({str(key)!r}).unlink()\n"
    (site.folder / "checks/mine.py").write_text(CHECK + losing)
    done = site.pytest("-o", f"gpugate_signing_key={key}")
    assert done.returncode == 3
    assert "nothing can be signed with" in done.stdout
    assert not (site.folder / "reports/latest").is_symlink()
    report = site.report("partial/latest")
    assert report.scope == "partial"
    assert "it could not be signed" in report.partial_because
    assert site.outcomes("partial/latest") == {"mine.it gpu0": "PASS"}
    assert not list((site.folder / "reports").rglob("run.json.sig"))
