"""Ways to get a node through the gate that should not get through, each refused for its own reason.

Every way starts from an honest report, written by our own writer, by which gpu0 and gpu1 are admitted and gpu2 is
removed, and changes one thing. The gate is the action plugin that playbooks/admit.yml runs. Some sites ask for
signatures and some do not: without them, whoever can write the report can write a consistent one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path

import pytest
from ansible.errors import AnsibleActionFail
from gpugate.report import Run, Signer
from gpugate.report.reader import MAX_BYTES
from gpugate.verdict import Verdict
from judged import HOSTS, Site, public, site_in
from runs import failed, passed, waived

HEAD = "<?xml version='1.0' encoding='utf-8'?>\n"
HOT = replace(failed("gpu0"), level="evict")


@dataclass(frozen=True)
class Way:
    """One way: what the attacker does after `prepare`, whether the site asks for signatures, and why it fails."""

    attack: Callable[[Site], object]
    reason: str
    signed: bool
    prepare: Callable[[Site], object]


WAYS: dict[str, Way] = {}


def way(
    reason: str, *, signed: bool = False, prepare: Callable[[Site], object] = lambda site: None
) -> Callable[[Callable[[Site], object]], None]:
    """Enter an attack in the table, under its own name."""

    def enter(attack: Callable[[Site], object]) -> None:
        WAYS[attack.__name__] = Way(attack, reason, signed, prepare)

    return enter


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two keys, of which sites trust `good`."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("good", "other"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    return folder


@pytest.mark.parametrize("name", WAYS)
def test_false_green(name: str, tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the attack gpu0 is admitted; with it gpu0 is refused, for that attack's own reason, and where the report
    itself is refused, nobody is admitted or removed."""
    known = WAYS[name]
    key = keys / "good" if known.signed else None
    honest, attacked = site_in(tmp_path / "honest", key), site_in(tmp_path / "attacked", key)
    for site in (honest, attacked):
        known.prepare(site)
    honest.gate()
    assert "gpu0" in honest.in_service
    assert "gpu2" not in honest.in_service

    known.attack(attacked)
    before = attacked.in_service
    for variable, value in attacked.environment.items():
        monkeypatch.setenv(variable, value)
    try:
        decision = attacked.gate()["decisions"]["gpu0"]
    except AnsibleActionFail as error:
        said = error.message
        assert attacked.in_service == before
    else:
        assert decision["action"] == "stay_out"
        said = "\n".join(decision["reasons"])
    assert re.search(known.reason, said), said
    assert "gpu0" not in attacked.in_service


def test_there_are_enough_ways() -> None:
    """The table has what it promises: far more than 25 ways, with signatures and without."""
    assert len(WAYS) >= 60
    assert min(sum(way.signed for way in WAYS.values()), sum(not way.signed for way in WAYS.values())) >= 25


def changed(host: str, change: Callable[[dict[str, str], list[Verdict]], object]) -> Callable[[Run], Run]:
    """A run whose writer lies about one host's identity or verdicts."""

    def spoil(run: Run) -> Run:
        hosts = []
        for each in run.hosts:
            identity, verdicts = dict(each.identity), list(each.verdicts)
            if each.host == host:
                change(identity, verdicts)
            hosts.append(replace(each, identity=identity, verdicts=verdicts))
        return replace(run, hosts=hosts)

    return spoil


# The report's text, where nobody signed it


def _failure(site: Site) -> str:
    text = site.case("gpu0", "headroom")
    return text[text.index("<failure") : text.index("</failure>") + len("</failure>")]


@way("says that it has 1 failures, and has 0")
def failure_edited_out(site: Site) -> None:
    site.write(HOT)
    site.edit((_failure(site), ""))


@way("says that it has 2 failures, and has 1")
def failure_edited_out_and_the_hosts_count_too(site: Site) -> None:
    site.write(HOT)
    suite = site.suite("gpu0")
    site.edit((suite, suite.replace(_failure(site), "").replace('failures="1"', 'failures="0"')))


@way("has no place in <system-out>")
def failure_hidden_in_system_out(site: Site) -> None:
    site.write(HOT)
    failure = _failure(site)
    site.edit((failure, ""), ("</system-out>", f"{failure}</system-out>"))


@way("a failure of the type 'PASS' is unknown")
def failure_of_the_type_pass(site: Site) -> None:
    site.write(HOT)
    site.edit((_failure(site), _failure(site).replace('type="FAIL"', 'type="PASS"')))


