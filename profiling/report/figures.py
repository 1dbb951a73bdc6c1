"""The figures: what accuracy costs in time and memory, and how cost grows with resolution.

Each function draws the rows of one context. `variants` are the labels of all rows of the report in a fixed order, so
that a variant keeps its colour and shape from one figure to the next.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from effvit.profiling.report import display
from effvit.profiling.report.rows import Row
from effvit.spec import BASELINE

# Okabe and Ito 2008, https://jfly.uni-koeln.de/color/ without black and yellow, which vanish on a dark or light page.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#A6761D")
# 8 shapes and 7 colours have no common factor, so that pairs repeat only after 56 variants.
_SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left",
)  # fmt: skip
# One point of a chart, as Vega-Lite takes it.
Datum = dict[str, Any]
_GREY = "#808080"  # readable on white and on black
HEIGHT_PX = 320
# What fits beside one another into a phone's 360 px of figure.
_LEGEND_CHARACTERS = 44
_TIPS = (
    "attention", "px", "tokens", "latency p50", "images/s", "peak memory", "top-1", f"vs. {BASELINE}", "top-1 points",
    "ceiling", "status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Axis:
    """A reading on an axis: what it is multiplied with, and the unit that results."""

    reading: str
    title: str
    scale: float


LATENCY = Axis("latency_s.p50", "latency p50 of one call (ms)", 1e3)
THROUGHPUT = Axis("throughput.images_per_s", "throughput (images/s)", 1.0)
MEMORY = Axis("memory.host_peak_bytes", "peak memory of the process (MiB)", 2.0**-20)
TOP1 = Axis("accuracy.top1", "top-1 accuracy (%)", 100.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report: what it needs, how it is drawn, and the columns of the table behind it."""

    name: str
    title: str
    caption: str
    axes: tuple[Axis, ...]
    chart: Callable[[Sequence[Row], Sequence[str]], alt.LayerChart]
    columns: tuple[str, ...]


def accuracy_against_latency(rows: Sequence[Row], variants: Sequence[str]) -> alt.LayerChart:
    """Return top-1 over the median latency, with the front of what nothing beats."""
    return _trade_off(rows, variants, LATENCY, lambda row: row.pareto_latency)


def accuracy_against_memory(rows: Sequence[Row], variants: Sequence[str]) -> alt.LayerChart:
    """Return top-1 over the peak memory of the process, with the front of what nothing beats."""
    return _trade_off(rows, variants, MEMORY, lambda row: row.pareto_memory)


def latency_against_resolution(rows: Sequence[Row], variants: Sequence[str]) -> alt.LayerChart:
    """Return the median latency over the tokens of a resolution, both logarithmic."""
    return _growth(rows, variants, LATENCY)


def throughput_against_resolution(rows: Sequence[Row], variants: Sequence[str]) -> alt.LayerChart:
    """Return images a second over the tokens of a resolution, both logarithmic."""
    return _growth(rows, variants, THROUGHPUT)


def memory_against_resolution(rows: Sequence[Row], variants: Sequence[str]) -> alt.LayerChart:
    """Return peak memory over the tokens of a resolution, both logarithmic."""
    return _growth(rows, variants, MEMORY)


FIGURES = (
    Figure(
        "accuracy-latency",
        "Accuracy against latency",
        "Up and to the left is better. Ringed points on the dashed line are the front: no other is both faster and "
        "more accurate; names give their resolution. Bars are 95 % intervals.",
        (LATENCY, TOP1),
        accuracy_against_latency,
        ("", "attention", "px", "latency p50", "top-1", f"vs. {BASELINE}", "top-1 points"),
    ),
    Figure(
        "accuracy-memory",
        "Accuracy against memory",
        "Up and to the left is better. Ringed points on the dashed line are the front: no other needs less memory and "
        "is more accurate; names give their resolution.",
        (MEMORY, TOP1),
        accuracy_against_memory,
        ("", "attention", "px", "peak memory", "top-1", "top-1 points"),
    ),
    Figure(
        "latency-resolution",
        "Latency against resolution",
        "Both axes are logarithmic: a slope of 1 is a cost in proportion to the tokens, a slope of 2 a quadratic one. "
        "Bars are 95 % intervals; lines only guide the eye.",
        (LATENCY,),
        latency_against_resolution,
        ("attention", "px", "tokens", "latency p50", f"vs. {BASELINE}", "ceiling"),
    ),
    Figure(
        "throughput-resolution",
        "Throughput against resolution",
        "Calls follow one another without a wait between them. Both axes are logarithmic. Bars are 95 % intervals.",
        (THROUGHPUT,),
        throughput_against_resolution,
        ("attention", "px", "tokens", "images/s"),
    ),
    Figure(
        "memory-resolution",
        "Memory against resolution",
        "Peak of the whole process, weights and runtime included. Both axes are logarithmic.",
        (MEMORY,),
        memory_against_resolution,
        ("attention", "px", "tokens", "peak memory"),
    ),
)


