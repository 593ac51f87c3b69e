"""The burn's kernels on the simulated driver: what they answer, how long they take, and how they go wrong."""

from __future__ import annotations

import ctypes
import struct
import threading

import pynvml
import pytest
from cuda_calls import Burn, CudaError
from driver_node import DriverNode, MakeNode
from gpugate.probe import kernels

T4, H100, A100 = "T4", "H100-SXM5-80GB", "A100-SXM4-80GB"


@pytest.mark.parametrize("board", [T4, A100, H100])
def test_right_tables_find_no_wrong_word(make_node: MakeNode, board: str) -> None:
    """The simulator's own arithmetic agrees with the product's golden words, in every work alone and in the mix."""
    burn = Burn(make_node(board, gpus=1, time_scale=100).cuda())
    for work in ["mix", *kernels.works(burn.capability)]:
        burn.fill()  # another number of stream warps has other slices
        burn.launch(work)
        burn.launch(work)
    result = burn.read()
    assert result.wrong == 0
    assert result.records() == []
    assert result.threads == 512 * burn.blocks * (1 + 3 * (1 + len(kernels.works(burn.capability))))
    assert all(result.rounds(work) > 0 for work in kernels.works(burn.capability))
    burn.close()


def test_rounds_are_counted_by_role(make_node: MakeNode) -> None:
    """So many rounds for each warp of each role; none without rounds, without cycles or without a buffer."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda())
    burn.launch(max_rounds=8)
    result = burn.read()
    assert [result.rounds(work) for work in kernels.ROLES] == [8 * 4 * 132, 8 * 8 * 132, 0, 0, 8 * 4 * 132]
    burn.launch(max_rounds=0)
    burn.launch(seconds=0)
    again = burn.read()
    assert again.threads == 4 * 132 * 512
    assert again.words[1:] == result.words[1:]
    burn.launch(seconds=1e-9, chunks=0)
    assert burn.read().rounds("fma") == 9 * 4 * 132
    assert burn.read().rounds("stream") == result.rounds("stream")
    burn.close()


def test_a_card_without_bf16_does_no_round_of_it(make_node: MakeNode) -> None:
    """On a T4 such a warp is idle."""
    burn = Burn(make_node(T4, gpus=1, time_scale=100).cuda())
    burn.launch(roles=0x3333_3333_3333_3333)
    assert burn.read().words[4:10] == [0] * 6
    burn.close()


@pytest.mark.parametrize(
    ("board", "rates"),
    [
        (H100, {"fma": 67e12 * 0.85, "f16": 989e12 * 0.63, "s8": 1979e12 * 0.63, "stream": 3350e9 * 0.92}),
        (T4, {"fma": 8.1e12 * 0.85, "f16": 65e12 * 0.9, "s8": 130e12 * 0.9, "stream": 320e9 * 0.92}),
    ],
)
def test_works_alone_run_at_the_boards_rates(make_node: MakeNode, board: str, rates: dict[str, float]) -> None:
    """Operations or bytes in device time, from the data sheet's peaks and what such kernels reach of them."""
    burn = Burn(make_node(board, gpus=1, time_scale=20).cuda())
    for work, rate in rates.items():
        burn.fill()
        assert burn.rate(work) == pytest.approx(rate, rel=0.01), work
    burn.close()


def test_a_slow_gpu_does_less_and_a_limit_slows_it(make_node: MakeNode) -> None:
    """Rounds follow the speed factor; a power limit lowers the clock, in which the cycles are counted."""
    node = make_node(gpus=3, time_scale=20)
    node.state.apply("slow_gpu", gpu=1)
    node.state.set("gpu.2.power_limit_w", 300)
    cuda = node.cuda()
    rates, times = [], []
    for device in range(3):
        burn = Burn(cuda, device)
        rates.append(burn.rate("f16"))
        times.append(burn.seconds(lambda burn=burn: burn.launch("f16", seconds=0.1)))  # type: ignore[misc]
        burn.close()
    assert rates[1] / rates[0] == pytest.approx(0.88, rel=0.01)
    assert rates[2] / rates[0] < 0.75
    assert times[:2] == pytest.approx([0.1, 0.1], rel=0.01)
    assert times[2] > 0.13


def _watts(node: DriverNode, burn: Burn, roles: int) -> float:
    burn.launch(roles=roles, chunks=4, seconds=60)
    gpu = node.gpu()
    start = node.state.show()["model_time_s"]
    while node.state.show()["model_time_s"] < start + 1:
        pynvml.nvmlDeviceGetName(gpu)
    watts: float = node.state.get("gpu.0.power_w")  # type: ignore[assignment]
    burn.read()
    return watts


