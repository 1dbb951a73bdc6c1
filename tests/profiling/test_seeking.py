"""Searches for crossovers, by a sweep whose times are a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from models_for_tests import record_of
from outcomes import without_evidence
from timed import Seconds, timed

from effvit.errors import UsageError
from effvit.profiling.crossover import Crossover, crossovers
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.report.rows import make_rows
from effvit.profiling.seeking import seek_crossovers
from effvit.run import Run
from effvit.spec import Precision

TOLERANCE = 0.1


def exact(tokens: int, batch: int) -> float:
    return 0.002 + batch * (1e-5 * tokens + 5e-8 * tokens**2)


def linear(slope: float) -> Seconds:
    """Return seconds that meet `exact` at (slope - 1e-5) / 5e-8 tokens."""
    return lambda tokens, batch: 0.002 + batch * slope * tokens


def _run(attention: str) -> Run:
    record = record_of(attention, backbone="vit_tiny_patch16_224", patch=16)
    return Run(Path(f"vit_tiny-{attention}"), replace(record, data=replace(record.data, name="flowers")))


def _plan(*attentions: str, px: tuple[int, ...] = (224, 1024), batches: tuple[int, ...] = (1,)) -> Plan:
    sizes = tuple((size, size) for size in px)
    return Plan(tuple(map(_run, attentions)), sizes, batches, (Precision.FP32,), ("torch",))


class Sweep:
    """Measures what it is asked for by formulas, and remembers it; what is in `broken` runs out of memory."""

    def __init__(self, broken: Callable[[str, int], bool] = lambda _, __: False, **seconds: Seconds) -> None:
        self.seconds, self.broken = {"softmax": exact, **seconds}, broken
        self.asked: list[tuple[str, int, int]] = []

    def __call__(self, plan: Plan) -> list[Outcome]:
        found = []
        for (px, _), batch in ((size, batch) for size in plan.resolutions for batch in plan.batches):
            for attention in (run.record.spec.attention for run in plan.runs):
                self.asked.append((attention, px, batch))
                outcome = timed(attention, px, batch, self.seconds[attention])
                broken = self.broken(attention, px)
                found.append(without_evidence(outcome, "oom", "measure", "too large") if broken else outcome)
        return found


def _found(outcomes: list[Outcome]) -> dict[str, Crossover]:
    return {one.label: one for one in crossovers(make_rows(outcomes))}


def test_every_crossing_is_bracketed_within_the_tolerance_in_few_steps() -> None:
    # 400 tokens are 319.6 px, 1,800 tokens 678.6 px.
    sweep = Sweep(linformer=linear(3e-5), performer=linear(1e-4))
    found = _found(seek_crossovers(_plan("softmax", "linformer", "performer"), TOLERANCE, sweep))
    for label, px in (("linformer", 319.6), ("performer", 678.6)):
        bracket = found[label].bracket
        assert bracket is not None
        assert bracket[0] <= px <= bracket[1] <= bracket[0] * (1 + TOLERANCE)
    # Halving from 224 to 1024 px down to a tenth takes 4 or 5 sizes for each.
    assert len({px for _, px, _ in sweep.asked} - {224, 1024}) < 10
    assert len(sweep.asked) == len(set(sweep.asked))
    assert all(px % 16 == 0 for _, px, _ in sweep.asked)


def test_softmax_is_measured_beside_what_is_still_open_and_nothing_else_is() -> None:
    sweep = Sweep(linformer=linear(3e-5), performer=linear(1e-5), atrous=lambda tokens, batch: 2 * exact(tokens, batch))
    seek_crossovers(_plan("softmax", "linformer", "performer", "atrous"), TOLERANCE, sweep)
    later = sweep.asked[8:]
    assert {attention for attention, _, _ in later} == {"softmax", "linformer"}
    assert {px for attention, px, _ in later if attention == "softmax"} == {
        px for attention, px, _ in later if attention == "linformer"
    }


def test_without_a_crossing_nothing_more_is_measured() -> None:
    for other in (linear(1e-5), lambda tokens, batch: 2 * exact(tokens, batch)):
        sweep = Sweep(linformer=other)
        assert len(seek_crossovers(_plan("softmax", "linformer"), TOLERANCE, sweep)) == 4
        assert len(sweep.asked) == 4


def test_each_batch_has_its_own_search() -> None:
    def slow_start(tokens: int, batch: int) -> float:
        return linear(3e-5)(tokens, batch) + 0.01

    sweep = Sweep(linformer=slow_start)
    outcomes = seek_crossovers(_plan("softmax", "linformer", batches=(1, 8)), TOLERANCE, sweep)
    found = {one.context.batch: one.bracket for one in crossovers(make_rows(outcomes))}
    # 1e-5 n + 5e-8 n^2 = 3e-5 n + 0.01 / batch: 690 and 455 tokens, 420 and 341 px.
    for batch, px in ((1, 420), (8, 341)):
        bracket = found[batch]
        assert bracket is not None
        assert bracket[0] <= px <= bracket[1] <= bracket[0] * (1 + TOLERANCE)


def test_a_step_that_no_parabola_has_is_bracketed_all_the_same() -> None:
    def step(tokens: int, batch: int) -> float:
        return exact(tokens, batch) * (1.5 if tokens < 3000 else 0.5)

    sweep = Sweep(linformer=step)
    found = _found(seek_crossovers(_plan("softmax", "linformer"), TOLERANCE, sweep))
    bracket = found["linformer"].bracket
    assert bracket is not None
    # The first whole multiple of 16 px with 3,000 tokens is 880.
    assert bracket[0] < 880 <= bracket[1] <= bracket[0] * (1 + TOLERANCE)


def test_a_size_that_fails_is_not_tried_again() -> None:
    sweep = Sweep(linformer=linear(3e-5), broken=lambda _, px: 224 < px < 1024)
    seek_crossovers(_plan("softmax", "linformer"), TOLERANCE, sweep)
    assert len(sweep.asked) == len(set(sweep.asked))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (_plan("linformer", "performer"), "a crossover is where"),
        (_plan("softmax"), "a crossover is where"),
        (_plan("softmax", "linformer", px=(224,)), "the smallest and the largest"),
        (replace(_plan("softmax", "linformer"), resolutions=((224, 224), (224, 448))), "square images"),
    ],
)
def test_a_search_needs_softmax_another_variant_and_two_square_sizes(plan: Plan, message: str) -> None:
    sweep = Sweep()
    with pytest.raises(UsageError, match=message):
        seek_crossovers(plan, TOLERANCE, sweep)
    assert sweep.asked == []
