"""`effvit study --dry-run`: the cells of a study, and how long it will take."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from effvit.cli.curves import duration
from effvit.cli.output import progress_bars, say, show, write_json
from effvit.errors import EffvitError
from effvit.profiling.forecast import PROBE_IMAGES, PROBE_STEPS, Forecast, Span, forecast
from effvit.profiling.plan import Effort, Group
from effvit.profiling.study import Study, sweep_of
from effvit.profiling.study_time import expect, read_time
from effvit.spec import Workload

if TYPE_CHECKING:
    from rich.table import Table

    from effvit.data.base import ImageData

_METHOD = (
    f"By a probe: every variant was trained for {PROBE_STEPS} steps, and the first one went through the sweep once for "
    f"every backend and precision, at the smallest size, on {PROBE_IMAGES} images. Times of calls follow the MACs. "
    "From files that are slow to read, and on a machine that others use, it takes longer."
)


def show_forecast(study: Study, images: ImageData, folder: Path, effort: Effort, *, json: bool) -> None:
    """Print every cell and what the whole will take, and keep the latter in the study's folder."""
    with progress_bars() as progress:
        task = progress.add_task("probing", total=None, detail="")
        found = forecast(study, images, folder, effort, lambda text: progress.update(task, detail=text))
    total = found.total
    groups = _groups(study)
    expect(folder, study, total.low_s, total.high_s)
    if json:
        cells = [_facts(attention, group, device) for group, device in groups for attention in study.attentions]
        write_json(msgspec.json.encode({"cells": cells, "forecast": found, "total": total}))
        return
    show(_cells_table(study, groups))
    for line in _lines(found, len(groups) * len(study.attentions)):
        show(line)


def _groups(study: Study) -> list[tuple[Group, str]]:
    """Return what is measured together, with the device as it is named: of this machine, then of each host."""
    plan = sweep_of(study, [])
    groups = [(group, str(group.device)) for group in plan.groups()]
    for host in study.hosts:
        there = replace(plan, devices=(host.device,))
        groups += [(group, host.text) for group in there.groups()]
    return groups


def say_time(folder: Path, study: Study) -> None:
    """Say how long a study has taken, beside how long it was expected to take."""
    known = read_time(folder, study)
    expected = ""
    if known.low_s is not None and known.high_s is not None:
        expected = f"; {_span(Span(known.low_s, known.high_s))} were expected"
    say(f"the study took {duration(known.spent_s)}{expected}")


def _facts(attention: str, group: Group, device: str) -> dict[str, object]:
    work = group.workload
    return {
        "attention": attention,
        "height": work.height,
        "width": work.width,
        "batch": work.batch,
        "precision": group.precision,
        "backend": group.backend.name,
        "device": device,
        "refusal": _refusal(group),
    }


def _cells_table(study: Study, groups: list[tuple[Group, str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for title in ("attention", "px", "batch", "precision", "backend", "device", ""):
        table.add_column(title, justify="right" if title in ("px", "batch") else "left")
    for group, device in groups:
        work: Workload = group.workload
        facts = (work.resolution, str(work.batch), str(group.precision), group.backend.name, device)
        for attention in study.attentions:
            table.add_row(attention, *facts, _refusal(group))
    return table


def _refusal(group: Group) -> str:
    """Return why a cell will be skipped, as far as that is known before anything is made."""
    try:
        group.backend.require(group.precision)
        group.backend.require_device(group.device.kind)
    except EffvitError as error:
        return f"skipped: {error.message}"
    return ""


def _lines(found: Forecast, cells: int) -> list[str]:
    lines = [
        f"\n{found.cells} of {cells} cells are left to be measured." if found.cells < cells else f"\n{cells} cells."
    ]
    lines += [f"training {attention}: {_span(span)}" for attention, span in found.training]
    lines.append(f"exporting, verifying and measuring: {_span(found.sweep)}")
    lines.append(f"altogether: {_span(found.total)} (finding this out took {duration(found.probe_s)})")
    if found.elsewhere:
        lines.append(f"not in this: {found.elsewhere} cells on other machines, which measure at the same time")
    return [*lines, f"\n{_METHOD}"]


def _span(span: Span) -> str:
    low, high = duration(span.low_s), duration(span.high_s)
    return low if low == high else f"{low} to {high}"