def test_power_follows_works_and_warps(make_node: MakeNode) -> None:
    """The mix draws the most; each work alone less; a quarter of the warps about a quarter of the dynamic power."""
    node = make_node(gpus=1, time_scale=1000)
    burn = Burn(node.cuda())
    alone = {work: _watts(node, burn, kernels.roles(work, (9, 0))) for work in kernels.works((9, 0))}
    mix = kernels.roles("mix", (9, 0))
    steps = [_watts(node, burn, mix & (1 << 16 * n) - 1) for n in (1, 2, 3, 4)]
    assert steps[3] == pytest.approx(0.97 * 700)
    assert all(70 < watts < steps[3] - 20 for watts in alone.values())
    assert min(alone, key=alone.__getitem__) == "stream"
    assert steps == sorted(steps)
    assert (steps[0] - 70) / (steps[3] - 70) == pytest.approx(0.25, abs=0.05)
    burn.close()


def test_work_in_the_queue_keeps_its_own_power(make_node: MakeNode) -> None:
    """A cool work waits behind a hot one and lowers the power when its turn comes, not before."""
    node = make_node(gpus=1, time_scale=20)
    burn = Burn(node.cuda())
    burn.launch(seconds=30)
    burn.launch("stream", chunks=4, seconds=10)
    gpu = node.gpu()
    seen = []
    while burn.cuda.library.cuStreamQuery(None) == 600:
        seen.append(round(pynvml.nvmlDeviceGetFieldValues(gpu, [186])[0].value.uiVal / 1000))
    mix, stream = 679, round(70 + 0.6 * (679 - 70))
    assert seen[0] == mix
    assert stream in seen
    assert mix not in seen[seen.index(stream) :]
    burn.close()


def test_a_burn_takes_device_time_and_heats(make_node: MakeNode) -> None:
    """60 s of events pass in far less wall time at scale 200; the GPU is busy, near its limit, and hot at the end."""
    node = make_node(gpus=1, time_scale=200)
    burn = Burn(node.cuda())
    assert burn.seconds(burn.launch) == pytest.approx(0.085, rel=0.01)
    gpu = node.gpu()
    for _ in range(30):
        burn.launch(seconds=2)
    end = burn.cuda.event()
    burn.cuda.call("cuEventRecord", end, None)
    assert burn.cuda.library.cuEventQuery(end) == 600
    assert burn.cuda.library.cuStreamQuery(None) == 600
    busy = []
    while burn.cuda.library.cuEventQuery(end) == 600:
        busy.append((pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu, pynvml.nvmlDeviceGetPowerUsage(gpu)))
    assert max(busy) == (100, 679_000)
    assert node.state.show()["gpu"][0]["temperature_c"] > 58
    assert [p.pid for p in pynvml.nvmlDeviceGetComputeRunningProcesses(gpu)] != []
    burn.close()
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(gpu) == []


@pytest.mark.parametrize("board", [T4, H100])
@pytest.mark.parametrize("work", ["fma", "f16", "bf16", "s8"])
def test_a_wrong_golden_word_is_found_where_it_is(make_node: MakeNode, board: str, work: str) -> None:
    """In each warp and each round of its set, with set, lane and word; and no more once the tables are right again."""
    burn = Burn(make_node(board, gpus=1, time_scale=100).cuda(), blocks=2)
    tables = bytearray(kernels.tables(burn.capability))
    region = struct.unpack_from("<8I", tables)[kernels.ROLES[work]]
    if not region:
        assert (board, work) == (T4, "bf16")
        return
    number, lane = len(work + board) % 4, 9
    word, rows, before = {
        ("fma", T4): (5, 17, 8), ("fma", H100): (5, 17, 8),
        ("f16", T4): (27, 4 * 2 + 4 + 64, 12), ("f16", H100): (27, 4 * 4 + 4 * 2 + 64, 24),
        ("bf16", H100): (27, 4 * 4 + 4 * 2 + 64, 24),
        ("s8", T4): (27, 4 + 4 + 32, 8), ("s8", H100): (27, 4 * 4 + 4 * 2 + 64, 24),
    }[work, board]  # fmt: skip
    at = 4 * (region + 32 * (number * rows + before + word) + lane)
    good = struct.unpack_from("<I", tables, at)[0]
    struct.pack_into("<I", tables, at, good ^ 0x40)
    burn.upload(bytes(tables))
    burn.launch(work, max_rounds=6)
    result = burn.read()
    assert result.wrong == 2 * 16 * (2 if number < 2 else 1)  # blocks, warps, rounds of this set
    first = result.records()[0]
    assert (first.role, first.round, first.thread % 32, first.word) == (kernels.ROLES[work], number, lane, word)
    assert (first.expected, first.found) == (good ^ 0x40, good)
    burn.upload(kernels.tables(burn.capability))
    burn.launch(work, max_rounds=6)
    assert burn.read().wrong == result.wrong
    burn.close()


