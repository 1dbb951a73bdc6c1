"""The rate of a plain matrix product: what a training's own rate is held against."""

from __future__ import annotations

import time

import torch

from effvit.autocast import DTYPES
from effvit.recipe import Amp

SIDES = {"cpu": 512, "cuda": 4096}
"""Rows and columns: enough for every core, and some milliseconds of work."""
TIMES = 5


def product_macs_per_s(device: torch.device, amp: Amp) -> float:
    """Return the multiply-accumulates a second of a square product in the type of `amp`: the best of some."""
    side = SIDES[device.type]
    factor = torch.ones(side, side, dtype=DTYPES.get(amp, torch.float32), device=device)
    best_s = float("inf")
    for _ in range(1 + TIMES):  # the first one sets up the library
        started = time.perf_counter()
        factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best_s = min(best_s, time.perf_counter() - started)
    return float(side**3 / best_s)
