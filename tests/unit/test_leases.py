"""Leases on power domains: no cap is ever exceeded, nobody waits for ever, and trouble is an error."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from gpugate.errors import StateBusy, StateError
from gpugate.state import Cap, Holder, Leases, Store, Wish
from gpugate.state import store as store_module
from gpugate.state.clock import CLOCKS_AGREE_S, Stamp
from gpugate.state.leases import LAPSE_S
from gpugate.state.queue import Ticket, decide
from hypothesis import given, settings
from hypothesis import strategies as st

SAFETY_S = 60  # deadlines that must not come
ANN = Holder("ann", "ctl1", 4711, "a1")
BOB = Holder("bob", "ctl2", 4712, "b2")
_KEYS = count()


def wish(node: str = "gpu1", gpus: int = 8, watts: int = 5200, **domains: Cap) -> Wish:
    """A wish with a key of its own, by default for rack7 where one node may burn."""
    return Wish(f"key{next(_KEYS)}", node, gpus, watts, domains or {"rack7": Cap(nodes=1)})


class Time:
    """A controller's clocks, which only a test moves."""

    def __init__(self, boot: str = "boot1", unix_s: float = 1_000_000.0) -> None:
        self.boot, self.unix_s, self.boot_s = boot, unix_s, 5000.0

    def __call__(self) -> Stamp:
        return Stamp(self.unix_s, self.boot, self.boot_s)

    def passes(self, seconds: float) -> None:
        """Real time: both clocks go."""
        self.unix_s += seconds
        self.boot_s += seconds


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gpugate.sqlite"


def leases(path: Path, holder: Holder = ANN, clock: Time | None = None) -> Leases:
    """One controller's view of the store at `path`."""
    return Leases(Store(path), holder, clock or Time())


def free(asked: Leases, a_wish: Wish) -> bool:
    """Whether this wish may burn now."""
    return asked.ask([a_wish])[a_wish.key] == ""


WORKER = """
import json, random, sys, time
from pathlib import Path
from gpugate.state import Cap, Holder, Leases, Store, Wish

path, seed, rounds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
chance = random.Random(seed)
leases = Leases(Store(path), Holder("u", "h", seed, "r"))
caps = {"nodes": Cap(nodes=3), "gpus": Cap(gpus=12), "kw": Cap(watts=9000)}
done = 0
open_wishes, burning = [], {}
while done < rounds or burning:
    if done + len(open_wishes) + len(burning) < rounds and len(open_wishes) < 4:
        domains = {name: caps[name] for name in chance.sample(sorted(caps), chance.randint(1, 3))}
        gpus = chance.choice([1, 2, 4, 8])
        open_wishes.append(Wish(f"{seed}-{chance.random()}", f"n{chance.random()}", gpus, gpus * 700, domains))
    answers = leases.ask(open_wishes) if open_wishes else {}
    for wish in [wish for wish in open_wishes if answers.get(wish.key) == ""]:
        leases.begin(wish, 600)
        burning[wish.key] = (wish, time.monotonic())
        open_wishes.remove(wish)
    time.sleep(0.002)
    for key in [key for key in burning if chance.random() < 0.5]:
        wish, began = burning.pop(key)
        print(json.dumps([began, time.monotonic(), sorted(wish.domains), wish.gpus, wish.watts]), flush=True)
        leases.release([wish])
        done += 1
"""


def test_processes_never_exceed_a_cap_together(path: Path) -> None:
    """Three processes burn 240 nodes in overlapping domains, and at no moment more than a cap, whichever its unit."""
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, path, str(seed), "80"], stdout=subprocess.PIPE, text=True)
        for seed in (1, 2, 3)
    ]
    said = [worker.communicate(timeout=SAFETY_S)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0, 0]
    burns = [json.loads(line) for text in said for line in text.splitlines()]
    assert len(burns) == 240
    highest = {"nodes": 0, "gpus": 0, "kw": 0}
    for began, *_ in burns:  # the load is highest when some burn begins
        during = [burn for burn in burns if burn[0] <= began < burn[1]]
        highest["nodes"] = max(highest["nodes"], sum("nodes" in burn[2] for burn in during))
        highest["gpus"] = max(highest["gpus"], sum(burn[3] for burn in during if "gpus" in burn[2]))
        highest["kw"] = max(highest["kw"], sum(burn[4] for burn in during if "kw" in burn[2]))
    assert highest["nodes"] == 3
    assert highest["gpus"] == 12
    assert 8000 < highest["kw"] <= 9000
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM leases").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM lease_domains").fetchone() == (0,)


HOLDER = """
import sys, time
from pathlib import Path
from gpugate.state import Cap, Holder, Leases, Store, Wish
leases = Leases(Store(Path(sys.argv[1])), Holder.here("run1"))
wish = Wish("k", "gpu1", 8, 5200, {"rack7": Cap(nodes=1)})
assert leases.ask([wish]) == {"k": ""}
leases.begin(wish, 1.5)
print("burns", flush=True)
time.sleep(600)
"""


