"""The evidence document: gaps stay gaps, hostile documents are refused with a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from gpugate.errors import EvidenceError, Unavailable
from gpugate.evidence import codec
from gpugate.evidence.codec import json_schema, parse, serialise
from gpugate.evidence.facts import Gap
from gpugate.evidence.frame import MAX_DOCUMENT_BYTES, pack, unpack
from healthy import healthy, with_fact
from hypothesis import given
from hypothesis import strategies as st

DOCS = Path(__file__).parents[2] / "docs"


def spoilt(change: dict[str, Any], *path: str) -> bytes:
    document: Any = json.loads(serialise(healthy()))
    place = document
    for key in path:
        place = place[int(key) if isinstance(place, list) else key]
    place.update(change)
    return json.dumps(document).encode()


def test_document_survives_the_round_trip() -> None:
    """What was measured and what was not come back as they went."""
    evidence = with_fact(healthy(), "gpus.2.power.draw_w", Gap("nvmlDeviceGetPowerUsage: GPU is lost", 15))
    assert serialise(parse(serialise(evidence))) == serialise(evidence)


def test_reading_a_gap_raises_its_reason() -> None:
    """A gap answers no question but why; getattr's default does not hide it."""
    gpu = parse(serialise(with_fact(healthy(), "gpus.2.power.draw_w", Gap("GPU is lost", 15)))).gpus[2]
    with pytest.raises(Unavailable, match="draw_w could not be measured: GPU is lost"):
        getattr(gpu.power, "draw_w", 0.0)
    assert gpu.power.gap("draw_w") == Gap("GPU is lost", 15)
    assert "GPU is lost" in repr(gpu.power)


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        (b"", "not JSON"),
        (b"[]", "schema None"),
        (b"{" * 100_000, "not JSON"),
        (b'{"schema": 1, "schema": 1}', "twice"),
        (b'{"schema": NaN}', "NaN"),
        (b'{"schema": 99}', "schema 99"),
        (b'{"schema": 1}', "does not fit"),
        (b"x" * (MAX_DOCUMENT_BYTES + 1), "over the cap"),
        (json.dumps({"schema": 1, "a": [0] * 5000}).encode(), "5000 items"),
        (json.dumps({"schema": 1, "a": "\x1b[31m"}).encode(), "control characters"),
        (json.dumps({"schema": 1, "a": "x" * 5000}).encode(), "5000 characters"),
        (spoilt({"lines": ["x"] * 5000}, "kernel_log"), "5000 items"),
        (spoilt({"lines": ["a\x7f"]}, "kernel_log"), "control characters"),
        (spoilt({"lines": ["a\u202e"]}, "kernel_log"), "control characters"),
        (spoilt({"lines": ["x" * 5000]}, "kernel_log"), "5000 characters"),
        (b'{"schema": 1, "a": ' + b'{"b":' * 20 + b"1" + b"}" * 20 + b"}", "nested deeper"),
        (spoilt({"bogus": 1}, "gpus", "0", "power"), "bogus"),
        (spoilt({"limit_w": "650"}, "gpus", "0", "power"), "limit_w"),
        (spoilt({"limit_w": True}, "gpus", "0", "power"), "limit_w"),
        (spoilt({"limit_w": None}, "gpus", "0", "power"), "limit_w"),
        (spoilt({"limit_w": {"unavailable": "no", "code": 3, "value": 650.0}}, "gpus", "0", "power"), "limit_w"),
        (spoilt({"index": {"unavailable": "no", "code": 3}}, "gpus", "0"), "index"),
        (spoilt({"index": 1}, "gpus", "0"), "GPU index 1 twice"),
        (spoilt({"uuid": healthy().gpus[1].uuid}, "gpus", "0"), "GPU UUID GPU-.* twice"),
        (spoilt({"uuid": healthy().gpus[1].uuid}, "burn", "gpus", "0"), "burn record GPU-.* twice"),
        (spoilt({"uuid": healthy().gpus[1].uuid}, "launches", "0"), "kernel launch GPU-.* twice"),
    ],
)
def test_hostile_documents_are_refused(document: bytes, complaint: str) -> None:
    """A document that is not exactly evidence is refused, and the sentence says why."""
    with pytest.raises(EvidenceError, match=complaint):
        parse(document)


_TEXT = st.text(max_size=20) | st.sampled_from(["x" * 4096, "x" * 4097, "\\", '"', "\x7f", "\u202e", "ä", "\ud800"])
_PLAIN = st.recursive(
    _TEXT | st.integers() | st.booleans() | st.sampled_from([[0] * 4096, [0] * 4097]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_TEXT, inner, max_size=4),
)


@given(_PLAIN, st.booleans())
def test_bytes_that_look_plain_are(value: Any, escaped: bool) -> None:
    """Whatever is let through by a look at its bytes alone would be let through by the look at every item."""
    text = json.dumps(value, ensure_ascii=escaped)
    if codec._is_plain(text.encode(errors="surrogatepass")):
        codec._check_shape(value, 0, "document")


def test_frame_is_found_behind_a_banner() -> None:
    """What a login prints before the probe speaks is ignored."""
    assert unpack(b"Welcome to gpu0!\nAuthorised use only\n" + pack(b'{"a":1}')) == b'{"a":1}'


@pytest.mark.parametrize(
    ("output", "complaint"),
    [
        (b"", "no document"),
        (b'{"schema": 1}', "no document"),
        (pack(b"{}" * 50)[:-20], "cut short"),
        (pack(b'{"a":1}').replace(b'"a"', b'"b"'), "digest differs"),
        (pack(b"{}") + pack(b"{}"), "more than one"),
        (b"gpugate-evidence 999999999 " + b"0" * 64 + b"\n", "over the cap"),
    ],
)
def test_broken_frames_are_refused(output: bytes, complaint: str) -> None:
    """A frame that is missing, cut, altered, doubled or too large is refused."""
    with pytest.raises(EvidenceError, match=complaint):
        unpack(output)


def test_document_over_the_cap_is_not_sent() -> None:
    """The probe itself refuses to send more than the cap."""
    with pytest.raises(EvidenceError, match="over the cap"):
        pack(b"x" * (MAX_DOCUMENT_BYTES + 1))


def test_published_schema_is_current() -> None:
    """docs/evidence.schema.json is what this version validates against."""
    published = json.loads((DOCS / "evidence.schema.json").read_text())
    assert published == json_schema(), "rewrite it: python -m gpugate.evidence.codec > docs/evidence.schema.json"
