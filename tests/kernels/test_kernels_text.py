"""The texts that the probe carries: of the present source, honest about what they need, good for every card."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from importlib import metadata
from pathlib import Path

import pytest
from gpugate.probe import kernels
from gpugate.probe.kernels.abi import CHAINS, PASSES, STEPS, STREAM_CHUNKS, TILES

SOURCE = Path(kernels.__file__).parent / "burn.cu"
CAPABILITY = {75: (7, 5), 80: (8, 0)}
VERSIONS = {75: "6.5", 80: "7.0"}
RELEASES = ["11.8", "12.2", "12.9", "13.0"]  # of CUDA, in `tox -e kernels`
MAIN_CARDS = {75, 80, 86, 89, 90, 100, 120}  # asked for in the ordinary suite, where the assembler knows them
WARP = 32


def text(architecture: int) -> str:
    """The text as the driver gets it."""
    return kernels.ptx(CAPABILITY[architecture]).decode("ascii")


def assemblers() -> dict[str, Path]:
    """ptxas by release: the four in $GPUGATE_PTXAS (tools/need_ptxas.py fetches them), or that of the tests' wheel."""
    folder = os.environ.get("GPUGATE_PTXAS")
    if folder:
        return {release: Path(folder) / release / "ptxas" for release in RELEASES}
    files = metadata.files("nvidia-cuda-nvcc-cu12") or []
    found = next((file for file in files if file.name == "ptxas"), None)
    assert found, "the wheel nvidia-cuda-nvcc-cu12, of the dependency group `test`, is not installed here"
    return {"installed": Path(str(found.locate()))}


def asked() -> list[str]:
    """The releases to test with."""
    return RELEASES if os.environ.get("GPUGATE_PTXAS") else ["installed"]


