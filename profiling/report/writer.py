"""The report on disk: HTML, CSV, Markdown, and every figure as PNG and SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import vl_convert

from effvit.errors import ResultError
from effvit.plain_text import plain_text
from effvit.profiling.report import devices, display, html, table
from effvit.profiling.report.devices import Drawing
from effvit.profiling.report.figures import FIGURES, Figure, Points
from effvit.profiling.report.page import Content, content_of
from effvit.profiling.report.rows import Row, contexts, variant_order
from effvit.progress import Progress, silent
from effvit.storage import make_folder, write_atomically

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


def write_report(rows: Sequence[Row], folder: Path, progress: Progress = silent) -> ReportFiles:
    """Write `report.html`, `report.csv`, `report.md` and `figures/` into `folder`, each whole or not at all.

    A figure that no cell has numbers for is not written. `progress` is told of figures, drawn or not.

    Raises:
        ResultError: There are no rows.
        StorageError: The folder cannot be written, or the disk is full.
    """
    if not rows:
        raise ResultError("there are no outcomes to report", "measure something first: effvit profile")
    make_folder(folder)  # before the seconds that drawing takes
    content = content_of(rows)
    written = ReportFiles(
        html=folder / "report.html",
        csv=folder / "report.csv",
        markdown=folder / "report.md",
        figures=(
            *_write_figures(content, folder / "figures", progress),
            *_write_drawings(content.devices.drawings, folder / "figures"),
        ),
    )
    write_atomically(written.html, html.html_text(content).encode())
    write_atomically(written.csv, table.csv_text(rows).encode())
    write_atomically(written.markdown, (table.markdown_text(rows) + devices.markdown_text(content.devices)).encode())
    return written


def _write_drawings(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    written: list[Path] = []
    for drawing in drawings:
        png, svg = folder / f"{drawing.name}.png", folder / f"{drawing.name}.svg"
        write_atomically(png, vl_convert.vegalite_to_png(drawing.spec, scale=_SHARPNESS))
        write_atomically(svg, drawing.svg.encode())
        written += [png, svg]
    return written


def _write_figures(content: Content, folder: Path, progress: Progress) -> list[Path]:
    written: list[Path] = []
    for place, figure in enumerate(FIGURES):
        progress(place, len(FIGURES))
        spec = _still(content, figure)
        if spec is None:
            continue
        png, svg = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
        write_atomically(png, vl_convert.vegalite_to_png(spec, scale=_SHARPNESS))
        write_atomically(svg, vl_convert.vegalite_to_svg(spec).encode())
        written += [png, svg]
    progress(len(FIGURES), len(FIGURES))
    return written


def _still(content: Content, figure: Figure) -> dict[str, Any] | None:
    """Return the specification of `figure` with one panel a context, or None where no context has its numbers."""
    among = contexts(content.rows)
    variants = variant_order(content.rows)
    found = []
    for context, points in content.panels:
        if figure.drawable(points):
            chart = figure.chart(points, variants)
            named = chart.properties(width=_PANEL_WIDTH_PX, title=display.context_name(context, among))
            found.append(_with_data(named.to_dict(), points))
    if not found:
        return None
    whole = {
        "$schema": found[0]["$schema"],
        "title": figure.title,
        "background": "white",
        "columns": _PANELS_ACROSS,
        "concat": [{key: value for key, value in one.items() if key not in _OF_THE_WHOLE} for one in found],
    }
    return {key: _with_plain_text(value) for key, value in whole.items()}


def _with_plain_text(value: Any) -> Any:
    """Return a part of a specification in which every text is one: control characters end the process that draws."""
    if isinstance(value, str):
        return plain_text(value)
    if isinstance(value, dict):
        return {key: _with_plain_text(one) for key, one in value.items()}
    return [_with_plain_text(one) for one in value] if isinstance(value, list) else value


def _with_data(spec: dict[str, Any], points: Points) -> dict[str, Any]:
    """Return `spec` with the points in the place of their names: panels have different ones under the same names."""
    data = spec["data"]
    layers = [_with_data(layer, points) if "data" in layer else layer for layer in spec.get("layer", ())]
    whole = {**spec, "data": {"values": list(getattr(points, data["name"]))}}
    return whole | ({"layer": layers} if layers else {})
