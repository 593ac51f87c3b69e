"""The burn kernel's text: it assembles for every card, and does what it says, step by step."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest
from gpugate.probe.kernels import BURN, FLOP_PER_STEP, INCREMENT, MULTIPLIER, RESULT_WORDS, burn_ptx, golden

WORD = 0xFFFFFFFF


def assembler() -> str | None:
    """A ptxas: on the path, or of the wheel nvidia-cuda-nvcc-cu12."""
    found = shutil.which("ptxas")
    if found is None:
        for name in ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvcc-cu11", "nvidia-cuda-nvcc"):
            try:
                files = metadata.files(name) or []
            except metadata.PackageNotFoundError:
                continue
            found = next((str(file.locate()) for file in files if file.name == "ptxas"), found)
    return found


@pytest.mark.skipif(assembler() is None, reason="no ptxas here (pip install nvidia-cuda-nvcc-cu12)")
@pytest.mark.parametrize("target", ["sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_kernel_assembles_for_every_card(tmp_path: Path, target: str) -> None:
    """ptxas translates the kernel without a warning, from Turing to Blackwell."""
    text = tmp_path / "burn.ptx"
    text.write_bytes(burn_ptx())
    done = subprocess.run(
        [str(assembler()), f"-arch={target}", str(text), "-o", str(tmp_path / "burn.cubin")],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "not defined for option 'gpu-name'" in done.stderr + done.stdout:
        pytest.skip(f"this ptxas does not know {target}")
    assert done.returncode == 0, done.stderr
    assert done.stdout + done.stderr == ""


def test_kernel_asks_for_nothing_newer_than_turing() -> None:
    """The text is PTX 6.3 for sm_75, which every driver since 410 translates, and plain ASCII."""
    text = burn_ptx().decode("ascii")
    assert ".version 6.3\n" in text
    assert ".target sm_75\n" in text
    assert f".visible .entry {BURN}(" in text


@pytest.mark.parametrize("iterations", [0, 1, 2, 3, 7, 64, 1000, 4095])
@pytest.mark.parametrize("start", [0, 1, 20011, WORD])
def test_golden_answer_equals_the_steps(iterations: int, start: int) -> None:
    """The closed form is what one gets by taking the steps one after another."""
    x = start
    for _ in range(iterations):
        x = (x * MULTIPLIER + INCREMENT) & WORD
    multiplier, increment = golden(iterations)
    assert (start * multiplier + increment) & WORD == x


def test_golden_answers_compose() -> None:
    """A million steps and then two million more are three million, which nobody wants to take one by one."""
    first, then, both = golden(1_000_000), golden(2_000_000), golden(3_000_000)
    assert (first[0] * then[0] & WORD, (first[1] * then[0] + then[1]) & WORD) == both


def test_kernel_answers_right() -> None:
    """Run step by step, every thread completes, agrees with the golden answer and leaves no mismatch."""
    for iterations in (2, 6, 8, 22):
        result = [0] * RESULT_WORDS
        for thread in (0, 1, 300, 513):
            Machine(result).run(thread, iterations, 77, *golden(iterations))
        assert result == [4, 0, 0, 0, 0]


def test_wrong_golden_answer_is_found_in_every_thread() -> None:
    """A wrong expectation makes each thread a mismatch, and the first one is kept with both words."""
    result = [0] * RESULT_WORDS
    multiplier, increment = golden(10)
    for thread in (5, 6, 7):
        Machine(result).run(thread, 10, 1, multiplier, increment ^ 4)
    expected = (6 * multiplier + (increment ^ 4)) & WORD
    assert result == [3, 3, 6, expected, (6 * multiplier + increment) & WORD]


@pytest.mark.parametrize("register", ["%x", *[f"%y{i}" for i in range(8)]])
def test_one_flipped_bit_is_found(register: str) -> None:
    """A single bit that flips once in any of the nine chains is a mismatch of that thread, and of no other."""
    result = [0] * RESULT_WORDS
    Machine(result).run(40, 12, 9, *golden(12))
    Machine(result, flip=register).run(41, 12, 9, *golden(12))
    Machine(result).run(42, 12, 9, *golden(12))
    assert result[:3] == [3, 1, 42]
    assert result[3] != result[4]


def test_odd_number_of_iterations_is_no_proof() -> None:
    """An odd number ends too, and counts as a mismatch: its chains cannot be back at their start."""
    result = [0] * RESULT_WORDS
    Machine(result).run(0, 3, 9, *golden(3))
    assert result[1] == 1


def test_flop_count_is_the_kernel_s() -> None:
    """The rate is counted from eight fused multiply-adds a step, which is what the loop holds."""
    text = burn_ptx().decode()
    loop = text[text.index("BY_EIGHT:") : text.index("BY_TWO:")]
    assert loop.count("fma.rn.f32") * 2 == FLOP_PER_STEP * 8 == FLOP_PER_STEP * loop.count("mad.lo.u32")


class Machine:
    """Runs one thread of the kernel's text, for the instructions that it uses; FP32 bits are kept as integers.

    `flip`: the register of which one bit flips, once, in the middle of the work.
    """

    def __init__(self, result: list[int], flip: str | None = None) -> None:
        self.result, self.flip = result, flip
        body = burn_ptx().decode().split("{", 1)[1].rsplit("}", 1)[0]
        lines = [line.split("//")[0].strip() for line in body.splitlines()]
        self.code: list[str] = []
        self.labels: dict[str, int] = {}
        for line in lines:
            if line.endswith(":"):
                self.labels[line[:-1]] = len(self.code)
            elif line and not line.startswith("."):
                self.code.append(line.rstrip(";"))

    def run(self, thread: int, iterations: int, seed: int, lcg_mul: int, lcg_add: int) -> None:
        """Thread `thread` of the grid, in blocks of 256."""
        parameters = {"iterations": iterations, "seed": seed, "lcg_mul": lcg_mul, "lcg_add": lcg_add, "result_ptr": 0}
        registers = {"%ctaid.x": thread // 256, "%ntid.x": 256, "%tid.x": thread % 256}
        place = 0
        while True:
            line = self.code[place]
            place += 1
            guard = re.match(r"@(%\w+)\s+", line)
            if guard:
                if not registers[guard[1]]:
                    continue
                line = line[guard.end() :]
            name, _, rest = line.partition(" ")
            operands = [operand.strip() for operand in rest.split(",")] if rest.strip() else []
            if name == "ret":
                return
            if name == "bra":
                place = self.labels[operands[0]]
                continue
            self._execute(name, operands, registers, parameters)
            if name == "fma.rn.f32" and self.flip is not None and self.flip in registers:
                registers[self.flip] ^= 1 << 9
                self.flip = None

    def _execute(self, name: str, operands: list[str], registers: dict[str, int], parameters: dict[str, int]) -> None:
        def value(operand: str) -> int:
            return registers[operand] if operand.startswith("%") else int(operand, 0)

        def word(operand: str) -> int:
            return int(operand.strip("[]").partition("+")[2] or 0) // 8

        target, sources = operands[0], operands[1:]
        if name.startswith("ld.param"):
            registers[target] = parameters[sources[0].strip("[]")]
        elif name.startswith("st.global"):
            self.result[word(target)] = value(sources[0])
        elif name.startswith("atom.global.add"):
            registers[target] = self.result[word(sources[0])]
            self.result[word(sources[0])] += value(sources[1])
        elif name.startswith("atom.global.cas"):
            registers[target] = old = self.result[word(sources[0])]
            if old == value(sources[1]):
                self.result[word(sources[0])] = value(sources[2])
        elif name == "fma.rn.f32":
            a, b, c = (as_float(value(source)) for source in sources)
            registers[target] = as_bits(a * b + c)
        else:
            registers[target] = INSTRUCTIONS[name](*[value(source) for source in sources])


def as_bits(number: float) -> int:
    """The FP32 bits of a number that FP32 holds exactly; the kernel's steps know no others."""
    bits = struct.unpack("<I", struct.pack("<f", number))[0]
    assert as_float(bits) == number
    return int(bits)


def as_float(bits: int) -> float:
    """The number that FP32 bits stand for."""
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


def _signed(word: int) -> int:
    return word - 2**32 if word >> 31 else word


INSTRUCTIONS: dict[str, Callable[..., int]] = {
    "mov.u32": lambda a: a,
    "mov.b32": lambda a: a,
    "mov.f32": lambda a: a,
    "cvta.to.global.u64": lambda a: a,
    "cvt.u64.u32": lambda a: a,
    "cvt.rn.f32.u32": lambda a: as_bits(float(a)),
    "cvt.rn.f32.s32": lambda a: as_bits(float(_signed(a))),
    "add.u32": lambda a, b: (a + b) & WORD,
    "add.u64": lambda a, b: a + b,
    "sub.u32": lambda a, b: (a - b) & WORD,
    "and.b32": lambda a, b: a & b,
    "shr.u32": lambda a, b: a >> b,
    "mul.lo.u32": lambda a, b: a * b & WORD,
    "mad.lo.u32": lambda a, b, c: (a * b + c) & WORD,
    "setp.lt.u32": lambda a, b: a < b,
    "setp.ne.u32": lambda a, b: a != b,
    "setp.ne.u64": lambda a, b: a != b,
}