def test_lease_of_a_killed_holder_lasts_as_long_as_its_burn(path: Path) -> None:
    """kill -9 of a controller frees nothing at once, since the node may burn on; when that is over, the lease is."""
    before = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "burns\n"
        holder.send_signal(signal.SIGKILL)
    asked, mine = Leases(Store(path), BOB), wish("gpu2")
    assert "gpu1; held by" in asked.ask([mine])[mine.key]
    while not free(asked, mine):
        assert time.monotonic() < before + SAFETY_S
        time.sleep(0.05)
    assert time.monotonic() - before >= 1.5


def test_the_one_who_waits_reads_who_burns(path: Path) -> None:
    """The reason names domain, cap, nodes, holder, and when the next is free at the latest."""
    ann, mine = leases(path), wish("gpu1")
    assert free(ann, mine)
    ann.begin(mine, 480)
    bobs = wish("gpu2")
    assert leases(path, BOB).ask([bobs])[bobs.key] == (
        "waits for power domain rack7: 1 of 1 nodes burn (gpu1; held by ann@ctl1; the next ends within 480 s)"
    )


@pytest.mark.parametrize(
    ("cap", "sentence"),
    [
        (Cap(gpus=12), "8 of 12 GPUs burn"),
        (Cap(watts=10_000), "5.2 of 10 kW burn"),
        (Cap(nodes=1), "1 of 1 nodes burn"),
    ],
)
def test_each_unit_has_its_cap(path: Path, cap: Cap, sentence: str) -> None:
    """A second node waits for nodes, GPUs or kW, and goes when the first is done."""
    asked, first, second = leases(path), wish("gpu1", rack7=cap), wish("gpu2", rack7=cap)
    answers = asked.ask([first, second])
    assert answers[first.key] == ""
    assert sentence in answers[second.key]
    asked.begin(first, 480)
    assert not free(asked, second)
    asked.release([first])
    assert free(asked, second)


def test_all_domains_of_a_node_or_none(path: Path) -> None:
    """A node that waits for its row does not take its rack meanwhile."""
    asked = leases(path)
    other, both, rack = (
        wish("gpu1", row1=Cap(nodes=1)),
        wish("gpu2", rack7=Cap(nodes=1), row1=Cap(nodes=1)),
        wish("gpu3", rack7=Cap(nodes=1)),
    )
    assert free(asked, wish("gpu9", elsewhere=Cap(nodes=1)))
    waiting = wish("gpu8", elsewhere=Cap(nodes=1))  # the oldest that waits; the others may pass each other
    assert not free(asked, waiting)
    assert free(asked, other)
    assert not free(asked, both)
    assert free(asked, rack)


def test_more_than_the_cap_alone_is_refused_at_once() -> None:
    """A node that by itself is more than a cap would wait for ever: the wish cannot even be made."""
    with pytest.raises(StateError, match=r"gpu1 burns 5.2 kW by itself .* rack7 may burn 4 at once"):
        wish(rack7=Cap(watts=4000))
    with pytest.raises(StateError, match="gpu1 burns 8 GPUs by itself"):
        wish(rack7=Cap(gpus=7))


def test_the_smallest_cap_counts(path: Path) -> None:
    """Where nodes of one domain name different caps the smallest counts, and the one who waits reads whose it is."""
    asked = leases(path)
    strict, generous = wish("gpu1", rack7=Cap(nodes=1)), wish("gpu2", rack7=Cap(nodes=4))
    assert free(asked, strict)
    assert asked.ask([generous])[generous.key].endswith("1 is the cap of gpu1, the smallest counts")
    asked.release([strict])
    assert free(asked, generous)
    assert not free(asked, strict)


def test_a_node_without_a_cap_counts_for_others(path: Path) -> None:
    """A node of the domain that names no cap may always burn while nobody names one, and is counted."""
    asked, one, two = leases(path), wish("gpu1", rack7=Cap()), wish("gpu2", rack7=Cap())
    assert free(asked, one)
    assert free(asked, two)
    capped = wish("gpu3", rack7=Cap(nodes=2))
    assert "2 of 2 nodes burn (gpu1, gpu2;" in asked.ask([capped])[capped.key]


def test_first_come_first_served(path: Path) -> None:
    """Whoever asked first goes first, also where another controller asks at the right moment."""
    ann, bob = leases(path), leases(path, BOB)
    burns, anns, bobs = wish("gpu1"), wish("gpu2"), wish("gpu3")
    assert free(ann, burns)
    assert not free(ann, anns)
    assert "asked earlier: gpu2" in bob.ask([bobs])[bobs.key]
    ann.release([burns])
    assert not free(bob, bobs)
    assert free(ann, anns)