@way("contradicts itself: failure and skipped")
def failure_beside_a_waiver(site: Site) -> None:
    site.write(HOT)
    site.edit((_failure(site), _failure(site) + '<skipped type="WAIVED" message="let it be" />'))


@way("a skipped of the type 'pytest.skip' is unknown")
def failure_turned_into_a_skip(site: Site) -> None:
    site.write(HOT)
    site.edit((_failure(site), '<skipped type="pytest.skip" message="not today" />'))


@way("no place in <testcase>")
def failure_turned_into_a_flaky_one(site: Site) -> None:
    site.write(HOT)
    site.edit((_failure(site), _failure(site).replace("failure", "flakyFailure")))


@way("says that it has 1 failures, and has 0")
def failure_in_a_comment(site: Site) -> None:
    site.write(HOT)
    site.edit((_failure(site), f"<!-- {_failure(site)} -->"))


@way("another machine")
def hosts_swapped(site: Site) -> None:
    site.write(HOT)
    text = site.junit.read_text()
    site.junit.write_text(text.replace("gpu0", "gpu#").replace("gpu1", "gpu0").replace("gpu#", "gpu1"))


@way("thermal.headroom MISSING: policy expects it")
def check_left_out(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda _, verdicts: verdicts.remove(passed("gpu0"))))


@way("the report does not have this host")
def host_left_out(site: Site) -> None:
    site.write(spoil=lambda run: replace(run, hosts=run.hosts[1:]))


def _one_case_more(site: Site, case: str) -> None:
    """Put a case at the end of gpu0's suite, and count it."""
    suite = site.suite("gpu0")
    more = suite.replace("</testsuite>", f"{case}</testsuite>").replace('tests="4"', 'tests="5"')
    site.edit((suite, more), ('tests="12"', 'tests="13"'))


@way("errors.ecc is there twice")
def case_twice(site: Site) -> None:
    _one_case_more(site, site.case("gpu0", "ecc"))


@way("errors.ecc is there twice")
def red_case_and_a_green_one_after_it(site: Site) -> None:
    site.write(failed("gpu0", "errors.ecc"))
    _one_case_more(site, re.sub("<failure.*</failure>", "", site.case("gpu0", "ecc"), flags=re.DOTALL))


@way("gpu0 has two suites")
def host_twice(site: Site) -> None:
    site.edit((site.suite("gpu0"), site.suite("gpu0") * 2), ('tests="12"', 'tests="16"'))


@way("not named as a check of this host")
def cell_of_another_host(site: Site) -> None:
    site.edit(('name="headroom[gpu0]"', 'name="headroom[gpu1]"'))


@way("a suite has the name 'gpu1' and the host 'gpu0'")
def suite_with_two_names(site: Site) -> None:
    suite = site.suite("gpu0")
    site.edit((suite, suite.replace(' name="gpu0"', ' name="gpu1"', 1)))


@way("gpu0 has no case")
def empty_suite(site: Site) -> None:
    suite = site.suite("gpu0")
    bare = suite[: suite.index("<testcase")] + "</testsuite>\n"
    site.edit((suite, bare.replace('tests="4"', 'tests="0"')), ('tests="12"', 'tests="8"'))


@way("it holds no host")
def report_without_suites(site: Site) -> None:
    site.junit.write_text(HEAD + '<testsuites name="gpugate" tests="0" failures="0" errors="0" time="0.000"/>')


@way("has the attributes")
def report_of_another_tool(site: Site) -> None:
    case = '<testcase classname="checks.thermal" name="headroom[gpu0]" time="0.1"/>'
    site.junit.write_text(f'<testsuites name="pytest tests"><testsuite name="pytest">{case}</testsuite></testsuites>')


@way("not whole, well-formed XML")
def empty_file(site: Site) -> None:
    site.junit.write_bytes(b"")


@way("not whole, well-formed XML")
def truncated_file(site: Site) -> None:
    site.junit.write_bytes(site.junit.read_bytes()[:-200])


@way("not whole, well-formed XML")
def two_reports_in_one_file(site: Site) -> None:
    green = site.junit.read_text()
    site.write(HOT)
    site.junit.write_text(site.junit.read_text() + green.removeprefix(HEAD))


@way("larger than")
def huge_file(site: Site) -> None:
    os.truncate(site.junit, MAX_BYTES + 1)


