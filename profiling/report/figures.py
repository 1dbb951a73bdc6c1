"""The figures: what accuracy costs, how cost grows with resolution and where it crosses softmax's, what memory holds.

A chart is drawn from the points of one context (`Points`) and names its data, so that a page can put those of another
context in their place. `variants` are the labels of all rows of the report in a fixed order, so that a variant keeps
its colour and shape from one figure to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import altair as alt

from effvit.profiling.report import display
from effvit.profiling.report.palette import COLOURS, GREY, colour, colour_scale, legend, shape
from effvit.profiling.report.points import (
    CEILING,
    ENERGY_AN_IMAGE,
    LATENCY,
    MEMORY,
    SIZE,
    SPEEDUP,
    THROUGHPUT,
    TOP1,
    TRAINED_TOP1,
    TRAINING,
    Axis,
    Datum,
    has,
)
from effvit.spec import BASELINE

HEIGHT_PX = 320
_BAR_PX, _LINE_PX = 16, 30
CELLS, CURVES, CROSSINGS, COMPARISONS = "cells", "curves", "crossings", "comparisons"
_WENT = {"faster": "triangle-up", "undecided": "circle", "slower": "triangle-down"}
Chart: TypeAlias = alt.LayerChart | alt.Chart


@dataclass(frozen=True, slots=True)
class Points:
    """The points of one context, by the name under which charts ask for them."""

    cells: Sequence[Datum]
    curves: Sequence[Datum] = ()
    crossings: Sequence[Datum] = ()
    comparisons: Sequence[Datum] = ()


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of the report: what it needs, how it is drawn, and the columns of the table behind it.

    `columns` None: the table is that of the crossovers.
    """

    name: str
    title: str
    caption: str
    axes: tuple[Axis, ...]
    chart: Callable[[Points, Sequence[str]], Chart]
    columns: tuple[str, ...] | None

    def drawable(self, points: Points) -> bool:
        """Return whether any of the points has all numbers of the figure."""
        if self.columns is None:
            return bool(points.comparisons)
        return any(all(has(datum, axis) for axis in self.axes) for datum in points.cells)


def _trade_off(price: Axis) -> Callable[[Points, Sequence[str]], Chart]:
    """Return what draws top-1 over a price, with the front of what nothing beats."""

    def chart(points: Points, variants: Sequence[str]) -> Chart:
        base = alt.Chart().encode(x=_log_x(price.field, price.title), y=_top1_axis(TOP1))
        base = base.transform_filter(f"isValid(datum.{price.field}) && isValid(datum.top1)")
        front = base.transform_filter(f"datum.{price.field}_standing === 'front'")
        line = front.mark_line(
            color=GREY,
            strokeDash=[4, 3],
            interpolate="step-before" if price is THROUGHPUT else "step-after",
            strokeWidth=1.5,
        )
        line = line.encode(order=alt.Order(f"{price.field}:Q"))
        rings = front.mark_point(color=GREY, size=260, strokeWidth=1.5)
        near = base.transform_filter(f"datum.{price.field}_standing === 'near'")
        dots = near.mark_point(color=GREY, size=260, strokeWidth=1, strokeDash=[2, 3])
        names = base.transform_filter(f"datum.{price.field}_named").mark_text(dy=-17, fontSize=11).encode(text="px:N")
        bars = _bars(base, points.cells, price, TOP1, variants)
        return _layered(line, *bars, rings, dots, _marks(base, variants), names)

    return chart


