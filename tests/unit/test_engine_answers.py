"""Answers that came through an engine: whole and from whom they have to be, or refused with the reason."""

from __future__ import annotations

import base64
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from engine_answers import ASKED, answer, document, sent
from gpugate.engine.answers import document as answered
from gpugate.engine.lines import MOST_BYTES, Lines
from gpugate.errors import EvidenceError


def taken(lines: list[bytes]) -> Lines:
    """The lines as a controller takes them."""
    found = Lines()
    for line in lines:
        found.take(line)
    return found


def payload(answer: bytes) -> list[bytes]:
    """Lines as a node may send them that does not use our program."""
    packed = zlib.compress(answer)
    pieces = [base64.b64encode(packed[i : i + 57]) for i in range(0, len(packed), 57)]
    ending = b"gpugate-answer end %d %s" % (len(pieces), hashlib.sha256(packed).hexdigest().encode())
    return [*(b"gpugate-answer %d %s" % (i, piece) for i, piece in enumerate(pieces)), ending]


def test_document_arrives_byte_for_byte(tmp_path: Path) -> None:
    """What the probe framed is what the controller unpacks, and every line on the way is short."""
    lines = answer(tmp_path)
    assert max(map(len, lines)) < 110
    assert answered(ASKED, taken(lines).payload()) == document()


def test_other_output_between_the_lines_is_passed_by(tmp_path: Path) -> None:
    """Banners, messages and empty lines between those of an answer change nothing."""
    lines = [line for one in answer(tmp_path) for line in (b"", b"slurmstepd: warning: x", b"gpugate-answers", one)]
    assert answered(ASKED, taken([b"gpugate-answer begin", *lines]).payload()) == document()


def test_answer_that_does_not_compress_arrives(tmp_path: Path) -> None:
    """As much as a probe may say, in bytes that nothing makes smaller, comes through whole."""
    noise = tmp_path / "noise"
    noise.write_bytes(os.urandom(512 * 1024))
    got = taken(sent(f"cat {noise}").stdout.splitlines()).payload()
    assert got.partition(b"\n")[2] == noise.read_bytes()


SPOILT: dict[str, tuple[Callable[[list[bytes]], list[bytes]], str]] = {
    "gap": (lambda lines: lines[:3] + lines[4:], "line 4 of the answer came too early: one before it is missing"),
    "repeated line": (lambda lines: lines[:4] + lines[3:], "line 3 of the answer came twice"),
    "swapped lines": (lambda lines: [lines[1], lines[0], *lines[2:]], "came too early"),
    "whole answer twice": (lambda lines: lines + lines, "came after its end"),
    "two beginnings": (lambda lines: [b"gpugate-answer begin"] * 2 + lines, "begins twice"),
    "cut short": (lambda lines: lines[:-1], "was cut short after"),
    "last line of data lost": (lambda lines: lines[:-2] + lines[-1:], "lines of the answer came, and"),
    "torn line": (lambda lines: [*lines[:2], lines[2][:50], lines[2][50:], *lines[3:]], "line 2 of the answer is torn"),
    "torn mark": (lambda lines: [*lines[:2], lines[2][:16], lines[2][16:], *lines[3:]], "torn or too long"),
    "too long line": (lambda lines: [lines[0] + b"AAAA", *lines[1:]], "torn or too long"),
    "other bytes": (lambda lines: [lines[0][:-4] + b"AAAA", *lines[1:]], "its digest differs"),
    "no base64": (lambda lines: [lines[0][:-1] + b"=", *lines[1:]], "no base64"),
    "mixed with another": (lambda lines: [*lines[:2], payload(b"x")[0], *lines[2:]], "came twice"),
}


@pytest.mark.parametrize("how", SPOILT)
def test_spoilt_answer_is_refused(tmp_path: Path, how: str) -> None:
    """Whatever is lost, doubled, swapped, torn or altered on the way makes the answer worthless, with the reason."""
    spoil, sentence = SPOILT[how]
    found = taken(spoil(answer(tmp_path)))
    with pytest.raises(EvidenceError, match=sentence):
        found.payload()