def test_a_wrong_operand_spoils_its_row_of_the_product(make_node: MakeNode) -> None:
    """One element of A is in a row of four products, each of eight columns: 32 words."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda(), blocks=1)
    tables = bytearray(kernels.tables(burn.capability))
    region = struct.unpack_from("<8I", tables)[kernels.ROLES["f16"]]
    tables[4 * region] ^= 1
    burn.upload(bytes(tables))
    burn.launch("f16", max_rounds=1)
    assert burn.read().wrong == 32 * 16
    burn.close()


def _wrong(burn: Burn, launches: int, work: str = "mix") -> list[int]:
    found = []
    for _ in range(launches):
        burn.clear()
        burn.launch(work, max_rounds=3)
        found.append(burn.read().wrong)
    return found


TILE = 32 * 4 * 3  # lanes, registers, rounds


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("wrong_bit_once", [1, 0, 0, 0]),
        ("wrong_answers", [TILE] * 4),
        ("nan_answers", [TILE] * 4),
        ("wrong_after_warmup", [0, 0, TILE, TILE]),
        ("wrong_under_heat", [0, 0, 0, 0]),
        ("wrong_memory", [0, 0, 0, 0]),
    ],
)
def test_corruption_goes_wrong_in_its_way(make_node: MakeNode, fault: str, expected: list[int]) -> None:
    """Once, always, or after some launches; on its GPU alone."""
    node = make_node(time_scale=100)
    node.state.apply(fault, gpu=1)
    node.state.set("gpu.1.corruption_after_launches", 3)  # the first of them fills the stream's buffer
    cuda = node.cuda()
    bad = Burn(cuda, 1)
    assert _wrong(bad, 4) == expected
    bad.close()
    good = Burn(cuda, 0)
    assert _wrong(good, 2) == [0, 0]
    good.close()


def test_a_wrong_tile_stays_where_it_is(make_node: MakeNode) -> None:
    """Launch after launch the same multiprocessor, block and words, one bit off; NaN where it is to be NaN."""
    node = make_node(gpus=1, time_scale=100)
    node.state.apply("wrong_answers")
    burn = Burn(node.cuda())
    places = []
    for _ in range(2):
        burn.clear()
        burn.launch(max_rounds=3)
        records = burn.read().records()
        assert len(records) == 16
        assert {r.launch for r in records} == {burn.launches}
        assert all(r.role == kernels.ROLES["f16"] and r.expected ^ r.found == 0x400 for r in records)
        places.append([(r.sm, r.block, r.thread, r.round, r.word, r.expected) for r in records])
    assert places[0] == places[1]
    assert {(sm, block) for sm, block, *_ in places[0]} == {(44, 44)}
    node.state.set("gpu.0.corruption", "nan")
    burn.clear()
    burn.launch()
    assert {r.found for r in burn.read().records()} == {0x7FC00000}
    burn.close()


@pytest.mark.parametrize("work", kernels.ROLES)
def test_corruption_can_be_of_one_work(make_node: MakeNode, work: str) -> None:
    """The others are right."""
    node = make_node(gpus=1, time_scale=100)
    node.state.apply("wrong_answers")
    node.state.set("gpu.0.corruption_work", work)
    burn = Burn(node.cuda())
    for other in kernels.ROLES:
        burn.clear()
        burn.fill()
        burn.launch(other, max_rounds=2)
        result = burn.read()
        assert (result.wrong > 0) == (other == work), other
        assert {r.role for r in result.records()} <= {kernels.ROLES[work]}
    burn.close()


def test_corruption_under_heat_waits_for_it(make_node: MakeNode) -> None:
    """Right while cool, the same tile wrong when hot."""
    node = make_node(gpus=1, time_scale=100)
    node.state.apply("wrong_under_heat")
    burn = Burn(node.cuda())
    assert _wrong(burn, 2) == [0, 0]
    node.state.set("gpu.0.corruption_above_c", 20)
    assert _wrong(burn, 1) == [TILE]
    burn.close()


def test_a_spoilt_word_of_the_stream_is_found_once(make_node: MakeNode) -> None:
    """With its place and both values; the warp that found it has put it right."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda(), blocks=2, chunks=32)
    word = (5 * 32 + 3) * 2048 + 77  # warp 5's fourth chunk
    value = (word * 0x9E3779B1 + 0x7F4A7C15) % 2**32
    assert burn.copy(burn.stream + 4 * word, 1) == [value]
    burn.write(burn.stream + 4 * word, struct.pack("<I", value ^ 0x8000))
    for rounds in (1, 1, 3):
        burn.launch("stream", max_rounds=rounds)
        result = burn.read()
        assert result.wrong == 1
    assert burn.copy(burn.progress, 32) == [5 * 16 - 64] * 32  # from zero again after two passes
    (found,) = result.records()
    assert (found.sm, found.block, found.thread, found.round) == (0, 0, 5 * 32 + 77 // 4 % 32, 0)
    assert (found.word, found.expected, found.found) == (word, value, value ^ 0x8000)
    burn.close()


def test_a_stream_that_was_not_filled_is_wrong_everywhere(make_node: MakeNode) -> None:
    """Every word that a warp came by, once; and so is one whose progress was reset without a fill."""
    burn = Burn(make_node(gpus=1, time_scale=100).cuda(), blocks=2, chunks=32)
    burn.memory(burn.stream, burn.stream_words, write=(kernels.FIXED, 0xFFFFFFFF))
    burn.launch("stream", max_rounds=1)
    assert burn.read().wrong == burn.stream_words // 2
    burn.launch("stream", max_rounds=4)
    assert burn.read().wrong == burn.stream_words
    burn.clear()
    burn.zero(burn.progress, 4 * 32)
    burn.launch("stream", max_rounds=1)
    assert burn.read().wrong == burn.stream_words // 2
    burn.close()


def test_addresses_are_checked(make_node: MakeNode) -> None:
    """Buffers that are too small or not there answer 700, crooked ones 716; blocks that do not fit are refused."""
    burn = Burn(make_node(gpus=1).cuda())
    small = burn.allocate(64)
    cases: list[tuple[dict[str, int], int]] = [
        ({"result": small}, 700), ({"tables": small}, 700), ({"tables": 64}, 700), ({"stream": small}, 700),
        ({"progress": small}, 700), ({"chunks": 2**50}, 700), ({"stream": burn.stream + 4}, 716),
    ]  # fmt: skip
    for addresses, code in cases:
        with pytest.raises(CudaError) as caught:
            burn.launch(**addresses)  # type: ignore[arg-type]  # only addresses
        assert caught.value.code == code, addresses
    with pytest.raises(CudaError) as caught:
        burn.cuda.call("cuLaunchKernel", burn.kernel, 1, 1, 1, 1024, 1, 1, 0, None, (ctypes.c_void_p * 9)(), None)
    assert caught.value.code == 701
    assert burn.read().threads == 132 * 512  # of the fill: nothing else has run
    burn.close()


def test_a_launch_can_hang(make_node: MakeNode) -> None:
    """From the given launch on no event passes and no wait returns, until the GPU is lost or the process dies."""
    node = make_node(gpus=1, time_scale=100)
    node.state.apply("launch_hangs")
    node.state.set("gpu.0.hang_after_launches", 3)
    burn = Burn(node.cuda())  # whose first launch fills
    burn.launch()
    burn.launch()
    assert burn.read().wrong == 0
    burn.launch()
    end = burn.cuda.event()
    burn.cuda.call("cuEventRecord", end, None)
    answers: list[int] = []

    def wait() -> None:
        burn.cuda.call("cuCtxSetCurrent", burn.context)
        answers.append(burn.cuda.library.cuStreamSynchronize(None))

    waiting = threading.Thread(target=wait)
    waiting.start()
    start = node.state.show()["model_time_s"]
    while node.state.show()["model_time_s"] < start + 30:
        assert burn.cuda.library.cuEventQuery(end) == 600
        assert burn.cuda.library.cuStreamQuery(None) == 600
    assert waiting.is_alive()
    assert pynvml.nvmlDeviceGetUtilizationRates(node.gpu()).gpu == 100
    node.state.apply("gpu_lost")
    waiting.join(30)
    assert answers == [999]
    burn.close()


def test_a_gpu_can_be_lost_by_a_launch(make_node: MakeNode) -> None:
    """The launch that is due takes it off the bus: waiting answers 999, NVML 15."""
    node = make_node(time_scale=100)
    node.state.apply("lost_under_load", gpu=1)
    node.state.set("gpu.1.lost_after_launches", 2)
    burn = Burn(node.cuda(), 1)
    burn.launch()
    assert burn.read().wrong == 0
    gpu = node.gpu(1)
    burn.launch()
    assert burn.cuda.library.cuCtxSynchronize() == 999
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        pynvml.nvmlDeviceGetTemperature(gpu, 0)
    assert node.state.get("gpu.1.last_xid") == 79