def test_small_wishes_do_not_starve_a_big_one(path: Path) -> None:
    """A node of eight GPUs gets its turn though nodes of two, which would fit, keep coming."""
    asked, cap = leases(path), Cap(gpus=8)
    small = [wish(f"small{n}", gpus=2, rack7=cap) for n in range(8)]
    big = wish("big", gpus=8, rack7=cap)
    assert [why for why in asked.ask(small[:3]).values() if why] == []
    assert not free(asked, big)
    for n in range(3):
        asked.release([small[n]])
        assert not free(asked, small[3 + n])
    assert free(asked, big)


def test_a_full_rack_does_not_hold_up_the_row(path: Path) -> None:
    """Nodes of a free rack burn while those of a full one, who asked earlier, wait for it; the oldest keeps a place."""
    asked = leases(path)
    rack1 = [wish(f"a{n}", rack1=Cap(nodes=1), row=Cap(nodes=4)) for n in range(5)]
    rack2 = [wish(f"b{n}", rack2=Cap(nodes=2), row=Cap(nodes=4)) for n in range(3)]
    answers = asked.ask([*rack1, *rack2])
    assert [each.node for each in [*rack1, *rack2] if not answers[each.key]] == ["a0", "b0", "b1"]


def test_a_waiting_controller_that_is_gone_loses_its_place(path: Path) -> None:
    """A ticket that nobody renews lapses, as does a lease whose burn has not begun; the latter cannot begin then."""
    clock = Time()
    ann, bob = leases(path, ANN, clock), leases(path, BOB, clock)
    granted, gone, bobs = wish("gpu1"), wish("gpu2"), wish("gpu3")
    assert free(ann, granted)
    assert not free(ann, gone)
    clock.passes(LAPSE_S / 2)
    assert not free(bob, bobs)
    clock.passes(LAPSE_S / 2)
    assert free(bob, bobs)
    with pytest.raises(StateError, match=r"gpu1 did not burn: its lease of rack7 .* lapsed"):
        ann.begin(granted, 480)


def test_asking_renews(path: Path) -> None:
    """A controller that goes on asking keeps its place, and a granted lease until its burn begins."""
    clock = Time()
    asked, first, second, third = leases(path, ANN, clock), wish("gpu1"), wish("gpu2"), wish("gpu3")
    assert free(asked, first)
    for _ in range(3):
        answers = asked.ask([first, second])
        assert answers[first.key] == ""
        assert answers[second.key]
        clock.passes(LAPSE_S * 0.9)
    asked.begin(first, 480)
    clock.passes(479)
    assert free(asked, first)  # it burns, and asking again does not make that longer
    assert not free(asked, third)
    clock.passes(1)
    assert free(asked, third)


@pytest.mark.parametrize("step_s", [-86400 * 400, -3600, 3600, 86400 * 400])
def test_a_clock_that_is_set_changes_no_lease_of_its_host(path: Path, step_s: float) -> None:
    """On the controller's own host leases go by the boot's clock: setting the wall's clock neither frees nor holds."""
    clock = Time()
    asked, first, second = leases(path, ANN, clock), wish("gpu1"), wish("gpu2")
    assert free(asked, first)
    asked.begin(first, 480)
    clock.unix_s += step_s
    clock.passes(479)
    assert not free(asked, second)
    clock.passes(1)
    assert free(asked, second)


def test_a_lease_from_the_future_begins_again(path: Path) -> None:
    """A lease whose stamp lies ahead of another boot's clock, which was set back, lasts its full time from now on."""
    old, new = Time("boot1"), Time("boot2", unix_s=1_000_000.0 - 86400 * 400)
    before, after = leases(path, ANN, old), leases(path, ANN, new)
    first, second = wish("gpu1"), wish("gpu2")
    assert free(before, first)
    before.begin(first, 480)
    assert not free(after, second)
    new.passes(479)
    assert not free(after, second)
    new.passes(1)
    assert free(after, second)


@pytest.mark.parametrize("ahead_s", [-CLOCKS_AGREE_S, 0.0, CLOCKS_AGREE_S])
def test_controllers_whose_clocks_differ(path: Path, ahead_s: float) -> None:
    """Another controller, its clock up to a minute off, never frees a lease early, and always frees it in the end."""
    here, there = Time("boot1"), Time("boot2", unix_s=1_000_000.0 + ahead_s)
    first, second = wish("gpu1"), wish("gpu2")
    ann, bob = leases(path, ANN, here), leases(path, BOB, there)
    assert free(ann, first)
    ann.begin(first, 480)
    there.passes(479)
    assert not free(bob, second)
    there.passes(2 * CLOCKS_AGREE_S + 1)
    assert free(bob, second)