def _growth(cost: Axis, crossed: bool = False) -> Callable[[Points, Sequence[str]], Chart]:
    """Return what draws a cost over the tokens, with the fitted curves."""

    def chart(points: Points, variants: Sequence[str]) -> Chart:
        x = alt.X(
            "tokens:Q", title="tokens (resolution)", scale=alt.Scale(type="log", nice=False, padding=24),
            axis=_tokens_axis(points.cells),
        )  # fmt: skip
        y = alt.Y(
            f"{cost.field}:Q", title=cost.title, scale=alt.Scale(type="log", nice=False, padding=16), axis=_log_axis()
        )
        valid = f"isValid(datum.{cost.field}) && isValid(datum.tokens)"
        base = alt.Chart().encode(x=x, y=y).transform_filter(valid)
        fitted = alt.Chart(alt.NamedData(CURVES)).transform_filter(valid).encode(x=x, y=y, color=colour(variants))
        lines = fitted.mark_line(strokeWidth=1.5, interpolate="monotone")
        bars = _bars(base, points.cells, None, cost, variants)
        layers = [lines, *bars, _marks(base, variants)]
        if crossed and any("tokens" in one for one in points.crossings):
            places = alt.Chart(alt.NamedData(CROSSINGS)).transform_filter(valid).encode(x=x, y=y)
            layers.append(
                places.mark_point(shape="M-1,-1L1,1M1,-1L-1,1", size=90, strokeWidth=2, opacity=1).encode(
                    color=colour(variants)
                )
            )
        return _layered(*layers)

    return chart


def crossover_map(points: Points, variants: Sequence[str]) -> Chart:
    """Return from which resolution on each variant is faster than softmax, and what was measured of that."""
    lines = len({datum["label"] for datum in points.comparisons})
    x = alt.X(
        "start:Q", title="side of the image (px)", axis=_log_axis(),
        scale=alt.Scale(type="log", nice=False, padding=16),
    )  # fmt: skip
    # In the order of the data: of a list Vega-Lite would make an expression, and names are not for expressions.
    y = alt.Y("label:N", title=None, sort=None, axis=alt.Axis(labelLimit=160))
    places = alt.Chart(alt.NamedData(CROSSINGS)).encode(y=y)
    named = alt.Color("label:N", scale=colour_scale(variants), legend=None)
    reach = places.transform_filter("isValid(datum.start)").mark_bar(height=9, opacity=0.35)
    reach = reach.encode(x=x, x2="largest:Q", color=named)
    doubt = places.transform_filter("isValid(datum.low) && datum.high > datum.low").mark_rule(strokeWidth=2.5)
    doubt = doubt.encode(x="low:Q", x2="high:Q", color=alt.value(GREY))
    domain = list(_WENT)
    signs = alt.Shape(
        "went:N", scale=alt.Scale(domain=domain, range=list(_WENT.values())), legend=legend(domain),
    )  # fmt: skip
    tried = alt.Chart(alt.NamedData(COMPARISONS)).mark_point(filled=True, size=70, opacity=1)
    tried = tried.encode(x="px:Q", y=y, shape=signs, color=named)
    return _layered(reach, doubt, tried).properties(height=_LINE_PX * lines)


def ceiling_against_speedup(points: Points, variants: Sequence[str]) -> Chart:
    """Return the measured speed-up over the ceiling that MACs set for a cheaper core."""
    scale = alt.Scale(type="log", nice=False, padding=16)
    base = alt.Chart().encode(
        x=_log_x(CEILING.field, CEILING.title),
        y=alt.Y(f"{SPEEDUP.field}:Q", title=SPEEDUP.title, scale=scale, axis=_log_axis()),
    )
    base = base.transform_filter("isValid(datum.ceiling) && isValid(datum.speedup)")
    equal = base.mark_line(color=GREY, strokeDash=[4, 3], strokeWidth=1.5).encode(y="ceiling:Q")
    even = base.transform_calculate(one="1").mark_line(color=GREY, strokeWidth=1).encode(y="one:Q")
    bars = _bars(base, points.cells, None, SPEEDUP, variants)
    return _layered(even, equal, *bars, _marks(base, variants))