@way("declares a document type or entities")
def entity_bomb(site: Site) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;">]>'
    site.edit((HEAD, HEAD + bomb), ("PASS,", "&c;"))


@way("declares a document type or entities")
def external_entity(site: Site) -> None:
    site.edit((HEAD, HEAD + '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>'), ("PASS,", "&a;"))


@way("its encoding cannot be read")
def encoding_that_hides_markup(site: Site) -> None:
    site.write(HOT)
    hidden = _failure(site).replace("<", "+ADw-").replace(">", "+AD4-")
    site.edit((_failure(site), hidden), ("'utf-8'", "'utf-7'"))


@way("each of them once")
def property_twice(site: Site) -> None:
    site.edit(("</properties>", '<property name="profile" value="admission" /></properties>'))


@way("is of another run than the suites before it")
def suite_of_another_run(site: Site) -> None:
    green = site.suite("gpu0")
    site.write(HOT)
    site.edit((site.suite("gpu0"), green), ('failures="2"', 'failures="1"'))


@way("its schema is '2'")
def report_of_another_schema(site: Site) -> None:
    site.edit(('name="schema" value="1"', 'name="schema" value="2"'), times=3)


@way("is not a file")
def pipe(site: Site) -> None:
    site.junit.unlink()
    os.mkfifo(site.junit)


@way("no report can be read at")
def no_report(site: Site) -> None:
    site.junit.unlink()


@way("reached by a link")
def link_to_another_report(site: Site) -> None:
    green = site.junit
    site.write(HOT)
    site.junit.unlink()
    site.junit.symlink_to(green)


# Reports that are whole, and not about this node as it is


@way("the report is 25.* h old")
def old_report(site: Site) -> None:
    site.write(age_s=25 * 3600)


@way("the measurement is 25.* h old")
def old_evidence_judged_again(site: Site) -> None:
    site.write(measured_s=25 * 3600)


@way("the report is .* s in the future")
def report_of_the_future(site: Site) -> None:
    site.write(age_s=-3600)


@way("does not say when the node was measured")
def measurement_without_a_time(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda identity, _: identity.pop("measured_unix_s")))


@way("gives 'nan, honestly' as the time of the measurement")
def measurement_at_no_time(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda identity, _: identity.update(measured_unix_s="nan, honestly")))


@way("the measurement is nan")
def measurement_at_nan(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda identity, _: identity.update(measured_unix_s="nan")))


@way("has been rebooted since the report")
def other_boot(site: Site) -> None:
    site.identities["gpu0"]["boot_id"] = "another"


@way("about another machine")
def other_machine(site: Site) -> None:
    site.identities["gpu0"]["machine_id"] = "another"


@way("has other GPUs than in the report")
def other_gpus(site: Site) -> None:
    site.identities["gpu0"]["gpu_uuids"] = ["GPU-another"]


@way("not known of the node as it is now: which GPUs it has: its GPUs: the driver is gone")
def gpus_that_nobody_can_list(site: Site) -> None:
    site.identities["gpu0"]["gpu_uuids"] = {"unavailable": "the driver is gone"}


@way("not known of the node as it was measured: which boot")
def boot_left_out(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda identity, _: identity.pop("boot_id")))


@way("gpu1 has the same GPUs")
def one_machine_under_two_names(site: Site) -> None:
    site.identities["gpu1"]["gpu_uuids"] = site.identities["gpu0"]["gpu_uuids"]


@way("made by another policy")
def policy_made_stricter_since(site: Site) -> None:
    site.variables["gpugate_headroom_c"] = 15.0


@way("made by another policy")
def policy_left_out(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda identity, _: identity.pop("policy_digest")))


@way("policy has no live waiver")
def waived_by_nobody(site: Site) -> None:
    site.write(waived("gpu0"))


def _waived_until(day: date) -> Callable[[Site], object]:
    def waive(site: Site) -> None:
        waiver = {"check": "thermal.headroom", "host": "gpu0", "who": "Ada", "why": "fan", "ticket": "OPS-1"}
        site.variables["gpugate_waivers"] = [waiver | {"expires": day.isoformat()}]
        site.write(waived("gpu0"))

    return waive


@way("policy has no live waiver", prepare=_waived_until(date.today() + timedelta(days=2)))
def waiver_that_has_ended(site: Site) -> None:
    _waived_until(date.today() - timedelta(days=2))(site)