def assemble(assembler: Path, program: str, target: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run ptxas, which says how many registers it used."""
    (folder / "burn.ptx").write_text(program)
    command = [str(assembler), "-v", f"-arch={target}", str(folder / "burn.ptx"), "-o", str(folder / "burn.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("architecture", [75, 80])
@pytest.mark.parametrize("release", asked())
def test_the_texts_assemble_for_every_card(tmp_path: Path, architecture: int, release: str) -> None:
    """From the text's own card up, ptxas has nothing to say but what it used: at most 128 registers, and no spills."""
    assembler = assemblers()[release]
    said = subprocess.run([str(assembler), "--help"], capture_output=True, text=True, check=True, timeout=60).stdout
    known = {int(number) for number in re.findall(r"'sm_(\d+)'", said) if int(number) >= architecture}
    cards = known if os.environ.get("GPUGATE_PTXAS") else known & MAIN_CARDS
    assert {80, 86, 89, 90} <= cards

    for card in sorted(cards):
        done = assemble(assembler, text(architecture), f"sm_{card}", tmp_path)
        said = done.stdout + done.stderr
        assert done.returncode == 0, (card, said)
        assert [line for line in said.splitlines() if not re.match(r"ptxas info +:|    \d+ bytes stack", line)] == []
        assert re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", said) == [("0", "0", "0")] * 2
        registers = [int(number) for number in re.findall(r"Used (\d+) registers", said)]
        assert len(registers) == 2, said
        assert max(registers) <= 65536 // kernels.THREADS_A_BLOCK


@pytest.mark.parametrize(("architecture", "older"), [(75, "6.4"), (80, "6.5")])
def test_the_texts_state_what_they_need(tmp_path: Path, architecture: int, older: str) -> None:
    """The version in a text's head is the one that its instructions need: with the one before, ptxas refuses it."""
    stated = f".version {VERSIONS[architecture]}\n"
    assert text(architecture).count(stated) == 1
    assert f"\n.target sm_{architecture}\n" in text(architecture)

    for assembler in assemblers().values():
        aged = text(architecture).replace(stated, f".version {older}\n")
        done = assemble(assembler, aged, f"sm_{architecture}", tmp_path)
        assert done.returncode != 0
        assert f"requires PTX ISA .version {VERSIONS[architecture]} or later" in done.stdout + done.stderr


@pytest.mark.parametrize("architecture", [75, 80])
def test_the_texts_are_made_of_the_present_source(architecture: int) -> None:
    """A text names the source that it was made of: who edits that has to run tools/build_kernels.py."""
    first = text(architecture).splitlines()[0]
    assert f"(sha256 {hashlib.sha256(SOURCE.read_bytes()).hexdigest()})" in first


@pytest.mark.parametrize("architecture", [75, 80])
def test_the_entries_take_what_the_host_gives(architecture: int) -> None:
    """Both entries are there, with nine parameters each of the sizes that are agreed on, for blocks of 512 threads."""
    found = re.findall(r"\.visible \.entry (\w+)\((.*?)\)\n(.*?)\{", text(architecture), re.DOTALL)
    sizes = {name: re.findall(r"\.param \.u(\d+)", parameters) for name, parameters, _ in found}
    assert sizes == {
        kernels.BURN: ["64"] * 6 + ["32", "32", "64"],
        kernels.MEMORY: ["64"] * 3 + ["32"] * 6,
    }
    assert all(f".maxntid {kernels.THREADS_A_BLOCK}, 1, 1" in bounds for _, _, bounds in found)
    assert ".shared" not in text(architecture)
    assert ".global .align" not in text(architecture)


@pytest.mark.parametrize("architecture", [75, 80])
def test_operations_are_the_loops_instructions(architecture: int) -> None:
    """The host's count of operations is that of the instructions in the text's loops, times how often they run."""
    program, capability = text(architecture).partition(f".entry {kernels.MEMORY}(")[0], CAPABILITY[architecture]
    seen = {"stream"}

    for work, pattern in (
        ("f16", r"f32\.f16\.f16\.f32"),
        ("bf16", r"f32\.bf16\.bf16\.f32"),
        ("s8", r"s32\.s8\.s8\.s32"),
    ):
        found = re.findall(rf"mma\.sync\.aligned\.m(\d+)n(\d+)k(\d+)\.row\.col\.{pattern} ", program)
        if found:
            m, n, k = map(int, found[0])
            assert len(re.findall(r"\bmma\.", loop(program, pattern))) == len(found) == TILES * TILES
            assert kernels.operations(work, capability) == 2 * m * n * k * len(found) * PASSES
            seen.add(work)

    steps = loop(program, r"fma\.rn\.f32")
    step, end = re.findall(r"add\.s32 \t\S+, \S+, (\d+);|setp\.\S+ \t\S+, \S+, (\d+);", steps)
    assert int(end[1]) == STEPS
    turns = STEPS // int(step[0])
    instructions = len(re.findall(r"fma\.rn\.f32", steps))
    assert instructions * turns == len(re.findall(r"fma\.rn\.f32", program)) * turns == CHAINS * STEPS
    assert kernels.operations("fma", capability) == 2 * instructions * turns * WARP
    seen.add("fma")

    loads, stores = (len(re.findall(rf"{name}\.global\.cg\.v4\.u32", program)) for name in ("ld", "st"))
    assert kernels.operations("stream", capability) == 16 * (loads + stores) * WARP * STREAM_CHUNKS
    assert seen == set(kernels.works(capability))


def loop(program: str, pattern: str) -> str:
    """The innermost loop around the first instruction that matches: from its label to the branch back to it."""
    at = re.search(pattern, program)
    assert at, pattern
    label = re.findall(r"^(\$L\w+):$", program[: at.start()], re.MULTILINE)[-1]
    body = program[program.index(f"\n{label}:") :]
    back = re.search(rf"\bbra(?:\.uni)? \t{re.escape(label)};", body)
    assert back, f"{label} is no loop"
    return body[: back.end()]