def memory_ledger(points: Points, variants: Sequence[str]) -> Chart:
    """Return what takes the peak of each process, one bar a cell."""
    chart = (
        alt.Chart().transform_filter("isValid(datum.Python)").transform_fold(list(display.LEDGER), as_=["part", "MiB"])
    )
    chart = chart.transform_filter("isValid(datum.MiB)").transform_calculate(
        order=f"indexof({list(display.LEDGER)!r}, datum.part)", bar="datum.label + ', ' + datum.px"
    )
    return (
        chart.mark_bar()
        .encode(
            x=alt.X("MiB:Q", title="resident memory (MiB)", stack="zero", axis=alt.Axis(tickCount=5)),
            y=alt.Y("bar:N", title=None, sort=alt.SortField("cell"), axis=alt.Axis(labelLimit=170, labelFontSize=11)),
            color=alt.Color(
                "part:N",
                scale=alt.Scale(domain=list(display.LEDGER), range=[GREY, *COLOURS[: len(display.LEDGER) - 1]]),
                legend=legend(display.LEDGER),
            ),
            order=alt.Order("order:Q"),
            tooltip=alt.value(None),
        )
        .properties(data=alt.NamedData(CELLS), height=_BAR_PX * len(points.cells))
    )


def training_cost(points: Points, variants: Sequence[str]) -> Chart:
    """Return what accuracy took in training, one point a run."""
    base = alt.Chart().encode(x=_log_x(TRAINING.field, TRAINING.title), y=_top1_axis(TRAINED_TOP1))
    return _layered(_marks(base.transform_filter("datum.of_run"), variants))


_BETTER = "is the front: nothing else is at least as good in both and better in one"
_DOUBT = (
    "Dotted rings cannot be told from the front by 95 % intervals, those of differences where rounds or images are the "
    "same; what has no ring is beaten beyond doubt."
)


def _priced(axis: Axis, words: str, side: str, columns: tuple[str, ...]) -> Figure:
    caption = f"Up and to the {side} is better. What lies on the dashed line {_BETTER}. {_DOUBT}"
    shown = ("attention", "px", *columns, "top-1", "top-1 points", f"front by {axis.field}")
    return Figure(f"accuracy-{axis.field}", f"Accuracy against {words}", caption, (axis, TOP1), _trade_off(axis), shown)


FIGURES = (
    _priced(LATENCY, "latency", "left", ("latency p50", f"vs. {BASELINE}")),
    _priced(THROUGHPUT, "throughput", "right", ("images/s",)),
    _priced(MEMORY, "memory", "left", ("peak memory",)),
    _priced(SIZE, "size", "left", ("size", "parameters")),
    _priced(ENERGY_AN_IMAGE, "energy", "left", ("energy an image",)),
    Figure(
        "latency-resolution",
        "Latency against resolution",
        "Both axes are logarithmic: a slope of 1 is a cost in proportion to the tokens, a slope of 2 a quadratic one. "
        "Bars are 95 % intervals, lines the fit of call + batch * (image + token * tokens + pair * tokens²); where "
        "there are fewer than three resolutions there is none. A cross is where a variant becomes faster than softmax.",
        (LATENCY,),
        _growth(LATENCY, crossed=True),
        ("attention", "px", "tokens", "latency p50", "latency p90", "latency p99", f"vs. {BASELINE}", "ceiling"),
    ),
    Figure(
        "throughput-resolution",
        "Throughput against resolution",
        "Calls follow one another without a wait between them. Both axes are logarithmic. Bars are 95 % intervals, "
        "lines the same fit, of the time that a call takes.",
        (THROUGHPUT,),
        _growth(THROUGHPUT),
        ("attention", "px", "tokens", "images/s"),
    ),
    Figure(
        "memory-resolution",
        "Memory against resolution",
        "Peak of the whole process, weights and runtime included. Both axes are logarithmic, lines the same fit.",
        (MEMORY,),
        _growth(MEMORY),
        ("attention", "px", "tokens", "peak memory"),
    ),
    Figure(
        "crossover",
        f"From which resolution each variant beats {BASELINE}",
        f"A bar reaches from where a variant becomes faster than {BASELINE} to the largest measured resolution; the "
        "grey line is the 95 % interval of its beginning. Triangles are measurements: up is faster beyond doubt, down "
        "slower, a dot undecided. No bar: not faster at the largest.",
        (),
        crossover_map,
        None,
    ),
    Figure(
        "ceiling-speedup",
        "Ceiling against measured speed-up",
        "The ceiling is what softmax would reach if its attention core took no time at all. On the dashed line a "
        f"variant reaches it; on the other line it is as fast as {BASELINE}. Bars are 95 % intervals.",
        (CEILING, SPEEDUP),
        ceiling_against_speedup,
        ("attention", "px", f"vs. {BASELINE}", "ceiling", "MACs", "MACs ratio"),
    ),
    Figure(
        "memory-ledger",
        "What takes the memory",
        "The peak of a process that runs the cell and nothing else, read from the kernel's own accounting in a pass in "
        "which nothing is timed: Python with effvit, the imported runtime, the artifact's file, the batch of images, "
        "and what calls add to that at their peak. The residual is what no line explains, such as weights copied into "
        "another order, graphs, allocators, and what loading took for a moment; below zero, memory does not hold all "
        "that is counted.",
        (MEMORY,),
        memory_ledger,
        ("attention", "px", *display.LEDGER, "peak memory"),
    ),
    Figure(
        "training-cost",
        "Accuracy against training time",
        "One point a run, with attention transfer where there was some. Up and to the left is better.",
        (TRAINING, TRAINED_TOP1),
        training_cost,
        (
            "attention", "run", "trained", "epochs", "training images/s", "training memory", "training energy",
            "top-1 after training",
        ),
    ),
)  # fmt: skip