@way("only admission lets a node in")
def nightly_report(site: Site) -> None:
    site.write(profile="nightly")


@way(r"the report is partial \(-k headroom selected less\)")
def partial_run(site: Site) -> None:
    site.write(scope="partial", partial_because="-k headroom selected less")
    site.options["report"] = str(site.folder / "reports/partial/latest/junit.xml")


@way("the run judged no host")
def run_of_nobody(site: Site) -> None:
    site.write(scope="partial", partial_because="no such group", hosts=[])
    site.options["report"] = str(site.folder / "reports/partial/latest/junit.xml")


# What went before


def _by_its_own_name(site: Site) -> None:
    site.options["report"] = str(site.junit)


def _newer_red(site: Site) -> None:
    """The gate has seen a newer red report when it is given the older green one."""
    older = site.options["report"]
    site.options["report"] = str(site.write(HOT, age_s=90) / "junit.xml")
    site.gate()
    site.options["report"] = older


@way("decided on by a newer report already", prepare=_by_its_own_name)
def older_green_after_a_newer_red(site: Site) -> None:
    _newer_red(site)


def _removed_and_green_once(site: Site) -> None:
    known = json.loads(site.state.read_text())
    known["hosts"]["gpu0"] = known["hosts"]["gpu2"] | {"in_service": False}
    site.state.write_text(json.dumps(known))
    _by_its_own_name(site)
    site.gate()
    site.options["report"] = str(site.write(age_s=90) / "junit.xml")


@way("knows of no node, and its audit", prepare=_removed_and_green_once)
def state_store_lost(site: Site) -> None:
    for file in site.state.parent.glob("gpugate.sqlite*"):
        file.unlink()


@way("1 green reports in a row since it was removed; it needs 2", prepare=_removed_and_green_once)
def one_green_told_twice(site: Site) -> None:
    first = min((site.folder / "reports/runs").iterdir())
    site.options["report"] = str(first / "junit.xml")


@way("state store", prepare=_removed_and_green_once)
def state_store_corrupt(site: Site) -> None:
    store = site.state.with_name("gpugate.sqlite")
    for beside in site.state.parent.glob("gpugate.sqlite-*"):
        beside.unlink()
    store.write_bytes(b"scribble" * 512)


@way("the clock says", prepare=_removed_and_green_once)
def clock_set_back(site: Site) -> None:
    with sqlite3.connect(site.state.with_name("gpugate.sqlite")) as db:
        db.execute("UPDATE gate_nodes SET decided_unix_s = decided_unix_s + 7200")


@way("the state file .* is not valid")
def state_file_corrupt(site: Site) -> None:
    site.state.write_text(site.state.read_text()[:-3])


@way("the state file .* is gone")
def state_file_lost(site: Site) -> None:
    site.state.unlink()
    site.state.with_name("admission.audit.jsonl").touch()


# Where the site asks for signatures


@way("it is not the report that was signed", signed=True)
def failure_edited_out_with_every_count(site: Site) -> None:
    site.write(HOT)
    suite = site.suite("gpu0")
    green = suite.replace(_failure(site), "").replace('failures="1"', 'failures="0"')
    site.edit((suite, green), ('failures="2"', 'failures="1"'))


@way("it is not the report that was signed", signed=True)
def one_space_more(site: Site) -> None:
    site.junit.write_text(site.junit.read_text() + " ")


@way("it is not the report that was signed", signed=True)
def report_of_another_run(site: Site) -> None:
    green = site.junit.read_bytes()
    site.write(HOT, age_s=90)
    site.junit.write_bytes(green)


@way("incorrect signature", signed=True)
def digest_edited_as_well(site: Site) -> None:
    site.edit(('"profile": "admission"', '"profile": "nightly"'), path=site.run / "run.json")


@way("it is not signed", signed=True)
def unsigned(site: Site) -> None:
    (site.run / "run.json.sig").unlink()


@way("nobody signed it whom", signed=True)
def wrong_key(site: Site) -> None:
    assert site.key is not None
    site.signed_by = site.key.with_name("other")
    site.write()


@way("incorrect signature", signed=True)
def signature_of_another_run(site: Site) -> None:
    before = site.run
    site.write(HOT, age_s=90)
    shutil.copy(before / "run.json.sig", site.run)


