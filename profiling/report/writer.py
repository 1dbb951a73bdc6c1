"""The report on disk: HTML, CSV, Markdown, and every figure as PNG and SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import altair as alt
import vl_convert

from effvit.errors import ResultError
from effvit.profiling.records import Outcome
from effvit.profiling.report import display, html, table
from effvit.profiling.report.figures import FIGURES, Figure, drawable
from effvit.profiling.report.rows import Row, contexts, make_rows, variant_order
from effvit.storage import write_atomically

_PANEL_WIDTH_PX = 420
_PANELS_ACROSS = 2
_SHARPNESS = 2.0


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
    written = ReportFiles(
        html=folder / "report.html",
        csv=folder / "report.csv",
        markdown=folder / "report.md",
        figures=tuple(_write_figures(rows, folder / "figures")),
    )
    write_atomically(written.html, html.html_text(rows).encode())
    write_atomically(written.csv, table.csv_text(rows).encode())
    write_atomically(written.markdown, table.markdown_text(rows).encode())
    return written


def _write_figures(rows: Sequence[Row], folder: Path) -> list[Path]:
    written: list[Path] = []
    for figure in FIGURES:
        spec = _still(rows, figure)
        if spec is None:
            continue
        png, svg = folder / f"{figure.name}.png", folder / f"{figure.name}.svg"
        write_atomically(png, vl_convert.vegalite_to_png(spec, scale=_SHARPNESS))
        write_atomically(svg, vl_convert.vegalite_to_svg(spec).encode())
        written += [png, svg]
    return written


def _still(rows: Sequence[Row], figure: Figure) -> str | None:
    """Return the specification of `figure` with one panel a context, or None where no context has its numbers."""
    among = contexts(rows)
    variants = variant_order(rows)
    panels = []
    for context in among:
        members = [row for row in rows if row.context == context]
        if drawable(members, figure):
            title = display.context_name(context, among)
            panels.append(figure.chart(members, variants).properties(width=_PANEL_WIDTH_PX, title=title))
    if not panels:
        return None
    page = alt.concat(*panels, columns=_PANELS_ACROSS).properties(title=figure.title, background="white")
    return str(page.to_json())