def _layered(*layers: alt.Chart) -> alt.LayerChart:
    return alt.layer(*layers, data=alt.NamedData(CELLS)).properties(height=HEIGHT_PX)


def _marks(base: alt.Chart, variants: Sequence[str]) -> alt.Chart:
    # With the whole point as its tooltip a page finds the cell, and shows all facts of that.
    marks = base.mark_point(filled=True, size=75, opacity=1, tooltip=alt.TooltipContent("data"))
    return marks.encode(color=colour(variants), shape=shape(variants))


def _bars(
    base: alt.Chart, cells: Sequence[Datum], across: Axis | None, upward: Axis, variants: Sequence[str]
) -> list[alt.Chart]:
    """Return the intervals; points without one have no bar, and Vega warns about the extent of a layer without any."""
    drawn = []
    for axis, ends in ((across, ("x", "x2")), (upward, ("y", "y2"))):
        if axis is not None and any(f"{axis.field}_low" in datum for datum in cells):
            bars = base.transform_filter(f"isValid(datum.{axis.field}_low)").mark_rule(strokeWidth=1.5, opacity=0.55)
            low, high = f"{axis.field}_low:Q", f"{axis.field}_high:Q"
            drawn.append(bars.encode(**{ends[0]: low, ends[1]: high}, color=colour(variants)))
    return drawn


def _log_x(field: str, title: str) -> alt.X:
    scale = alt.Scale(type="log", nice=False, padding=24)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=_log_axis())


def _top1_axis(axis: Axis) -> alt.Y:
    scale = alt.Scale(zero=False, padding=16)
    return alt.Y(f"{axis.field}:Q", title=axis.title, scale=scale, axis=alt.Axis(tickCount=6))


def _log_axis() -> alt.Axis:
    return alt.Axis(tickCount=5, format="~r", labelOverlap="greedy", labelSeparation=8)


def _tokens_axis(cells: Sequence[Datum]) -> alt.Axis:
    """Return ticks at the measured token counts, with the resolutions below them."""
    names: dict[int, set[str]] = {}
    for datum in cells:
        if "tokens" in datum:
            names.setdefault(datum["tokens"], set()).add(datum["px"])
    # A Vega expression; it holds only digits, `x` and `px`, which Workload guarantees.
    table = ", ".join(f"'{tokens}': '{' / '.join(sorted(names[tokens]))}'" for tokens in sorted(names))
    label = f"[datum.label, {{{table}}}[datum.value]]"
    return alt.Axis(values=sorted(names), format="d", labelExpr=label, labelOverlap="greedy", grid=False)