@way("it is not the report that was signed", signed=True)
def manifest_and_signature_of_another_run(site: Site) -> None:
    before = site.run
    site.write(HOT, age_s=90)
    for name in ("run.json", "run.json.sig"):
        shutil.copy(before / name, site.run)


@way("namespace does not match", signed=True)
def signature_made_for_something_else(site: Site) -> None:
    assert site.key is not None
    (site.run / "run.json.sig").write_bytes(Signer(site.key).sign((site.run / "run.json").read_bytes(), "file"))


@way("nobody signed it whom .*: .*signature", signed=True)
def signature_that_is_none(site: Site) -> None:
    (site.run / "run.json.sig").write_text("signed by me\n")


def _signers(line: str) -> Callable[[Site], object]:
    """The signers file with one line, in which KEY is the good key."""

    def write(site: Site) -> None:
        assert site.key is not None
        site.signers.write_text(line.replace("KEY", public(site.key)) + "\n")

    return write


def _other_signs(site: Site) -> None:
    """Signed by the other key; the signers file has it too, as an honest site would say it."""
    assert site.key is not None
    site.signed_by = site.key.with_name("other")
    site.write()
    site.signers.write_text(f"controller@site {public(site.key)}\nsecond@site {public(site.signed_by)}\n")


@way(r"line 2, has a \*", signed=True, prepare=_other_signs)
def signers_file_with_a_star(site: Site) -> None:
    site.edit(("second@site", "*"), path=site.signers)


@way(r"line 2, has a \?", signed=True, prepare=_other_signs)
def signers_file_with_a_question_mark(site: Site) -> None:
    site.edit(("second@site", "second@sit?"), path=site.signers)


@way("line 2, has a !", signed=True, prepare=_other_signs)
def signers_file_with_an_exception(site: Site) -> None:
    site.edit(("second@site", "second@site,!third@site"), path=site.signers)


@way(r"line 2, has a \*", signed=True, prepare=_other_signs)
def signers_file_with_a_quoted_star(site: Site) -> None:
    site.edit(("second@site", '"second @site,*"'), path=site.signers)


@way("is a certificate authority", signed=True)
def signers_file_with_an_authority(site: Site) -> None:
    _signers("controller@site cert-authority KEY\ncontroller@site KEY")(site)


@way("key has expired", signed=True)
def key_that_has_expired(site: Site) -> None:
    _signers('controller@site valid-before="20200101" KEY')(site)


@way("key is not yet valid", signed=True)
def key_that_is_not_yet_valid(site: Site) -> None:
    _signers('controller@site valid-after="20990101" KEY')(site)


@way("not permitted for use in signature namespace", signed=True)
def key_for_something_else(site: Site) -> None:
    _signers('controller@site namespaces="git" KEY')(site)


def _revoked(name: str) -> Callable[[Site], object]:
    def write(site: Site) -> None:
        assert site.key is not None
        site.options["revoked_signers"] = str(site.folder / "revoked")
        (site.folder / "revoked").write_text(public(site.key.with_name(name)) + "\n")

    return write


@way("or its key stands in .*/revoked", signed=True, prepare=_revoked("other"))
def key_that_is_revoked(site: Site) -> None:
    _revoked("good")(site)


@way("revoked, which says whose signatures count, cannot be read: No such file", signed=True, prepare=_revoked("other"))
def revoked_keys_gone(site: Site) -> None:
    (site.folder / "revoked").unlink()


@way("others may change .*/allowed_signers", signed=True)
def signers_file_that_others_may_write(site: Site) -> None:
    site.signers.chmod(0o666)


@way("others may change .*/attacked,", signed=True)
def signers_file_in_a_folder_that_others_may_write(site: Site) -> None:
    site.folder.chmod(0o777)


@way("allowed_signers, which says whose signatures count, cannot be read: No such file", signed=True)
def signers_file_gone(site: Site) -> None:
    site.signers.unlink()


@way("nobody signed it whom", signed=True)
def signers_file_empty(site: Site) -> None:
    site.signers.write_text("")


@way("gpugate_allowed_signers is empty", signed=True)
def signers_file_named_with_nothing(site: Site) -> None:
    site.options["allowed_signers"] = ""
    (site.run / "run.json.sig").unlink()


@way("gpugate_allowed_signers is empty", signed=True)
def signers_file_named_with_null(site: Site) -> None:
    site.options["allowed_signers"] = None
    (site.run / "run.json.sig").unlink()