def test_releasing_twice_is_no_error(path: Path) -> None:
    """What is gone already may be given back again."""
    asked, mine = leases(path), wish()
    assert free(asked, mine)
    asked.release([mine])
    asked.release([mine])
    assert free(asked, wish())


def test_here_is_this_process() -> None:
    """The holder that a person reads is this user on this host, with the process id."""
    holder = Holder.here("run1")
    assert holder.pid == os.getpid()
    assert all((holder.user, holder.host, holder.run == "run1"))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"this is no database, whatever its name says" * 100, "is corrupt .* move it away when no node burns"),
        ("half", "is corrupt"),
        ("foreign", "is the database of another program"),
        (
            "newer",
            f"has the schema {store_module.SCHEMA + 1}; this gpugate reads {store_module.SCHEMA}: use the same version",
        ),
    ],
)
def test_a_file_that_is_no_state_store(path: Path, content: bytes | str, sentence: str) -> None:
    """A corrupt, foreign or newer file is an error with its reason; nobody burns and the file is left as it is."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "foreign":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE leases (a)")
    else:
        asked = leases(path)
        assert [why for why in asked.ask([wish(f"n{n}", rack7=Cap()) for n in range(500)]).values() if why] == []
        if content == "newer":
            with sqlite3.connect(path) as db:
                db.execute(f"PRAGMA user_version = {store_module.SCHEMA + 1}")
        else:
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 2] + os.urandom(len(whole) // 2))
    before = path.read_bytes()
    with pytest.raises(StateError, match=sentence):
        leases(path).ask([wish()])
    assert path.read_bytes() == before


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A share that is not mounted must not look like a store without leases."""
    with pytest.raises(StateError, match=r"share is no folder: mount it, or make it once"):
        leases(tmp_path / "share" / "gpugate.sqlite").ask([wish()])
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def not_ours() -> Iterator[Path]:
    """A store in a folder that this process may read and not write, also where the tests run as root."""
    folder = Path(tempfile.mkdtemp())
    try:
        leases(folder / "gpugate.sqlite").ask([wish()])
        folder.chmod(0o755)
        (folder / "gpugate.sqlite").chmod(0o644 if os.geteuid() == 0 else 0o444)
        if os.geteuid() == 0:
            os.seteuid(65534)
        yield folder / "gpugate.sqlite"
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_file_that_may_not_be_written(not_ours: Path) -> None:
    """Read-only is an error that says who needs to write."""
    with pytest.raises(StateError, match=r"cannot be written .* every user who runs gpugate needs to write"):
        leases(not_ours).ask([wish()])


def test_a_file_that_others_lock(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that somebody keeps locked is busy, which is no loss: later it answers."""
    monkeypatch.setattr(store_module, "BUSY_S", 0.1)
    asked, mine = leases(path), wish()
    assert free(asked, mine)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StateBusy, match=r"has been locked by another process for 0\.1 s"):
        asked.ask([mine])
    other.close()
    assert free(asked, mine)


DOMAINS = ("rack1", "rack2", "row")
CAPS = st.builds(
    Cap, st.one_of(st.none(), st.integers(1, 4)), st.one_of(st.none(), st.integers(8, 20)), st.integers(6000, 20000)
)
WISHES = st.lists(
    st.tuples(st.integers(1, 8), st.integers(1, 5), st.dictionaries(st.sampled_from(DOMAINS), CAPS, min_size=1)),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200, deadline=None)
@given(wishes=WISHES)
def test_everybody_burns_some_day_and_never_too_many(wishes: list[tuple[int, int, dict[str, Cap]]]) -> None:
    """Whatever the wishes, caps and lengths of three controllers that ask in turn: caps hold, and all are served."""
    tickets = [
        Ticket(Wish(f"k{n}", f"n{n}", gpus, gpus * 700, domains), f"c{n % 3}", waits=True, left_s=lasts)
        for n, (gpus, lasts, domains) in enumerate(wishes)
    ]
    for turn in count():
        assert turn < 20 * len(wishes), "somebody waits for ever"
        ours = {t.wish.key for t in tickets if t.holder == f"c{turn % 3}" and t.waits}
        answers = decide(tickets, ours)
        assert answers.keys() == ours
        tickets = [dataclasses.replace(t, waits=t.waits and answers.get(t.wish.key) != "") for t in tickets]
        for domain in DOMAINS:
            burning = [t.wish for t in tickets if not t.waits and domain in t.wish.domains]
            for cap in (w.domains[domain] for w in burning):
                assert len(burning) <= (cap.nodes or 99)
                assert sum(w.gpus for w in burning) <= (cap.gpus or 999)
                assert sum(w.watts for w in burning) <= (cap.watts or 999_999)
        tickets = [dataclasses.replace(t, left_s=t.left_s - (not t.waits)) for t in tickets]
        tickets = [t for t in tickets if t.left_s > 0]
        if not tickets:
            break
