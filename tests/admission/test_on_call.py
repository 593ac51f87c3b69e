"""What the person on call sees and says: why, hold, release, unhold."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from desk import Desk, fresh, gpugate
from gpugate.admission import Action, Audit, Decision, Memory, Standing, Word
from gpugate.admission import words as people
from gpugate.admission.site import Site
from gpugate.admission.variables import PREFIX
from gpugate.cli.hold import until_from
from gpugate.cli.main import main
from gpugate.errors import AdmissionError
from gpugate.policy.resolve import NOT_POLICY
from gpugate.state.store import Store
from gpugate.verdict import Outcome
from runs import failed, without
from test_carry import actions

Capture = pytest.CaptureFixture[str]
SAYING = ("--until=+4h", "--ticket=OPS-7", "--why=fan swap")


@pytest.fixture(name="desk")
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    return fresh(tmp_path, monkeypatch)


def remove(desk: Desk, host: str = "gpu0") -> None:
    """Let everybody in, then have the gate take one node out."""
    desk.report(ago=timedelta(minutes=9))
    desk.gate()
    desk.report(failed(host), ago=timedelta(minutes=8))
    assert actions(desk.gate())[host] is Action.REMOVE


def on_a_screen(said: str) -> bool:
    """Whether it fits on one."""
    lines = said.rstrip("\n").split("\n")
    return len(lines) <= 24 and max(map(len, lines)) <= 100


# --- why -----------------------------------------------------------------------------------------------------------


def test_why_before_anything_happened(desk: Desk, capsys: Capture) -> None:
    """Without a store and a report it says so, and that nobody can tell."""
    code, said = gpugate(capsys, "why", "gpu0")
    assert code == 2
    assert "never: there is no state store yet at" in said
    assert "no report can be read" in said
    assert not (desk.folder / "state").exists()


def test_why_in_service_and_green(desk: Desk, capsys: Capture) -> None:
    """A node that is in and green has nothing to do, and the exit code says the same."""
    run = desk.report()
    desk.gate()
    code, said = gpugate(capsys, "why", "gpu0")
    assert code == 0
    for part in ("gpu0: IN service (as state_file says now)", "admit since", f"last green  run {run}",
                 "nothing: it may take work", "state/admission.audit.jsonl"):  # fmt: skip
        assert part in said
    assert on_a_screen(said)


def test_why_was_it_removed(desk: Desk, capsys: Capture) -> None:
    """One screen has the state, whose it is, since when, measured against bound, GPU, last green, greens, next step."""
    remove(desk)
    code, said = gpugate(capsys, "why", "gpu0")
    flat = " ".join(said.split())
    assert code == 1
    for part in ("gpu0: OUT of service", "gpugate's, which took it out", "for thermal.headroom", "remove since",
                 "1 of 41 checks that count", "thermal.headroom FAIL: GPU 1 (GPU-00000001",
                 "headroom is 1.5 C, outside", "has to be at least 5 C", "last green run",
                 "0 of 2 in a row that it needs to come in", "next look at the cooling", "--limit gpu0"):  # fmt: skip
        assert part in flat
    assert on_a_screen(said)


def test_why_with_everything_red(desk: Desk, capsys: Capture) -> None:
    """Of very much that is red the weightiest is shown, the others are counted, and it is one screen all the same."""
    remove(desk)
    red = [failed("gpu0", check) for check in desk.policy.expected("admission")]
    desk.report(*red)
    desk.gate()
    gpugate(capsys, "hold", "gpu0", *SAYING[:2], f"--why={'so many words ' * 40}")
    _, said = gpugate(capsys, "why", "gpu0")
    cells = [line for line in said.splitlines() if re.match(r"  [a-z_.]+ FAIL", line)]
    [more] = re.findall(r"and (\d+) more: the report has them", said)
    assert cells[0].startswith("  thermal.headroom FAIL")
    assert len(cells) + int(more) == len(red)
    assert on_a_screen(said)


def test_why_is_it_held(desk: Desk, capsys: Capture) -> None:
    """Whose word a node is under stands there with its ticket, its reason and its end."""
    remove(desk)
    gpugate(capsys, "hold", "gpu0", *SAYING)
    _, said = gpugate(capsys, "why", "gpu0")
    assert re.search(r"word +held by ada until \d{4}-\d\d-\d\dT\d\d:\d\d\+\d\d:\d\d \(OPS-7: fan swap\)", said)
    assert "next        ask ada, or take the word back: gpugate unhold gpu0" in said


@pytest.mark.parametrize(
    ("name", "told"),
    [("gpu00", "did you mean gpu0 or"), ("zzz", "matches 'zzz'"), ("gpu_fleet", "means 3 nodes (gpu[0-2]): name one")],
)
def test_why_of_nobody(desk: Desk, capsys: Capture, name: str, told: str) -> None:
    """An unknown host is an error with the names that are near, and so is more than one."""
    code, said = gpugate(capsys, "why", name)
    assert code == 2
    assert told in said
    assert "--hosts" not in said


def test_why_without_a_back_end(desk: Desk, capsys: Capture) -> None:
    """Where the back end cannot tell, the state is as last decided, and that is said."""
    remove(desk)
    (desk.folder / "state/admission.json").unlink()
    code, said = gpugate(capsys, "why", "gpu0")
    flat = " ".join(said.split())
    assert code == 2
    assert re.search(
        r"gpu0: OUT of service \(as last decided, .* ago\)\); state_file cannot tell now: the state file", flat
    )
    assert "next make the back end answer" in flat


def test_why_without_its_store(desk: Desk, capsys: Capture) -> None:
    """A store that cannot be read is said, beside all that is known without it."""
    remove(desk)
    (desk.folder / "state/gpugate.sqlite").write_text("scribble" * 1000)
    code, said = gpugate(capsys, "why", "gpu0")
    assert code == 2
    for part in (
        "cannot tell the state store state/gpugate.sqlite is corrupt",
        "gpu0: OUT of service",
        "thermal.headroom FAIL",
    ):
        assert part in said
    assert "never" not in said


def status_command(desk: Desk, answer: str) -> list[str]:
    """A back end that is a program: its answer lies in a file, where admit and remove put another."""
    (desk.folder / "answer").write_text(answer)
    program = desk.folder / "node-service"
    program.write_text(
        f"#!{sys.executable}\nimport sys, pathlib\nfile = pathlib.Path({str(desk.folder / 'answer')!r})\n"
        "if sys.argv[1] == 'status':\n    print(file.read_text())\nelse:\n"
        "    file.write_text({'admit': 'in', 'remove': 'out'}[sys.argv[1]])\n"
    )
    program.chmod(0o755)
    desk.variables |= {"gpugate_admission_backend": "command",
                       "gpugate_admission_command": [str(program), "{action}", "{host}"]}  # fmt: skip
    desk.inventory({"gpu0": {}})
    return [str(program)]


def test_why_of_somebody_elses(desk: Desk, capsys: Capture) -> None:
    """A node that somebody else took out is theirs, in their words."""
    desk.report(hosts=("gpu0",))
    status_command(desk, "kept out: root since Monday: disk")
    code, said = gpugate(capsys, "why", "gpu0")
    assert code == 1
    assert "whose       not gpugate's: root since Monday: disk" in said
    assert "next        ask whoever took it out" in said


def test_why_looks_for_the_nodes_own_report(desk: Desk, capsys: Capture) -> None:
    """Where the latest report is about other nodes, the newest with this one is told, by its path."""
    run = desk.report(failed("gpu0"))
    desk.report(hosts=("gpu1",), ago=timedelta(minutes=1))
    _, said = gpugate(capsys, "why", "gpu0")
    assert "headroom is 1.5 C" in said
    assert f"reports/runs/{run}/junit.xml" in "".join(said.split())


def test_why_cannot_be_made_to_write_to_the_terminal(desk: Desk, capsys: Capture) -> None:
    """What a node or a person wrote is one line with its unsafe characters shown."""
    desk.report(without("gpu0", "errors.ecc", Outcome.ERROR, "\x1b[31m\u202egreen\nnot"))
    gpugate(capsys, "hold", "gpu0", *SAYING[:2], "--why=\x1b[2Jme\nyou")
    _, said = gpugate(capsys, "why", "gpu0")
    assert "\x1b" not in said
    assert "\u202e" not in said
    assert "\\x1b[31m\\u202egreen not" in said


# --- hold ----------------------------------------------------------------------------------------------------------


def test_a_held_node_is_left_alone(desk: Desk, capsys: Capture) -> None:
    """While a hold is good gpugate neither takes a red node out nor lets a green one in; afterwards it does both."""
    desk.report(ago=timedelta(minutes=9))
    desk.gate("gpu0")
    code, said = gpugate(capsys, "hold", "gpu0", "gpu1", *SAYING)
    assert code == 0
    assert said.startswith("gpu[0-1]: held by ada until ")
    desk.report(failed("gpu0"))
    assert actions(desk.gate("gpu0", "gpu1")) == {"gpu0": Action.HOLD, "gpu1": Action.STAY_OUT}
    assert desk.inside() == {"gpu0": True}
    later = timedelta(hours=5)
    assert actions(desk.gate("gpu0", "gpu1", later=later)) == {"gpu0": Action.REMOVE, "gpu1": Action.ADMIT}


def test_a_word_is_in_the_audit(desk: Desk, capsys: Capture) -> None:
    """Who said what of which node, until when, by which ticket, and taking it back: each is a line of the audit."""
    gpugate(capsys, "hold", "gpu0", *SAYING)
    gpugate(capsys, "unhold", "gpu0")
    said, ended = desk.audit()
    word = said["word"]
    assert (said["event"], said["by"], said["host"]) == ("word", "ada", "gpu0")
    assert (word["kind"], word["who"], word["ticket"], word["why"]) == ("hold", "ada", "OPS-7", "fan swap")
    assert datetime.fromisoformat(word["until"]) - datetime.fromisoformat(word["since"]) == timedelta(hours=4)
    assert (ended["event"], ended["by"], ended["word"], ended["problem"]) == (
        "word ended", "ada", word, "taken back by ada")  # fmt: skip


NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("+4h", NOW + timedelta(hours=4)),
        ("+2d12h30m", NOW + timedelta(days=2, hours=12, minutes=30)),
        ("2026-03-02T08:00+02:00", datetime(2026, 3, 2, 6, 0, tzinfo=UTC)),
        ("2026-03-02 08:00", datetime(2026, 3, 2, 8, 0).astimezone()),
        ("2026-03-02", None),
        ("+", None),
        ("+4", None),
        ("4h", None),
        ("-4h", None),
        ("tomorrow", None),
        ("2026-13-02T08:00", None),
        ("", None),
    ],
)
def test_until_when(text: str, until: datetime | None) -> None:
    """A time of a day or so long from now; what is neither is an error, never a guess."""
    if until is None:
        with pytest.raises(AdmissionError, match=r"--until: .* is no time"):
            until_from(text, NOW)
    else:
        assert until_from(text, NOW) == until


@pytest.mark.parametrize("command", ["hold", "release"])
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--until=2020-01-01T00:00", "--ticket=t", "--why=w"), "is over already"),
        (("--until=+0h", "--ticket=t", "--why=w"), "is over already"),
        (("--until=+31d", "--ticket=t", "--why=w"), "more than 30 days ahead"),
        (("--until=+1h", "--ticket= ", "--why=w"), "--ticket is empty"),
        (("--until=+1h", "--ticket=t", "--why="), "--why is empty"),
    ],
)
def test_a_word_that_is_none(desk: Desk, capsys: Capture, command: str, given: Sequence[str], told: str) -> None:
    """A word without a bounded end, a ticket or a reason is refused, and nothing is written down."""
    code, said = gpugate(capsys, command, "gpu0", *given)
    assert (code, told in said) == (2, True)
    assert not (desk.folder / "state/admission.audit.jsonl").exists()


@pytest.mark.parametrize("command", ["hold", "release"])
@pytest.mark.parametrize("lacks", ["--until=+4h", "--ticket=OPS-7", "--why=fan swap"])
def test_a_word_without(desk: Desk, capsys: Capture, command: str, lacks: str) -> None:
    """--until, --ticket and --why are needed."""
    with pytest.raises(SystemExit, match="2"):
        main([command, "gpu0", *(option for option in SAYING if option != lacks)])
    assert f"required: {lacks.partition('=')[0]}" in capsys.readouterr().err


def test_a_name_with_a_typo_holds_nobody(desk: Desk, capsys: Capture) -> None:
    """Patterns are strict: one that matches nothing is an error, and nothing is said of the others either."""
    code, said = gpugate(capsys, "hold", "gpu0", "gpu9", *SAYING)
    assert (code, "matches 'gpu9'" in said) == (2, True)
    assert gpugate(capsys, "hold", "gpu_fleet", "!gpu2", *SAYING)[1].startswith("gpu[0-1]: held")


def test_nobodys_word_is_replaced_by_another(desk: Desk, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another person's word stays until it ends or is taken back; of the other nodes the new one is said."""
    gpugate(capsys, "hold", "gpu0", *SAYING)
    monkeypatch.setenv("LOGNAME", "bob")
    code, said = gpugate(capsys, "hold", "gpu0", "gpu1", "--until=+1h", "--ticket=t", "--why=w")
    assert code == 1
    assert "NOT DONE: gpu0: it is held by ada" in said
    assert "gpu1: held by bob" in said
    assert "gpu0: no longer held by ada" in gpugate(capsys, "unhold", "gpu0")[1]
    assert gpugate(capsys, "hold", "gpu0", *SAYING)[0] == 0
    assert "nobody had said anything of it" in gpugate(capsys, "unhold", "gpu2")[1]


