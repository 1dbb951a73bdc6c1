"""The report as one HTML file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import jinja2
import vl_convert
from markupsafe import Markup

from effvit.environment import Environment
from effvit.profiling import results
from effvit.profiling.records import SCHEMA
from effvit.profiling.report import display, quantities, summary, used
from effvit.profiling.report.details import DETAILS, Detail
from effvit.profiling.report.figures import FIGURES, Figure, drawable
from effvit.profiling.report.rows import Row, contexts, variant_order
from effvit.spec import BASELINE


@dataclass(frozen=True, slots=True)
class Table:
    """Texts of a table; `numeric` and `marked` say how columns and rows look.

    A line with fewer texts than titles ends with one that runs over the columns that are left.
    """

    titles: tuple[str, ...]
    numeric: tuple[bool, ...]
    lines: tuple[tuple[str, ...], ...]
    marked: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure of one context; `element` is the id of the element that it is drawn into."""

    element: str
    figure: Figure
    table: Table


@dataclass(frozen=True, slots=True)
class Panel:
    """The figures of one context."""

    title: str
    shown: bool
    drawings: tuple[Drawing, ...]


def html_text(rows: Sequence[Row]) -> str:
    """Return the report; every name in it that came from a file is escaped."""
    panels, specs = _panels(rows)
    machines = {row.outcome.environment: row.machine for row in rows}
    missing = [row for row in rows if row.outcome.status != "ok" or row.outcome.notes]
    return _template().render(
        title=f"Attention report: {', '.join(sorted({row.outcome.cell.model.backbone for row in rows}))}",
        overview=summary.overview(rows),
        paragraphs=summary.paragraphs(rows),
        panels=panels,
        full=_full_table(rows),
        details=_details(rows),
        signs=display.SIGNS.splitlines(),
        ceiling=display.CEILING,
        baseline=BASELINE,
        accuracy_basis=display.accuracy_basis(rows),
        environments=[(name, _facts(environment)) for environment, name in machines.items()],
        provenance=sorted({(row.outcome.data, row.outcome.run) for row in rows}),
        missing=_table(missing, (*display.columns_of(rows, _NAMED), *_REASONS)),
        used=_table(used.distinct(rows), display.columns_of(rows, used.COLUMNS)),
        schema=SCHEMA,
        specs=_inert(json.dumps(specs)),
        raw=_inert("\n".join(results.encode(row.outcome).decode() for row in rows)),
        library=_library(),
    )


_NAMED = display.columns("machine", "attention", "backend", "precision", "device", "batch", "px")
_REASONS = (
    display.Column("status", display.status, numeric=False),
    display.Column("notes", lambda row: "; ".join(row.outcome.notes) or quantities.ABSENT, numeric=False),
)


def _panels(rows: Sequence[Row]) -> tuple[list[Panel], dict[str, object]]:
    """Return the figures of every context, and the Vega-Lite specification of each by its element's id."""
    among = contexts(rows)
    variants = variant_order(rows)
    first = summary.default_context(rows)
    panels: list[Panel] = []
    specs: dict[str, object] = {}
    for number, context in enumerate(among):
        members = [row for row in rows if row.context == context]
        drawings = []
        for figure in FIGURES:
            if not drawable(members, figure):
                continue
            element = f"figure-{number}-{figure.name}"
            chart = figure.chart(members, variants).properties(width="container")
            specs[element] = chart.to_dict()
            measured = [row for row in members if row.outcome.evidence]
            drawings.append(Drawing(element, figure, _table(measured, display.columns(*figure.columns))))
        panels.append(Panel(display.context_name(context, among), context == first, tuple(drawings)))
    return panels, specs


def _table(rows: Sequence[Row], columns: Sequence[display.Column]) -> Table:
    return Table(
        titles=tuple(column.title for column in columns),
        numeric=tuple(column.numeric for column in columns),
        lines=tuple(tuple(column.text(row) for column in columns) for row in rows),
        marked=tuple(row.pareto_latency or row.pareto_memory for row in rows),
    )


def _full_table(rows: Sequence[Row]) -> Table:
    """Return every cell; where nothing was measured, the reason runs over the columns of the measurements."""
    table = _table(rows, display.columns_of(rows))
    named = len(display.columns_of(rows, display.NAMING))
    lines = tuple(
        line if row.outcome.evidence else (*line[:named], display.status(row))
        for row, line in zip(rows, table.lines, strict=True)
    )
    return replace(table, lines=lines)


def _details(rows: Sequence[Row]) -> list[tuple[Detail, Table]]:
    """Return the tables of what was measured that are folded until they are asked for."""
    parts = [(detail, [row for row in rows if detail.has(row)]) for detail in DETAILS]
    return [(one, _table(some, display.columns_of(some, one.columns))) for one, some in parts if some]


def _facts(environment: Environment) -> list[tuple[str, str]]:
    memory = "unknown" if environment.ram_bytes is None else quantities.size(environment.ram_bytes)
    return [
        ("processor", f"{environment.cpu}, {environment.cores} cores"),
        ("threads used", str(environment.threads)),
        ("memory", memory),
        ("GPU", ", ".join(environment.gpus) or "none"),
        ("system", environment.os),
        ("Python", environment.python),
        *environment.packages,
    ]


def _inert(text: str) -> Markup:
    """Return JSON for a script element: no text in it can close the element, and it parses to the same values."""
    # In JSON `<` stands only inside strings, where the escape means the same character.
    return Markup(text.replace("<", "\\u003c"))


@cache
def _library() -> Markup:
    """Return Vega, Vega-Lite and Vega-Embed as one script, made once a process: it takes seconds."""
    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub misses the default
    # The backslash changes nothing in the strings where this could stand, and keeps the element open.
    return Markup(script.replace("</script", "<\\/script"))


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = files("effvit.profiling.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source)
