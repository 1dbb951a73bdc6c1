"""The report on disk: HTML, CSV, Markdown, and every figure as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert

from effvit.errors import ResultError
from effvit.profiling.crossover import crossovers
from effvit.profiling.records import Outcome
from effvit.profiling.report import devices, display, html, table
from effvit.profiling.report.devices import Drawing
from effvit.profiling.report.figures import FIGURES, Figure, Points
from effvit.profiling.report.page import panels
from effvit.profiling.report.rows import Context, Row, contexts, make_rows, variant_order
from effvit.storage import write_atomically

_PANEL_WIDTH_PX = 420
_PANELS_ACROSS = 2
_SHARPNESS = 2.0
_OF_THE_WHOLE = ("$schema", "config")


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the parts of a report are."""

    html: Path
    csv: Path
    markdown: Path
    figures: tuple[Path, ...]


def write_report(outcomes: Iterable[Outcome], folder: Path) -> ReportFiles:
    """Write `report.html`, `report.csv`, `report.md` and `figures/` into `folder`, each whole or not at all.

    A figure that no cell has numbers for is not written.

    Raises:
        ResultError: There are no outcomes.
        StorageError: The folder cannot be written, or the disk is full.
    """
    rows = make_rows(outcomes)
    if not rows:
        raise ResultError("there are no outcomes to report", "measure something first: effvit profile")
    several = devices.devices_of(rows)
    written = ReportFiles(
        html=folder / "report.html",
        csv=folder / "report.csv",
        markdown=folder / "report.md",
        figures=(*_write_figures(rows, folder / "figures"), *_write_drawings(several.drawings, folder / "figures")),
    )
    write_atomically(written.html, html.html_text(rows).encode())
    write_atomically(written.csv, table.csv_text(rows).encode())
    write_atomically(written.markdown, (table.markdown_text(rows) + devices.markdown_text(several)).encode())
    return written


def _write_drawings(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    written: list[Path] = []
    for drawing in drawings:
        png, svg = folder / f"{drawing.name}.png", folder / f"{drawing.name}.svg"
        write_atomically(png, vl_convert.vegalite_to_png(drawing.spec, scale=_SHARPNESS))
        write_atomically(svg, drawing.svg.encode())
        written += [png, svg]
    return written


def _write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    written: list[Path] = []
    drawn = panels(rows, crossovers(rows))
    for figure in FIGURES:
        spec = _still(rows, drawn, figure)
        if spec is None:
            continue
        png, svg = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
        write_atomically(png, vl_convert.vegalite_to_png(spec, scale=_SHARPNESS))
        write_atomically(svg, vl_convert.vegalite_to_svg(spec).encode())
        written += [png, svg]
    return written


def _still(rows: Sequence[Row], drawn: Sequence[tuple[Context, Points]], figure: Figure) -> dict[str, Any] | None:
    """Return the specification of `figure` with one panel a context, or None where no context has its numbers."""
    among = contexts(rows)
    variants = variant_order(rows)
    found = []
    for context, points in drawn:
        if figure.drawable(points):
            chart = figure.chart(points, variants)
            named = chart.properties(width=_PANEL_WIDTH_PX, title=display.context_name(context, among))
            found.append(_with_data(named.to_dict(), points))
    if not found:
        return None
    return {
        "$schema": found[0]["$schema"],
        "title": figure.title,
        "background": "white",
        "columns": _PANELS_ACROSS,
        "concat": [{key: value for key, value in one.items() if key not in _OF_THE_WHOLE} for one in found],
    }


def _with_data(spec: dict[str, Any], points: Points) -> dict[str, Any]:
    """Return `spec` with the points in the place of their names: panels have different ones under the same names."""
    data = spec["data"]
    layers = [_with_data(layer, points) if "data" in layer else layer for layer in spec.get("layer", ())]
    whole = {**spec, "data": {"values": list(getattr(points, data["name"]))}}
    return whole | ({"layer": layers} if layers else {})