def drawable(rows: Sequence[Row], figure: Figure) -> bool:
    """Return whether any of `rows` has all numbers of `figure`."""
    return any(all(_has(row, axis) for axis in figure.axes) for row in rows)


def _trade_off(
    rows: Sequence[Row], variants: Sequence[str], cost: Axis, on_front: Callable[[Row], bool]
) -> alt.LayerChart:
    points = [_point(row, cost, TOP1, on_front(row)) for row in rows if _has(row, cost) and _has(row, TOP1)]
    _name_where_there_is_room(points)
    base = alt.Chart().encode(
        x=alt.X("x:Q", title=cost.title, scale=alt.Scale(type="log", nice=False, padding=24), axis=_log_axis()),
        y=alt.Y("y:Q", title=TOP1.title, scale=alt.Scale(zero=False, padding=16), axis=alt.Axis(tickCount=6)),
    )
    front = base.transform_filter("datum.front")
    line = front.mark_line(color=_GREY, strokeDash=[4, 3], interpolate="step-after", strokeWidth=1.5)
    line = line.encode(order=alt.Order("x:Q"))
    rings = front.mark_point(color=_GREY, size=260, strokeWidth=1.5)
    names = base.transform_filter("datum.named").mark_text(dy=-17, fontSize=11).encode(text="px:N")
    bars = [_bars_across(base, variants)] if _has_interval(points, "x") else []
    return _layered(points, line, *bars, _bars_upward(base, variants), rings, _marks(base, variants), names)


def _growth(rows: Sequence[Row], variants: Sequence[str], cost: Axis) -> alt.LayerChart:
    measured = [row for row in rows if _has(row, cost) and row.tokens]
    points = [_point(row, cost, cost, front=False) | {"x": row.tokens} for row in measured]
    base = alt.Chart().encode(
        x=alt.X(
            "x:Q", title="tokens (resolution)", scale=alt.Scale(type="log", nice=False, padding=24),
            axis=_tokens_axis(measured),
        ),
        y=alt.Y("y:Q", title=cost.title, scale=alt.Scale(type="log", nice=False, padding=16), axis=_log_axis()),
    )  # fmt: skip
    lines = base.mark_line(strokeWidth=1.5).encode(color=_colour(variants))
    bars = [_bars_upward(base, variants)] if _has_interval(points, "y") else []
    return _layered(points, lines, *bars, _marks(base, variants))


def _layered(points: Sequence[Datum], *layers: alt.Chart) -> alt.LayerChart:
    return alt.layer(*layers, data=alt.InlineData(values=list(points))).properties(height=HEIGHT_PX)


def _has(row: Row, axis: Axis) -> bool:
    """Return whether the reading can stand on a logarithmic axis."""
    value = row.reading(axis.reading).value
    return value is not None and (value > 0 or axis is TOP1)


def _point(row: Row, across: Axis, upward: Axis, front: bool) -> Datum:
    """Return one datum of a chart; the tooltip shows the same digits as every table."""
    tips = {f"tip{index}": column.text(row) for index, column in enumerate(display.columns(*_TIPS))}
    ends = {"x": row.reading(across.reading), "y": row.reading(upward.reading)}
    datum: Datum = {"label": row.label, "px": f"{row.workload.resolution} px", "front": front, **tips}
    for name, axis in (("x", across), ("y", upward)):
        reading = ends[name]
        for suffix, value in (("", reading.value), ("_low", reading.low), ("_high", reading.high)):
            if value is not None:
                datum[name + suffix] = value * axis.scale
    return datum


