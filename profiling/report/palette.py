"""Which colour and shape a variant has, the same in every figure of a report."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from effvit.spec import BASELINE

# Okabe and Ito's blue, vermilion and orange (https://jfly.uni-koeln.de/color/), and others that a search put farthest
# from these, from grey and from one another, as people see them and as those do who lack one of two cones. On white
# and on the dark page each has a contrast of 2.2 at least. tests/profiling/test_palette.py holds them to that.
COLOURS = (
    "#0072B2", "#D55E00", "#5AC378", "#5A00FF", "#E69F00", "#B4003C", "#E196D2", "#A50078", "#4B4BD2", "#B4693C",
    "#FF69FF",
)  # fmt: skip
GREY = "#808080"
# 8 shapes and 11 colours have no common factor, so that pairs repeat only after 88 variants.
_SHAPES = (
    "circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left",
)  # fmt: skip
# What fits beside one another into a phone's 360 px of figure.
_LEGEND_CHARACTERS = 44


def colour_scale(variants: Sequence[str]) -> alt.Scale:
    """Return the baseline in grey and everything else in colour."""
    others = [label for label in variants if label != BASELINE]
    chosen = {label: COLOURS[index % len(COLOURS)] for index, label in enumerate(others)}
    return alt.Scale(domain=list(variants), range=[chosen.get(label, GREY) for label in variants])


def colour(variants: Sequence[str]) -> alt.Color:
    """Return a variant's colour, with a legend below the figure."""
    return alt.Color("label:N", scale=colour_scale(variants), legend=legend(variants))


def shape(variants: Sequence[str]) -> alt.Shape:
    """Return a variant's shape, in the legend of its colour."""
    shapes = [_SHAPES[index % len(_SHAPES)] for index in range(len(variants))]
    scale = alt.Scale(domain=list(variants), range=shapes)
    return alt.Shape("label:N", scale=scale, legend=legend(variants))


def legend(names: Sequence[str]) -> alt.Legend:
    """Return a legend of as many columns as a phone has room for."""
    longest = max(map(len, names), default=1)
    columns = max(1, min(4, _LEGEND_CHARACTERS // (longest + 3)))
    return alt.Legend(
        title=None, orient="bottom", columns=columns, labelLimit=300, symbolSize=90, symbolOpacity=1, labelFontSize=12
    )
