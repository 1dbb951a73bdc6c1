"""The data behind the page: what its figures draw, its tables and hovers say, and its filters tell apart."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from effvit.profiling.crossover import Crossover, crossovers
from effvit.profiling.report import crossings, display, points
from effvit.profiling.report.advice import Advice, usual_advice
from effvit.profiling.report.details import DETAILS, Detail
from effvit.profiling.report.devices import Devices, devices_of
from effvit.profiling.report.display import Column
from effvit.profiling.report.figures import FIGURES, Points
from effvit.profiling.report.points import Datum
from effvit.profiling.report.rows import Context, Row, contexts, variant_order

# What rows can be told apart by; a filter each, where there is more than one value.
DIMENSIONS = ("model", "data", "machine", "device", "backend", "precision", "batch", "px", "attention")
FACTS = (
    "attention", "px", "batch", "precision", "backend", "device", "machine", "tokens", "latency p50", "latency p90",
    "latency p99", "vs. softmax", "ceiling", "MACs ratio", "images/s", "peak memory", "size", "energy an image",
    "top-1", "top-5", "balanced top-1", "top-1 points", "MACs", "parameters", "first call", "trained", "run", "status",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Choice:
    """A filter: its values in the order of the rows."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Content:
    """What pages and figures of a report are made from.

    Rows, where variants cross softmax, the points of every context, what to ship if nothing else is said, and how
    devices differ.
    """

    rows: Sequence[Row]
    crossed: Sequence[Crossover]
    panels: Sequence[tuple[Context, Points]]
    advice: Sequence[Advice]
    devices: Devices


def content_of(rows: Sequence[Row]) -> Content:
    """Return what a report of these rows is made from."""
    crossed = crossovers(rows)
    return Content(rows, crossed, _panels(rows, crossed), usual_advice(rows), devices_of(rows))


def _panels(rows: Sequence[Row], crossed: Sequence[Crossover]) -> list[tuple[Context, Points]]:
    """Return the points of every context."""
    grown = points.curves(rows)
    members: dict[Context, list[Row]] = defaultdict(list)
    for row in rows:
        members[row.context].append(row)
    found = []
    for context, some in members.items():
        here = [one for one in crossed if one.context == context]
        drawn = Points(points.cells(some), grown.get(context, ()), points.crossings(here), points.comparisons(here))
        found.append((context, drawn))
    return found


def choices(rows: Sequence[Row]) -> list[Choice]:
    """Return the filters of these rows."""
    columns = display.columns(*DIMENSIONS)
    found = [Choice(one.title, tuple(dict.fromkeys(one.text(row) for row in rows))) for one in columns]
    return [one for one in found if len(one.values) > 1]


def page_json(content: Content) -> str:
    """Return everything that the script of the page needs, without repetition: of 2,000 cells it is under 1 MB.

    `texts` are those of `columns` for each row, as places among `strings`; `cells` the numbers of each row in the order
    of `fields`; `specs` the Vega-Lite specifications, which contexts with the same resolutions share.
    """
    rows, columns = content.rows, _columns()
    strings, specs = _Places(), _Places()
    among = contexts(rows)
    variants = variant_order(rows)
    fields = list(dict.fromkeys(field for _, one in content.panels for datum in one.cells for field in datum))
    charts: dict[Hashable, list[int | None]] = {}
    shown = []
    for context, one in content.panels:
        key = _outline(one)
        if key not in charts:
            charts[key] = [specs.place(spec) if spec else None for spec in _specs(one, variants)]
        lines = [crossings.line(each) for each in content.crossed if each.context == context]
        shown.append(
            {
                "title": display.context_name(context, among),
                "cells": [[datum.get(field) for field in fields] for datum in one.cells],
                "curves": _columnar(one.curves),
                "crossings": one.crossings,
                "comparisons": one.comparisons,
                "specs": charts[key],
                "crossed": lines,
            }
        )
    told = {
        "columns": [column.title for column in columns],
        "numeric": [column.numeric for column in columns],
        "texts": [[strings.place(column.text(row)) for column in columns] for row in rows],
        "strings": strings.texts,
        "fields": fields,
        "contexts": shown,
        "figures": [_figure(figure.name, figure.title, figure.columns, columns) for figure in FIGURES],
        "details": [_detail(detail, rows, columns) for detail in DETAILS],
        "naming": [_place(column.title, columns) for column in display.NAMING],
        "crossed": crossings.TITLES,
        "dimensions": [[one.name, _place(one.name, columns)] for one in choices(rows)],
        "facts": [_place(title, columns) for title in FACTS],
        "specs": [json.loads(text) for text in specs.texts],
    }
    return json.dumps(told, separators=(",", ":"), ensure_ascii=False)


def _specs(one: Points, variants: Sequence[str]) -> Iterator[str]:
    """Yield the specification of each figure, empty where it has no numbers."""
    for figure in FIGURES:
        if figure.drawable(one):
            chart = figure.chart(one, variants).properties(width="container")
            yield json.dumps(chart.to_dict(validate=False))
        else:
            yield ""


def _outline(one: Points) -> Hashable:
    """Return what charts depend on beside the numbers: contexts that have it in common share them."""
    fields = frozenset(field for datum in one.cells for field in datum)
    ticks = frozenset((datum.get("tokens"), datum["px"]) for datum in one.cells)
    return fields, ticks, len(one.cells), len(one.crossings), any("tokens" in datum for datum in one.crossings)


class _Places:
    """Texts, each once, and where each is."""

    def __init__(self) -> None:
        self._found: dict[str, int] = {}

    @property
    def texts(self) -> list[str]:
        return list(self._found)

    def place(self, text: str) -> int:
        return self._found.setdefault(text, len(self._found))


def _columns() -> list[Column]:
    """Return every column that some table or hover shows, each once."""
    among = (*display.COLUMNS, *display.MORE, *(column for detail in DETAILS for column in detail.columns))
    return list({column.title: column for column in among}.values())


def _place(title: str, columns: Sequence[Column]) -> int:
    return next(place for place, column in enumerate(columns) if column.title == title)


def _figure(name: str, title: str, shown: tuple[str, ...] | None, columns: Sequence[Column]) -> dict[str, Any]:
    return {"name": name, "title": title, "columns": shown and [_place(one, columns) for one in shown]}


def _detail(detail: Detail, rows: Sequence[Row], columns: Sequence[Column]) -> dict[str, Any]:
    shown = [_place(one.title, columns) for one in display.columns_of(rows, detail.columns)]
    return {"columns": shown, "rows": [place for place, row in enumerate(rows) if detail.has(row)]}


def _columnar(data: Sequence[Datum]) -> dict[str, list[Any]]:
    """Return the values of each field: the names of fields would take more room than the numbers."""
    fields = dict.fromkeys(field for datum in data for field in datum)
    return {field: [datum.get(field) for datum in data] for field in fields}