def test_answer_that_swells_is_refused() -> None:
    """A small answer that unpacks to more than is allowed is refused before it fills the memory."""
    with pytest.raises(EvidenceError, match=f"larger than {MOST_BYTES} bytes"):
        taken(payload(b"0" * (MOST_BYTES + 1))).payload()


def test_endless_answer_is_refused() -> None:
    """An answer of more lines than any can have is refused while it comes."""
    line = base64.b64encode(b"0" * 57)
    with pytest.raises(EvidenceError, match="has more than 16384 lines"):
        taken([b"gpugate-answer %d %s" % (i, line) for i in range(16_385)]).payload()


@pytest.mark.parametrize(
    ("node", "content", "sentence"),
    [
        ("gpu1", document(), "gpu0: this answer was made on gpu1, which counts for neither"),
        ("gpu0", document(nonce="f" * 16), r"gpu0 answers another request than ours \(nonce ffffffffffffffff\)"),
        ("gpu0", b"{}", "gpu0: the document has schema None"),
    ],
)
def test_answer_to_something_else_is_refused(tmp_path: Path, node: str, content: bytes, sentence: str) -> None:
    """An answer of another node, to another request, or of no evidence counts for nobody."""
    lines = answer(tmp_path, node, content)
    with pytest.raises(EvidenceError, match=sentence):
        answered(ASKED, taken(lines).payload())


def test_answer_for_another_profile_is_refused(tmp_path: Path) -> None:
    """A node that was asked for the nightly profile does not answer with admission's."""
    with pytest.raises(EvidenceError, match="gpu0 answered for the profile admission, asked for nightly"):
        answered(replace(ASKED, profile="nightly"), taken(answer(tmp_path)).payload())


@pytest.mark.parametrize("head", [b"", b"[]", b'{"node": "gpu0", "status": "0", "words": ""}', b'{"node": "gpu0"}'])
def test_answer_without_a_head_is_refused(head: bytes) -> None:
    """What is no answer of our program is told as that."""
    with pytest.raises(EvidenceError, match="gpu0: the answer's head is not valid"):
        answered(ASKED, taken(payload(head + b"\nrest")).payload())


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("echo 'sudo: a password is required' >&2; exit 1", "gpu0 does not let the engine's user become root: sudo: a"),
        ("exec python3 -I /nowhere/gpugate-probe.pyz", "gpu0 has no probe .* run playbooks/provision.yml on it"),
        ("exec /nowhere/python3", "gpu0 cannot start the probe .* set ansible_python_interpreter"),
        (
            "echo working >&2; kill -9 $$",
            "gpu0: the probe's answer holds no document: the probe ended with exit status 137",
        ),
        ("printf 'a\\033[2J\\n' >&2; exit 2", r"exit status 2: a\\x1b\[2J"),
        ("true", "exit status 0: it said nothing"),
    ],
)
def test_probe_that_gives_no_document_is_told(command: str, sentence: str) -> None:
    """Why a node's probe gave no document is said with its exit status, its last words, and what to do."""
    with pytest.raises(EvidenceError, match=sentence):
        answered(ASKED, taken(sent(command).stdout.splitlines()).payload())


def test_command_gets_the_request_and_its_messages_pass_on() -> None:
    """The request reaches the command, and what the command says meanwhile reaches standard error in short lines."""
    done = sent("cat >&2; printf %500d 7 >&2", given=b"the request\n")
    assert done.returncode == 0
    lines = done.stderr.splitlines()
    assert lines[0] == b"the request"
    assert max(map(len, lines)) <= 200


def test_node_without_a_request_says_so(tmp_path: Path) -> None:
    """A pod on a node that nobody asked says that there is no request for it."""
    with pytest.raises(EvidenceError, match=r"gpu0: there is no request for this node: .*/gpu0.json: No such file"):
        answered(ASKED, taken(sent("true", request=str(tmp_path / "gpu0.json")).stdout.splitlines()).payload())
