"""A sweep that goes on where it is least sure: where variants become faster than softmax, to within a few px."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from effvit.errors import UsageError
from effvit.profiling.crossover import Crossover, crossovers
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.report.rows import Context, make_rows
from effvit.run import Run
from effvit.spec import BASELINE

Sweep = Callable[[Plan], list[Outcome]]
# A fit that points to the wrong place again and again would only walk; halving now and then bounds the steps.
_HALVED_EVERY = 3


@dataclass(frozen=True, slots=True)
class _Open:
    """A crossing whose bracket is still too wide: `runs` are those it was measured with, `side_px` what comes next."""

    context: Context
    runs: frozenset[str]
    bracket: tuple[float, float]
    side_px: int


def check_search(plan: Plan) -> None:
    """Check that there is something to search between.

    Raises:
        UsageError: No softmax among the runs, no other variant, an image that is not square, or one size alone.
    """
    if len({_exact(run) for run in plan.runs}) < 2:
        raise UsageError(
            f"a crossover is where a variant becomes faster than {BASELINE}, and both have to be measured",
            f"name a run of {BASELINE} and one of another variant",
        )
    if any(height != width for height, width in plan.resolutions):
        raise UsageError("crossovers are searched along square images", "write --res 224,1024")
    if len(set(plan.resolutions)) < 2:
        raise UsageError("a search needs the smallest and the largest resolution", "write --res 224,1024")


def seek_crossovers(plan: Plan, tolerance: float, sweep: Sweep) -> list[Outcome]:
    """Measure `plan`, then further resolutions, until every crossing is bracketed within the share `tolerance` of px.

    A variant that is faster everywhere, or not at the largest resolution, has no crossing to bracket. Only what is
    still open is measured at a new resolution: the variants whose crossing may lie there, and softmax beside them. A
    cell that fails is not tried again. Outcomes of all cells are returned.

    Raises:
        UsageError: As `check_search`, and what `sweep` raises.
    """
    check_search(plan)
    outcomes = sweep(plan)
    tries: Counter[object] = Counter()
    while left := list(_open(plan, outcomes, tolerance, tries)):
        for step in _steps(plan, left):
            outcomes += sweep(step)
        tries.update((one.context, one.runs) for one in left)
    return outcomes


def _open(plan: Plan, outcomes: Sequence[Outcome], tolerance: float, tries: Counter[object]) -> Iterator[_Open]:
    rows = make_rows(outcomes)
    step = math.lcm(*(run.record.spec.patch or 1 for run in plan.runs))
    for one in crossovers(rows):
        here = [row for row in rows if row.context == one.context]
        runs = frozenset(row.outcome.run for row in here if row.label == one.label)
        halved = (tries[one.context, runs] + 1) % _HALVED_EVERY == 0
        # Where softmax was measured already, nothing can share its rounds any more.
        tried = {row.workload.height for row in here if row.is_baseline or row.label == one.label}
        side = next_side(one, tolerance, step, tried, halved=halved)
        if side is not None and one.bracket is not None:
            yield _Open(one.context, runs, one.bracket, side)


def next_side(one: Crossover, tolerance: float, step: int, tried: set[int], *, halved: bool = False) -> int | None:
    """Return the side in px to measure next, a multiple of `step`, or None where nothing is left to be narrowed.

    A size just below the crossing that is expected, and after it one just above, leave a bracket of `tolerance`; with
    `halved` the middle of the bracket is taken, whatever is expected.
    """
    if one.bracket is None or one.start is None:
        return None
    low, high = one.bracket
    if high <= low * (1 + tolerance):
        return None
    free = [side for side in range(step * math.ceil(low / step), math.ceil(high), step) if low < side < high]
    free = [side for side in free if side not in tried]
    target = math.sqrt(low * high) if halved else _edge(low, one.start, tolerance)
    return min(free, key=lambda side: abs(math.log(side / target)), default=None)


def _edge(low: float, start: float, tolerance: float) -> float:
    """Return the lower edge of a bracket around `start`, or the upper one where the lower is as good as measured."""
    lower = start / math.sqrt(1 + tolerance)
    return lower if lower > low * (1 + tolerance / 4) else low * (1 + tolerance)


def _steps(plan: Plan, left: Sequence[_Open]) -> Iterator[Plan]:
    """Return a plan for each new resolution of each context: softmax, and every run whose bracket it narrows."""
    for context, side in dict.fromkeys((one.context, one.side_px) for one in left):
        narrowed = [one for one in left if one.context == context and one.bracket[0] < side < one.bracket[1]]
        named = frozenset[str]().union(*(one.runs for one in narrowed))
        yield replace(
            plan,
            runs=tuple(run for run in plan.runs if _belongs(run, context) and (_exact(run) or run.name in named)),
            resolutions=((side, side),),
            batches=(context.batch,),
            precisions=(context.precision,),
            backends=(context.backend,),
            devices=tuple(device for device in plan.devices if str(device) == context.device),
        )


def _exact(run: Run) -> bool:
    return run.record.spec.attention == BASELINE


def _belongs(run: Run, context: Context) -> bool:
    return (run.record.spec.backbone, run.record.data.name) == (context.backbone, context.data)
