"""Contenders take turns: interleaved rounds of random order, and what the rounds say of their ratios."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import torch
from contenders import PRODUCT, Contender, Setting
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from effvit.profiling.stats import CONFIDENCE, Estimate
from effvit.profiling.timer import undisturbed

LEAST_LAUNCHES = 3
RESAMPLES = 5000
Launch = Callable[[], object]


class Pass(StrEnum):
    """What is timed: a pass forward under inference mode, or one forward and back to inputs and weights."""

    FORWARD = "forward"
    TRAIN = "train"

    @property
    def macs_factor(self) -> int:
        """The MACs of this pass over those forward: a product's gradients are two products of its size."""
        return 3 if self is Pass.TRAIN else 1


@dataclass(frozen=True, slots=True)
class Timed:
    """What was measured of a contender.

    `seconds` holds the median of every round; `peak_bytes` is the most memory in use during one launch, beyond weights
    and inputs. A contender that cannot run here has `refusal` instead.
    """

    name: str
    mechanism: str
    peer: str | None
    macs: int | None
    seconds: tuple[float, ...] = ()
    peak_bytes: int | None = None
    refusal: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long is measured: `rounds` rounds, and `seconds` for each contender over all of them."""

    rounds: int
    seconds: float

    @property
    def turn_s(self) -> float:
        return self.seconds / self.rounds


def measure(contenders: Sequence[Contender], passes: Pass, setting: Setting, pace: Pace) -> list[Timed]:
    """Check every contender once, read its memory, then time all that work in interleaved rounds."""
    launches: dict[str, Launch] = {}
    refusals: dict[str, str] = {}
    peaks: dict[str, int] = {}
    for contender in contenders:
        try:
            launch = _launch(contender, _mode(contender, passes), setting)
            peaks[contender.name] = _peak_bytes(launch, setting.device)
            launches[contender.name] = launch
        # PyTorch's own type for types that do not meet and for exhausted memory.
        except (RuntimeError, NotFiniteError) as error:
            refusals[contender.name] = str(error).strip().splitlines()[0]
    seconds = _time_rounds(launches, setting.device, pace)
    return [
        Timed(
            name=contender.name,
            mechanism=contender.mechanism,
            peer=contender.peer,
            macs=None if contender.macs is None else contender.macs * _mode(contender, passes).macs_factor,
            seconds=tuple(seconds.get(contender.name, ())),
            peak_bytes=peaks.get(contender.name),
            refusal=refusals.get(contender.name, ""),
        )
        for contender in contenders
    ]


def _mode(contender: Contender, passes: Pass) -> Pass:
    """Return what is timed of a contender: of the plain product, whose rate all are held against, never gradients."""
    return Pass.FORWARD if contender.mechanism == PRODUCT else passes


class NotFiniteError(Exception):
    """A contender returns NaN or infinity: its time means nothing."""


def _launch(contender: Contender, passes: Pass, setting: Setting) -> Launch:
    """Return a function that runs one pass, after one that was checked.

    Raises:
        NotFiniteError: It returns NaN or infinity.
        RuntimeError: PyTorch cannot run it in this type, or not in this memory.
    """
    module = contender.module.train(passes is Pass.TRAIN)
    inputs = tuple(tensor.clone().requires_grad_(passes is Pass.TRAIN) for tensor in contender.inputs)

    def forward() -> Tensor:
        with torch.autocast(setting.device.type, setting.dtype, enabled=setting.autocast):
            out: Tensor = module(*inputs)
        return out

    def infer() -> Tensor:
        with torch.inference_mode():
            return forward()

    checked = infer()
    if not checked.isfinite().all():
        raise NotFiniteError(f"returns NaN or infinity in {setting.dtype}")
    if passes is Pass.FORWARD:
        return infer
    gradient = torch.ones_like(checked)
    leaves = (*inputs, *module.parameters())

    def train() -> tuple[Tensor, ...]:
        # Unlike backward() this adds to no gradient from the launch before.
        return torch.autograd.grad(forward(), leaves, gradient)

    return train


def _time_rounds(launches: dict[str, Launch], device: torch.device, pace: Pace) -> dict[str, list[float]]:
    order = random.Random()
    seconds: dict[str, list[float]] = {name: [] for name in launches}
    synchronize = _synchronizer(device)
    with undisturbed():
        for _ in range(pace.rounds):
            for name in order.sample(list(launches), len(launches)):
                seconds[name].append(_time_turn(launches[name], synchronize, pace.turn_s))
    return seconds


def _time_turn(launch: Launch, synchronize: Callable[[], None], least_s: float) -> float:
    """Return the median of single launches in seconds.

    Untimed launches come first, because another contender's data and code are in the caches. Timed ones go on for
    `least_s` and until there are three, but stop at four times as long: one may take longer than the whole turn.
    """
    _spend(launch, synchronize, least_s / 10)
    seconds: list[float] = []
    total = 0.0
    while not seconds or (total < 4 * least_s and (total < least_s or len(seconds) < LEAST_LAUNCHES)):
        started = time.perf_counter()
        launch()
        # On a GPU a launch only enqueues work: without this wait the clock times the enqueueing.
        synchronize()
        seconds.append(time.perf_counter() - started)
        total += seconds[-1]
    return float(np.median(seconds))


def _spend(launch: Launch, synchronize: Callable[[], None], least_s: float) -> None:
    started = time.perf_counter()
    while True:
        launch()
        synchronize()
        if time.perf_counter() - started >= least_s:
            return


def _synchronizer(device: torch.device) -> Callable[[], None]:
    if device.type == "cuda":
        return torch.cuda.synchronize
    return lambda: None


def _peak_bytes(launch: Launch, device: torch.device) -> int:
    """Return the most memory that tensors made during one launch hold at once.

    Bytes asked of PyTorch's allocators, on either device: unlike resident memory they are exact for small layers, owe
    nothing to what ran before, and can be compared between devices. Scratch memory of a library's own is not in them.
    """
    launch()
    return _peak_cuda_bytes(launch) if device.type == "cuda" else _peak_cpu_bytes(launch)


def _peak_cuda_bytes(launch: Launch) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    launch()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _peak_cpu_bytes(launch: Launch) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        launch()
    with tempfile.TemporaryDirectory() as folder:
        # The trace is the one public way to allocations in their order.
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = [(event["ts"], event["args"]["Bytes"]) for event in events if event["name"] == "[memory]"]
    changes.sort(key=lambda change: change[0])
    return max(itertools.accumulate(change for _, change in changes), default=0)


def paired_ratios(slow: Timed, fast: Timed) -> list[float]:
    """Return the ratio of times in every round, which cancels whatever slowed a whole round."""
    return [one / other for one, other in zip(slow.seconds, fast.seconds, strict=True)]


def typical_ratio(cells: Sequence[Sequence[float]]) -> Estimate:
    """Return the geometric mean over cells of the median over rounds, with its bootstrap interval over rounds.

    `profiling/stats.py` takes the mean of logarithms over rounds instead, which suits few rounds in processes of their
    own; here there are many, some of them hit by a neighbour, and the median shrugs those off. No interval where a
    cell has one round.
    """
    value = float(np.exp(np.mean([np.log(np.median(cell)) for cell in cells])))
    if min(len(cell) for cell in cells) < 2:
        return Estimate(value)
    generator = np.random.default_rng(0)
    logs = np.zeros(RESAMPLES)
    for cell in cells:
        drawn = generator.integers(len(cell), size=(RESAMPLES, len(cell)))
        logs += np.log(np.median(np.asarray(cell)[drawn], axis=1)) / len(cells)
    low, high = np.exp(np.quantile(logs, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    return Estimate(value, float(low), float(high))
