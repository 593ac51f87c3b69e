"""Watts and TFLOP/s of cuBLAS on the first GPU: random bf16 matrices of 8192 by 8192 multiplied again and again."""

from __future__ import annotations

import statistics
import sys
import time

import pynvml
import torch

N, AT_ONCE = 8192, 50


def main() -> int:
    """Load the GPU for so many seconds and print one line."""
    until = time.monotonic() + float(sys.argv[1])
    pynvml.nvmlInit()
    uuid = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    device = pynvml.nvmlDeviceGetHandleByUUID(uuid)
    left, right = (torch.randn(N, N, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    rates, watts = [], []
    while time.monotonic() < until:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(AT_ONCE):
            torch.mm(left, right)
        end.record()
        watts.append(pynvml.nvmlDeviceGetPowerUsage(device) / 1000)
        end.synchronize()
        rates.append(2 * N**3 * AT_ONCE / begin.elapsed_time(end) / 1e9)
    half = len(rates) // 2
    celsius = pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU)
    rate = statistics.fmean(rates[half:])
    print(f"{'cuBLAS':10}{statistics.fmean(watts[half:]):8.1f}{celsius:8.1f}    {{'bf16': {rate:.1f}}}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