def test_who_speaks_behind_sudo(desk: Desk, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever speaks through a shared account is told by their own name."""
    monkeypatch.setenv("SUDO_USER", "eve")
    assert "held by eve until" in gpugate(capsys, "hold", "gpu0", *SAYING)[1]
    assert desk.audit()[0]["by"] == "eve"


def test_two_persons_at_once(desk: Desk, capsys: Capture) -> None:
    """Where somebody else was quicker by a hair, their word stands in store and audit."""
    desk.settled.store.parent.mkdir()
    memory, audit, now = Memory(Store(desk.settled.store)), _audit(desk), datetime.now().astimezone()
    adas = Word("hold", "ada", "w", "t", now, now + timedelta(hours=1))
    late = replace(adas, who="bob", since=now + timedelta(seconds=1))

    class Slow(Audit):
        def said(self, *args: Any) -> None:
            memory.say(["gpu0"], adas)  # while bob's line is being written
            super().said(*args)

    results = people.hold(["gpu0"], late, Stands(OURS), memory, Slow(audit.path, desk_report(desk), "bob"))
    assert "ada has said something of it meanwhile" in str(results["gpu0"])
    assert people.words_of(memory, audit, now) == {"gpu0": adas}


def desk_report(desk: Desk) -> Any:
    """The report, after one was made."""
    if not (desk.folder / "reports/latest").exists():
        desk.report()
    return desk.settled.read()


def _audit(desk: Desk) -> Audit:
    return Audit(desk.folder / "state/admission.audit.jsonl", desk_report(desk), "ada")


# --- release -------------------------------------------------------------------------------------------------------


def test_release(desk: Desk, capsys: Capture) -> None:
    """A person's word brings a node back that gpugate took out, says loudly what is red, holds until its end."""
    remove(desk)
    code, said = gpugate(capsys, "release", "gpu0", *SAYING)
    assert code == 0
    assert said.startswith("OVERRIDE: gpu0 is in service")
    assert "thermal.headroom FAIL: GPU 1" in said
    assert desk.inside()["gpu0"]
    entry = json.loads((desk.folder / "state/admission.json").read_text())["hosts"]["gpu0"]
    assert entry["by"] == "ada"
    assert entry["why"].startswith("OVERRIDE: released by ada until")
    desk.report(failed("gpu0"), ago=timedelta(minutes=1))
    held = desk.gate()
    assert actions(held)["gpu0"] is Action.HOLD
    assert held.decisions[0].reasons[0].startswith("would be removed, but is released by ada")
    assert actions(desk.gate(later=timedelta(hours=5)))["gpu0"] is Action.REMOVE


def test_release_is_in_the_audit_before_it_is_done(desk: Desk, capsys: Capture) -> None:
    """The word, with what was red, stands in the audit before what became of it."""
    remove(desk)
    before = len(desk.audit())
    gpugate(capsys, "release", "gpu0", *SAYING)
    word, done = desk.audit()[before:]
    assert (word["event"], word["word"]["kind"], word["by"]) == ("word", "release", "ada")
    assert any(sentence.startswith("thermal.headroom FAIL: GPU 1") for sentence in word["red"])
    assert (done["event"], done["host"], done["action"], done["by"]) == ("done", "gpu0", "admit", "ada")


def test_release_of_a_new_node(desk: Desk, capsys: Capture) -> None:
    """What gpugate never took out is not put back: there is one way in, and it is green."""
    desk.report(failed("gpu0"))
    desk.gate()
    code, said = gpugate(capsys, "release", "gpu0", *SAYING)
    assert code == 1
    assert "NOT DONE: gpu0: gpugate did not take it out" in said
    assert desk.inside() == {"gpu1": True, "gpu2": True}
    assert "nobody had said anything" in gpugate(capsys, "unhold", "gpu0")[1]


@pytest.mark.parametrize("answer", ["kept out: root: disk", "who knows", "out"])
def test_release_of_somebody_elses(desk: Desk, capsys: Capture, answer: str) -> None:
    """Never against another owner, never where the back end cannot tell, never what gpugate did not take out."""
    desk.report(hosts=("gpu0",))
    status_command(desk, answer)
    code, said = gpugate(capsys, "release", "gpu0", *SAYING)
    assert (code, "NOT DONE: gpu0: " in said) == (1, True)
    assert (desk.folder / "answer").read_text() == answer


def test_release_by_a_command(desk: Desk, capsys: Capture) -> None:
    """Where the back end does not know who took a node out, the gate's memory does."""
    status_command(desk, "out")
    desk.report(hosts=("gpu0",), ago=timedelta(minutes=9))
    desk.gate("gpu0")
    desk.report(failed("gpu0"), hosts=("gpu0",), ago=timedelta(minutes=8))
    desk.gate("gpu0")
    assert (desk.folder / "answer").read_text() == "out"
    assert gpugate(capsys, "release", "gpu0", *SAYING)[0] == 0
    assert (desk.folder / "answer").read_text() == "in"


class Stands:
    """A back end with one standing; what it is told to do fails as `fails` says."""

    def __init__(self, standing: Standing | AdmissionError, fails: AdmissionError | None = None) -> None:
        self.standing, self.fails, self.done = standing, fails, 0

    def standings(self, hosts: Sequence[str]) -> dict[str, Standing | AdmissionError]:
        return dict.fromkeys(hosts, self.standing)

    def begin(self) -> None:
        pass

    def tell(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError]:
        return {}

    def carry_out(self, decisions: Sequence[Decision]) -> dict[str, AdmissionError | None]:
        self.done += len(decisions)
        return {each.host: self.fails for each in decisions}


OURS = Standing(False, removed=True)


@pytest.mark.parametrize(
    ("backend", "problem", "done"),
    [
        (Stands(OURS), "", 1),
        (Stands(Standing(True)), "", 0),
        (Stands(replace(OURS, busy="a driver upgrade is under way")), "not now: a driver upgrade", 0),
        (Stands(replace(OURS, owner="root: disk")), "not gpugate's to put back: root: disk", 0),
        (Stands(AdmissionError("gpu0: no answer")), "no answer", 0),
        (Stands(OURS, AdmissionError("gpu0: its state changed meanwhile")), "its state changed", 1),
    ],
)
def test_release_through_any_back_end(desk: Desk, backend: Stands, problem: str, done: int) -> None:
    """A word counts only where the node was put back, or was in; else it is taken back in store and audit."""
    desk.settled.store.parent.mkdir()
    memory, audit, now = Memory(Store(desk.settled.store)), _audit(desk), datetime.now().astimezone()
    word = Word("release", "ada", "w", "t", now, now + timedelta(hours=1))
    results = people.release(["gpu0"], word, {"gpu0": ["red"]}, backend, memory, audit)
    assert problem in str(results["gpu0"] or "")
    assert bool(problem) == (results["gpu0"] is not None)
    assert backend.done == done
    expected = {} if problem else {"gpu0": word}
    assert people.words_of(memory, audit, now + timedelta(minutes=1)) == expected
    assert {host: words[0] for host, words in audit.words(now + timedelta(minutes=1)).items()} == expected


# --- which site ----------------------------------------------------------------------------------------------------


def test_nodes_of_two_sites(desk: Desk, capsys: Capture) -> None:
    """Hosts that the inventory puts into service in different ways are not spoken of in one command."""
    desk.inventory({"gpu0": {}, "gpu1": {"gpugate_admission_state": "/elsewhere/state.json"}})
    code, said = gpugate(capsys, "hold", "gpu0", "gpu1", *SAYING)
    assert (code, "gpugate_admission_state of gpu1 differs from that of gpu0" in said) == (2, True)


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"gpugate_admission_timeout_s": "soon"}, "gpugate_admission_timeout_s: "),
        ({"gpugate_admission_state": ""}, "gpugate_admission_state: '' is no path"),
        ({"gpugate_admission_command": 7}, "gpugate_admission_command: "),
        ({"gpugate_admission_backend": "runes"}, "no back end is called 'runes'"),
        ({"gpugate_revoked_signers": "/x"}, "without gpugate_allowed_signers checks nothing"),
    ],
)
def test_a_site_that_is_none(desk: Desk, capsys: Capture, variables: dict[str, Any], told: str) -> None:
    """What no gate could be made of is an error that names the variable."""
    desk.inventory({"gpu0": variables})
    code, said = gpugate(capsys, "release", "gpu0", *SAYING)
    assert (code, told in said) == (2, True)


