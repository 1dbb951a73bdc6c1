"""What figures are drawn from: a point a cell, and the curves and crossings that were fitted to them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from effvit.profiling import scaling
from effvit.profiling.crossover import Crossover
from effvit.profiling.metrics.base import Reading
from effvit.profiling.report.display import LEDGER
from effvit.profiling.report.rows import ENERGY, Context, Row
from effvit.profiling.scaling import Observation
from effvit.profiling.stats import Estimate, log_deviation

# A point of a chart, as Vega-Lite takes it: numbers and texts by field. A field without a value is not there.
Datum = dict[str, Any]
_DIGITS = 5
# Drawn as a smooth line through so many points, a parabola on logarithmic axes is off by less than its line is wide.
_POINTS_A_CURVE = 9


@dataclass(frozen=True, slots=True)
class Axis:
    """A quantity on an axis: its field, what it is multiplied with, and the unit that results."""

    field: str
    title: str
    scale: float
    read: Callable[[Row], Reading | Estimate | None]


def _reading(*names: str) -> Callable[[Row], Reading]:
    return lambda row: row.total(names)


def _exact(read: Callable[[Row], float | None]) -> Callable[[Row], Estimate | None]:
    def estimate(row: Row) -> Estimate | None:
        value = read(row)
        return None if value is None else Estimate(value)

    return estimate


LATENCY = Axis("latency", "latency p50 of one call (ms)", 1e3, _reading("latency_s.p50"))
THROUGHPUT = Axis("throughput", "throughput (images/s)", 1.0, _reading("throughput.images_per_s"))
MEMORY = Axis("memory", "peak memory of the process (MiB)", 2.0**-20, _reading("memory.host_peak_bytes"))
SIZE = Axis("size", "size of the artifact (MiB)", 2.0**-20, _reading("artifact.size_bytes"))
ENERGY_AN_IMAGE = Axis("energy", "energy of an image, gross (mJ)", 1e3, _reading(*ENERGY))
TOP1 = Axis("top1", "top-1 accuracy (%)", 100.0, _reading("accuracy.top1"))
CEILING = Axis(
    "ceiling",
    "ceiling: MACs over MACs without the core (x)",
    1.0,
    _exact(lambda row: None if row.is_baseline else row.ceiling),
)
SPEEDUP = Axis("speedup", "measured speed-up (x)", 1.0, lambda row: row.speedup)
TRAINING = Axis(
    "training",
    "training time (min)",
    1 / 60,
    _exact(lambda row: row.outcome.training.seconds if row.outcome.training else None),
)
TRAINED_TOP1 = Axis(
    "trained_top1",
    "top-1 after training (%)",
    100.0,
    _exact(lambda row: row.outcome.training.top1 if row.outcome.training else None),
)
AXES = (
    LATENCY, THROUGHPUT, MEMORY, SIZE, ENERGY_AN_IMAGE, TOP1, CEILING, SPEEDUP, TRAINING, TRAINED_TOP1,
)  # fmt: skip
GROWING = (LATENCY, THROUGHPUT, MEMORY)
PRICED = (LATENCY, THROUGHPUT, MEMORY, SIZE, ENERGY_AN_IMAGE)


def cells(rows: Sequence[Row]) -> list[Datum]:
    """Return a point for each row of one context, in their order; `cell` is its place among them."""
    data = [_cell(place, row) for place, row in enumerate(rows)]
    for axis in PRICED:
        _name_where_there_is_room(data, axis.field)
    _mark_first_of_run(rows, data)
    return data


def _cell(place: int, row: Row) -> Datum:
    datum: Datum = {"cell": place, "label": row.label, "px": f"{row.workload.resolution} px"}
    if row.tokens:
        datum["tokens"] = row.tokens
    for axis in AXES:
        known = axis.read(row)
        if known is not None:
            for end, value in (("", known.value), ("_low", known.low), ("_high", known.high)):
                if value is not None:
                    datum[axis.field + end] = _rounded(value * axis.scale)
    for axis in PRICED:
        if (standing := row.standing(axis.field)) is not None:
            datum[f"{axis.field}_standing"] = standing
    for part in LEDGER:
        if (taken := row.reading(f"memory.{part.lower()}_bytes").value) is not None:
            datum[part] = _rounded(taken * MEMORY.scale)
    return datum


def has(datum: Datum, axis: Axis) -> bool:
    """Return whether the point can stand on this axis; all but those of accuracy are logarithmic."""
    value = datum.get(axis.field)
    return value is not None and (value > 0 or axis in (TOP1, TRAINED_TOP1))


def _name_where_there_is_room(data: Iterable[Datum], price: str) -> None:
    """Mark points of the front whose resolution is written beside them, so that no two names overlap.

    The room is that of a name in a figure on a phone: a seventh of the width and of the height.
    """
    points = [one for one in data if f"{price}_standing" in one and one[price] > 0]
    if not points:
        return
    across = [math.log(one[price]) for one in points]
    upward = [one["top1"] for one in points]
    width, height = (max(across) - min(across)) / 7, (max(upward) - min(upward)) / 7
    placed: list[tuple[float, float]] = []
    for one, x, y in sorted(zip(points, across, upward, strict=True), key=lambda item: -item[2]):
        free = all(abs(x - other_x) > width or abs(y - other_y) > height for other_x, other_y in placed)
        if one[f"{price}_standing"] == "front" and free:
            one[f"{price}_named"] = True
            placed.append((x, y))


def _mark_first_of_run(rows: Sequence[Row], data: Sequence[Datum]) -> None:
    """Mark one point a run: what training took is the same for all cells of it."""
    seen: set[str] = set()
    for row, datum in zip(rows, data, strict=True):
        if row.outcome.run not in seen and "training" in datum:
            seen.add(row.outcome.run)
            datum["of_run"] = True


def curves(rows: Sequence[Row]) -> dict[Context, list[Datum]]:
    """Return by context the points of each variant's fitted growth in tokens, over what was measured of it."""
    groups: dict[tuple[Context, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.tokens and not row.unstable and not row.emulated:
            groups[replace(row.context, batch=0), row.label].append(row)
    found: dict[Context, list[Datum]] = defaultdict(list)
    for (_, label), members in groups.items():
        for axis in GROWING:
            for context, datum in _curve(label, members, axis):
                found[context].append(datum)
    return found


def _curve(label: str, rows: Sequence[Row], axis: Axis) -> Iterator[tuple[Context, Datum]]:
    curve = scaling.fit([one for row in rows if (one := _observation(row, axis)) is not None])
    if curve is None:
        return
    for context in dict.fromkeys(row.context for row in rows):
        tokens = {row.tokens for row in rows if row.context == context and row.tokens}
        if len(tokens) < 2:
            continue
        for number in np.geomspace(min(tokens), max(tokens), _POINTS_A_CURVE):
            value = curve.at(number, context.batch)
            shown = context.batch / value if axis is THROUGHPUT else value
            yield context, {"label": label, "tokens": _rounded(number), axis.field: _rounded(shown * axis.scale)}


def _observation(row: Row, axis: Axis) -> Observation | None:
    """Return what a call took: of a throughput the seconds for as many images."""
    known = axis.read(row)
    if known is None or not known.value or not row.tokens:
        return None
    deviation = log_deviation(Estimate(known.value, known.low, known.high))
    batch = row.workload.batch
    return Observation(row.tokens, batch, batch / known.value if axis is THROUGHPUT else known.value, deviation)


def crossings(found: Sequence[Crossover]) -> list[Datum]:
    """Return a point for each crossover of one context: where it lies, and how far each answer reaches."""
    return [_crossing(one) for one in found]


def _crossing(one: Crossover) -> Datum:
    datum: Datum = {"label": one.label, "smallest": _rounded(one.smallest_px), "largest": _rounded(one.largest_px)}
    if one.start is not None:
        datum["start"] = _rounded(one.start)
        datum["high"] = _rounded(one.largest_px if one.high is None else one.high)
        datum["low"] = _rounded(one.start if one.low is None else one.low)
    elif one.low is not None:
        datum |= {"low": _rounded(one.low), "high": _rounded(one.largest_px)}
    if one.start is not None and one.bracket is not None:
        datum |= _on_softmax(one, one.start)
    return datum


def _on_softmax(one: Crossover, side_px: float) -> Datum:
    """Return the tokens at which a variant crosses softmax, and the latency that both have there."""
    squares, tokens = [each.side_px**2 for each in one.measured], [float(each.tokens) for each in one.measured]
    crossed = float(np.interp(side_px**2, squares, tokens))
    seconds = np.log([each.baseline_s.value for each in one.measured])
    latency = math.exp(float(np.interp(math.log(crossed), np.log(tokens), seconds)))
    return {"tokens": _rounded(crossed), "latency": _rounded(latency * LATENCY.scale)}


def comparisons(found: Sequence[Crossover]) -> list[Datum]:
    """Return a point for each measured comparison of one context, and which way it went."""
    return [
        {"label": one.label, "px": _rounded(each.side_px), "ratio": _rounded(each.ratio.value), "went": each.way}
        for one in found
        for each in one.measured
    ]


def _rounded(value: float) -> float:
    """Return as many digits as a screen can show; they are also those that a page has to carry."""
    return float(f"{value:.{_DIGITS}g}")