def _marks(base: alt.Chart, variants: Sequence[str]) -> alt.Chart:
    tips = [alt.Tooltip(f"tip{index}:N", title=title) for index, title in enumerate(_TIPS)]
    shapes = alt.Scale(domain=list(variants), range=[_SHAPES[i % len(_SHAPES)] for i in range(len(variants))])
    return base.mark_point(filled=True, size=75, opacity=1).encode(
        color=_colour(variants), shape=alt.Shape("label:N", scale=shapes, legend=_legend(variants)), tooltip=tips
    )


def _bars_across(base: alt.Chart, variants: Sequence[str]) -> alt.Chart:
    """Return the intervals across; points without one have no bar."""
    bars = base.transform_filter("isValid(datum.x_low)").mark_rule(strokeWidth=1.5, opacity=0.55)
    return bars.encode(x="x_low:Q", x2="x_high:Q", color=_colour(variants))


def _bars_upward(base: alt.Chart, variants: Sequence[str]) -> alt.Chart:
    """Return the intervals upward; points without one have no bar."""
    bars = base.transform_filter("isValid(datum.y_low)").mark_rule(strokeWidth=1.5, opacity=0.55)
    return bars.encode(y="y_low:Q", y2="y_high:Q", color=_colour(variants))


def _has_interval(points: Sequence[Datum], end: str) -> bool:
    """Return whether a layer of bars has data: Vega warns about the extent of an empty one."""
    return any(f"{end}_low" in point for point in points)


def _name_where_there_is_room(points: Sequence[Datum]) -> None:
    """Mark the points of the front whose resolution is written beside them, so that no two names overlap.

    The room is that of a name in a figure on a phone: a seventh of the width and of the height.
    """
    if not points:
        return
    across = [math.log(point["x"]) for point in points]
    upward = [point["y"] for point in points]
    width, height = (max(across) - min(across)) / 7, (max(upward) - min(upward)) / 7
    placed: list[tuple[float, float]] = []
    for point, x, y in sorted(zip(points, across, upward, strict=True), key=lambda one: -one[2]):
        free = all(abs(x - other_x) > width or abs(y - other_y) > height for other_x, other_y in placed)
        point["named"] = bool(point["front"]) and free
        if point["named"]:
            placed.append((x, y))


def _colour(variants: Sequence[str]) -> alt.Color:
    """Return the baseline in grey and everything else in colour."""
    others = [label for label in variants if label != BASELINE]
    colours = {label: _COLOURS[index % len(_COLOURS)] for index, label in enumerate(others)}
    scale = alt.Scale(domain=list(variants), range=[colours.get(label, _GREY) for label in variants])
    return alt.Color("label:N", scale=scale, legend=_legend(variants))


def _legend(variants: Sequence[str]) -> alt.Legend:
    longest = max(map(len, variants), default=1)
    columns = max(1, min(4, _LEGEND_CHARACTERS // (longest + 3)))
    return alt.Legend(
        title=None, orient="bottom", columns=columns, labelLimit=300, symbolSize=90, symbolOpacity=1, labelFontSize=12
    )


def _log_axis() -> alt.Axis:
    return alt.Axis(tickCount=5, format="~r", labelOverlap="greedy", labelSeparation=8)


def _tokens_axis(rows: Sequence[Row]) -> alt.Axis:
    """Return ticks at the measured token counts, with the resolutions below them."""
    names: dict[int, set[str]] = {}
    for row in rows:
        names.setdefault(row.tokens or 0, set()).add(row.workload.resolution)
    # A Vega expression; it holds only digits and `x`, which Workload guarantees.
    table = ", ".join(f"'{tokens}': '{' / '.join(sorted(resolutions))} px'" for tokens, resolutions in names.items())
    label = f"[datum.label, {{{table}}}[datum.value]]"
    return alt.Axis(values=sorted(names), format="d", labelExpr=label, labelOverlap="greedy", grid=False)
