"""People's words about nodes: hold, release, and taking them back.

A word is an explicit override: it says who, why, by which ticket and until when. It is in the audit before it counts,
and in the state store and the audit both, so that losing one of them loses no word. Nobody's word is replaced by
another person's while it is good: that needs `unhold` first, which is in the audit too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from ..errors import AdmissionError, GpugateError
from .audit import Audit
from .backends import AdmissionBackend
from .decision import Action, Decision
from .memory import Memory, Remembered, refuse_clock
from .standing import NEW, Standing, Word

MOST = timedelta(days=30)

Results = dict[str, AdmissionError | None]


def words_of(memory: Memory, audit: Audit, now: datetime) -> dict[str, Word]:
    """The word that counts for each host at `now`: the newest of those in the state store and in the audit."""
    return {host: max(words, key=lambda word: word.since) for host, words in _every(memory, audit, now).items()}


def checked(word: Word) -> Word:
    """The same word; raises AdmissionError where it does not say what a word has to."""
    for name in ("who", "why", "ticket"):
        if not getattr(word, name).strip():
            raise AdmissionError(f"a word about a node needs its {name}: --{name} is empty")
    if word.until <= word.since:
        raise AdmissionError(f"--until: {word.until.isoformat(timespec='minutes')} is over already")
    if word.until - word.since > MOST:
        raise AdmissionError(
            f"--until: {word.until.isoformat(timespec='minutes')} is more than {MOST.days} days ahead: what lasts "
            "longer is policy's to say (a waiver), or the node belongs out of the inventory"
        )
    return word


def hold(hosts: Sequence[str], word: Word, backend: AdmissionBackend, memory: Memory, audit: Audit) -> Results:
    """Have the gate leave these nodes as they are; which could not be, and why."""
    results = _refused(hosts, word, memory, audit)
    due = [host for host in hosts if host not in results]
    backend.begin()  # before the first line of the audit, as ever
    return results | _say(due, word, memory, audit, {})


def release(
    hosts: Sequence[str],
    word: Word,
    red: Mapping[str, Sequence[str]],
    backend: AdmissionBackend,
    memory: Memory,
    audit: Audit,
) -> Results:
    """Put nodes that gpugate took out back into service, and have the gate remove none of them again; which could not
    be, and why.

    A node that is in service already only gets the word. `red` is what speaks against each, for the audit.
    """
    results = _refused(hosts, word, memory, audit)
    remembered = memory.nodes()
    due: list[Decision] = []
    for host, standing in backend.standings([host for host in hosts if host not in results]).items():
        known = remembered.get(host)
        if isinstance(standing, AdmissionError):
            results[host] = standing
        elif problem := _not_ours(standing, known):
            results[host] = AdmissionError(f"{host}: {problem}")
        else:
            reasons = (f"OVERRIDE: {word}", *red.get(host, ()))
            history = known.history if known else NEW
            due.append(Decision(host, Action.ADMIT, reasons, standing, history=history))
    backend.begin()
    said = _say([each.host for each in due], word, memory, audit, red)
    done = _put_back(
        [each for each in due if said[each.host] is None and not each.in_service], backend, memory, audit, word
    )
    return results | said | done


def unhold(hosts: Sequence[str], who: str, memory: Memory, audit: Audit, now: datetime) -> dict[str, Word]:
    """Take back whatever is said of these nodes; whose word it was, of those of which something was said."""
    found = {host: words for host, words in _every(memory, audit, now).items() if host in hosts}
    each_ones = {(host, word.who): word for host, words in found.items() for word in words}
    _end([(host, word) for (host, _), word in each_ones.items()], f"taken back by {who}", memory, audit, now)
    return {host: max(words, key=lambda word: word.since) for host, words in found.items()}


def _every(memory: Memory, audit: Audit, now: datetime) -> dict[str, list[Word]]:
    """Each host's words, as the state store and as the audit have them."""
    kept, written = memory.words(now), audit.words(now)
    return {host: [*kept.get(host, ()), *written.get(host, ())] for host in kept.keys() | written.keys()}


def _refused(hosts: Sequence[str], word: Word, memory: Memory, audit: Audit) -> Results:
    """The hosts of which somebody else has said something that is still good."""
    checked(word)
    refuse_clock(memory.nodes().values(), word.since)
    words = words_of(memory, audit, word.since)
    return {host: _taken(host, words[host]) for host in hosts if host in words and words[host].who != word.who}


def _taken(host: str, other: Word) -> AdmissionError:
    return AdmissionError(f"{host}: it is {other}: ask {other.who}, or take that back first (gpugate unhold {host})")


def _say(hosts: Sequence[str], word: Word, memory: Memory, audit: Audit, red: Mapping[str, Sequence[str]]) -> Results:
    if not hosts:
        return {}
    audit.said(dict.fromkeys(hosts, word), red)
    late = memory.say(hosts, word)  # somebody else was quicker
    if late:
        audit.ended([(host, word) for host in late], "somebody else's word is good")
    return {host: late.get(host) for host in hosts}


def _end(words: Sequence[tuple[str, Word]], why: str, memory: Memory, audit: Audit, now: datetime) -> None:
    audit.ended(words, why)
    memory.take_back({host for host, _ in words}, now)


def _not_ours(standing: Standing, known: Remembered | None) -> str:
    """Why this node is not to be put back, if so."""
    if standing.inside:
        return ""
    if standing.owner:
        return f"not gpugate's to put back: {standing.owner}"
    if standing.busy:
        return f"not now: {standing.busy}"
    if not (standing.removed or (known is not None and known.history.removed)):
        return (
            "gpugate did not take it out, so there is nothing to put back: a node comes into service by a green report "
            "and admit.yml"
        )
    return ""


def _put_back(
    decisions: Sequence[Decision], backend: AdmissionBackend, memory: Memory, audit: Audit, word: Word
) -> Results:
    """Carry it out; of nodes that could not be put back the word is taken back."""
    if not decisions:
        return {}
    try:
        results = backend.carry_out(decisions)
    except GpugateError as error:
        results = {each.host: AdmissionError(f"{each.host}: {error}") for each in decisions}
    if failed := [(host, word) for host, result in results.items() if result is not None]:
        _end(failed, "the node was not put back", memory, audit, word.since)
    audit.carried_out(decisions, results)
    memory.carried_out([each for each in decisions if results[each.host] is None], word.since)
    return results | backend.tell([])