def _said_by_inventory(site: Site) -> None:
    site.variables["gpugate_allowed_signers"] = str(site.signers)


@way("gpugate_allowed_signers is .* for some hosts, and nothing for this task", signed=True, prepare=_said_by_inventory)
def playbook_that_does_not_ask(site: Site) -> None:
    del site.options["allowed_signers"]
    (site.run / "run.json.sig").unlink()


@way("ssh-keygen, of OpenSSH, cannot be run", signed=True)
def ssh_keygen_missing(site: Site) -> None:
    site.environment["PATH"] = str(site.folder / "nothing here")


@way("nobody signed it whom", signed=True)
def ssh_keygen_that_only_exits_0(site: Site) -> None:
    (site.folder / "bin").mkdir()
    (site.folder / "bin/ssh-keygen").write_text(f"#!{sys.executable}\n")
    (site.folder / "bin/ssh-keygen").chmod(0o755)
    site.environment["PATH"] = str(site.folder / "bin")


@way("reached by a link", signed=True)
def link_instead_of_the_signed_report(site: Site) -> None:
    moved = site.folder / "elsewhere.xml"
    site.junit.rename(moved)
    site.junit.symlink_to(moved)


@way("reached by a link", signed=True)
def link_instead_of_the_manifest(site: Site) -> None:
    moved = site.folder / "elsewhere.json"
    (site.run / "run.json").rename(moved)
    (site.run / "run.json").symlink_to(moved)


@way("reached by a link", signed=True)
def link_instead_of_the_evidence(site: Site) -> None:
    moved = site.folder / "elsewhere"
    (site.run / "evidence").rename(moved)
    (site.run / "evidence").symlink_to(moved)


@way(r"the signed report of this run is junit\.xml", signed=True)
def another_file_of_the_signed_run(site: Site) -> None:
    shutil.copy(site.junit, site.run / "better.xml")
    site.options["report"] = str(site.run / "better.xml")


@way("the evidence of gpu[01] is not what was judged", signed=True)
def evidence_swapped(site: Site) -> None:
    first, second = (site.run / f"evidence/{host}.json" for host in HOSTS[:2])
    kept = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(kept)


@way(r"the evidence of gpu0 is gone \(evidence/gpu0\.json\)", signed=True)
def evidence_gone(site: Site) -> None:
    (site.run / "evidence/gpu0.json").unlink()


@way("the evidence of gpu0 is not what was judged", signed=True)
def evidence_cut_off(site: Site) -> None:
    os.truncate(site.run / "evidence/gpu0.json", 100)


@way("does not hold the cells that were expected", signed=True)
def check_left_out_before_signing(site: Site) -> None:
    site.write(spoil=changed("gpu0", lambda _, verdicts: verdicts.remove(passed("gpu0"))))


@way("does not say by which checks, matrix and waivers it was judged", signed=True)
def signed_by_a_writer_that_tells_no_basis(site: Site) -> None:
    site.write(basis=None)


@way("disagree about the identity of gpu0", signed=True)
def signed_manifest_of_other_nodes(site: Site) -> None:
    site.edit((site.identities["gpu0"]["machine_id"], "another"), path=site.run / "run.json")
    site.sign_again()


@way("disagree about the evidence of gpu0", signed=True)
def signed_manifest_without_its_evidence(site: Site) -> None:
    known = json.loads((site.run / "run.json").read_text())
    del known["evidence"]["gpu0"]
    (site.run / "run.json").write_text(json.dumps(known))
    site.sign_again()


@way("evidence of gpu0 lies in '../../gpu0.json', which is not its place", signed=True)
def signed_manifest_that_leads_out(site: Site) -> None:
    site.edit(('"evidence/gpu0.json"', '"../../gpu0.json"'), path=site.run / "run.json")
    site.sign_again()


@way("disagree about the start", signed=True)
def signed_manifest_of_another_time(site: Site) -> None:
    known = json.loads((site.run / "run.json").read_text())
    known["started"] = "2026-01-31T12:00:00+00:00"
    (site.run / "run.json").write_text(json.dumps(known))
    site.sign_again()


@way("run.json is no manifest", signed=True)
def signed_text_that_is_no_manifest(site: Site) -> None:
    (site.run / "run.json").write_text("{}")
    site.sign_again()


@way("decided on by a newer report already", signed=True, prepare=_by_its_own_name)
def older_signed_green_after_a_newer_red(site: Site) -> None:
    _newer_red(site)
