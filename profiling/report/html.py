"""The report as one HTML file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import jinja2
import vl_convert
from markupsafe import Markup

from effvit.environment import Environment, hardware_facts
from effvit.profiling.crossover import Crossover
from effvit.profiling.records import SCHEMA
from effvit.profiling.report import advice, crossings, devices, display, page, quantities, summary, used
from effvit.profiling.report.details import DETAILS
from effvit.profiling.report.display import Column
from effvit.profiling.report.figures import FIGURES
from effvit.profiling.report.page import Content
from effvit.profiling.report.raw import result_file, table_file
from effvit.profiling.report.rows import Row, contexts
from effvit.profiling.report.table import csv_text
from effvit.spec import BASELINE


@dataclass(frozen=True, slots=True)
class Table:
    """Texts of a table; `numeric` and `marked` say how columns and lines look.

    A line with fewer texts than titles ends with one that runs over the columns that are left. `rows` are the places of
    the lines among all cells, which filters hide them by.
    """

    titles: tuple[str, ...]
    numeric: tuple[bool, ...]
    lines: tuple[tuple[str, ...], ...]
    marked: tuple[bool, ...]
    rows: tuple[int, ...] = ()


def html_text(content: Content) -> str:
    """Return the report; every name in it that came from a file is escaped."""
    rows, crossed = content.rows, content.crossed
    machines = {row.outcome.environment: row.machine for row in rows}
    several = content.devices
    raw, reduced = result_file([row.outcome for row in rows])
    return _template().render(
        title=f"Attention report: {', '.join(sorted({row.outcome.cell.model.backbone for row in rows}))}",
        style=Markup(_part("report.css")),
        overview=summary.overview(rows),
        question=advice.USUAL_QUESTION,
        advice=content.advice,
        paragraphs=summary.paragraphs(rows, crossed),
        choices=page.choices(rows),
        first=contexts(rows).index(summary.default_context(rows)),
        drawn=any(row.outcome.evidence for row in rows),
        figures=FIGURES,
        crossed=_crossover_table(rows, crossed),
        devices=several,
        ranks=_texts(several.rank_titles, several.ranks),
        agreements=_texts(devices.AGREEMENT_TITLES, several.agreements),
        ties=devices.TIES,
        full=_full_table(rows),
        details=[(place, one) for place, one in enumerate(DETAILS) if any(one.has(row) for row in rows)],
        signs=display.SIGNS.splitlines(),
        ceiling=display.CEILING,
        baseline=BASELINE,
        accuracy_basis=display.accuracy_basis(rows),
        environments=[(name, _facts(environment)) for environment, name in machines.items()],
        provenance=sorted({(row.outcome.data, row.outcome.run) for row in rows}),
        missing=_missing(rows),
        remarks=summary.remarks(rows),
        used=_table(used.distinct(rows), display.columns_of(rows, used.COLUMNS)),
        schema=SCHEMA,
        downloads=(raw, table_file(csv_text(rows))),
        reduced=reduced,
        page=_inert(page.page_json(content)),
        library=_library(),
        script=Markup(_part("report.js")),
    )


_NAMED = display.columns("machine", "attention", "backend", "precision", "device", "batch", "px")
_STATUS = (Column("status", display.status, numeric=False),)


def _missing(rows: Sequence[Row]) -> Table:
    """Return every cell that was not simply measured, with its reason."""
    kept = [place for place, row in enumerate(rows) if row.outcome.status != "ok"]
    table = _table([rows[place] for place in kept], (*display.columns_of(rows, _NAMED), *_STATUS))
    return replace(table, rows=tuple(kept))


def _crossover_table(rows: Sequence[Row], crossed: Sequence[Crossover]) -> Table:
    """Return every crossover, under what tells its context from others."""
    among = contexts(rows)
    lines = tuple((display.context_name(one.context, among), *crossings.line(one)) for one in crossed)
    return _texts(("where", *crossings.TITLES), lines)


def _texts(titles: tuple[str, ...], lines: tuple[tuple[str, ...], ...]) -> Table:
    """Return a table of texts, none of which is a cell's."""
    return Table(titles, (False,) * len(titles), lines, (False,) * len(lines))


def _table(rows: Sequence[Row], columns: Sequence[display.Column]) -> Table:
    return Table(
        titles=tuple(column.title for column in columns),
        numeric=tuple(column.numeric for column in columns),
        lines=tuple(tuple(column.text(row) for column in columns) for row in rows),
        marked=tuple("front" in (row.standing("latency"), row.standing("memory")) for row in rows),
    )


def _full_table(rows: Sequence[Row]) -> Table:
    """Return every cell; where nothing was measured, the reason runs over the columns of the measurements."""
    table = _table(rows, display.columns_of(rows))
    named = len(display.columns_of(rows, display.NAMING))
    lines = tuple(
        line if row.outcome.evidence else (*line[:named], display.status(row))
        for row, line in zip(rows, table.lines, strict=True)
    )
    return replace(table, lines=lines, rows=tuple(range(len(rows))))


def _facts(environment: Environment) -> list[tuple[str, str]]:
    memory = "unknown" if environment.ram_bytes is None else quantities.size(environment.ram_bytes)
    return [
        ("processor", f"{environment.cpu}, {environment.cores} cores"),
        *((name, text) for name, text in hardware_facts(environment.hardware) if text),
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


def _unbroken(text: str) -> str:
    """Return `text` with its numbers and their units on one line."""
    for unit in ("%", "px", "ms", "µs", "MiB", "GiB", "images/s"):
        text = text.replace(f" {unit}", f"\N{NO-BREAK SPACE}{unit}")
    return text.replace(" ±", "\N{NO-BREAK SPACE}±")


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
    environment.filters["unbroken"] = _unbroken
    return environment.from_string(_part("report.html.j2"))


def _part(name: str) -> str:
    return files("effvit.profiling.report").joinpath(name).read_text(encoding="utf-8")