def test_variables_on_the_command_line(desk: Desk, capsys: Capture) -> None:
    """-e stands above the inventory, as with ansible-playbook, and knows gpugate's variables alone."""
    other = desk.folder / "other"
    code, _ = gpugate(capsys, "hold", "gpu0", *SAYING, "-e", f"gpugate_admission_state={other}/state.json")
    assert code == 0
    assert (other / "state.audit.jsonl").exists()
    assert (other / "gpugate.sqlite").exists()
    assert not (desk.folder / "state").exists()
    for wrong in ("ansible_user=root", "gpugate_board", '{"x": 1}', "{"):
        with pytest.raises(SystemExit, match="2"):
            main(["why", "gpu0", "-e", wrong])


def test_not_in_the_projects_folder(desk: Desk, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than in the project's folder no word is said to a gate that nobody runs."""
    elsewhere = desk.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "hosts.json").write_text((desk.folder / "hosts.json").read_text())
    monkeypatch.chdir(elsewhere)
    code, said = gpugate(capsys, "hold", "gpu0", *SAYING)
    assert (code, "start gpugate in the project's" in said) == (2, True)
    assert sorted(each.name for each in elsewhere.iterdir()) == ["hosts.json"]


def test_an_unsigned_report_is_none(desk: Desk, capsys: Capture) -> None:
    """Where the site asks for signatures, an unsigned report tells nothing."""
    desk.report()
    desk.gate()
    code, said = gpugate(capsys, "why", "gpu0", "-e", "gpugate_allowed_signers=/nowhere/signers")
    assert code == 2
    assert "is refused: it is not signed" in said


def test_commands_and_playbook_have_the_same_site() -> None:
    """Every setting of a back end is a variable that inventories may have, and the playbook hands on."""
    playbooks = (Path(__file__).parents[2] / "playbooks").rglob("*.yml")
    handed = set(re.findall(r"(\w+): \"\{\{ gpugate_admission_\1\b", "\n".join(each.read_text() for each in playbooks)))
    settings = {field.name for field in fields(Site)}
    assert handed == settings
    assert {f"{PREFIX}{name}" for name in settings} <= NOT_POLICY
