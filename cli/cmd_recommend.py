"""`effvit recommend`: the best choice among what was measured, under constraints."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from effvit.cli.options import (
    DEFAULT_RUNS,
    JsonOption,
    RunsOption,
    batches_from_text,
    bytes_from_text,
    names_from_text,
    precisions_from_text,
    resolutions_from_text,
    seconds_from_text,
)
from effvit.cli.output import show, write_json
from effvit.errors import ConstraintError, UsageError
from effvit.profiling.devices import device_from_text

if TYPE_CHECKING:
    from effvit.profiling.recommend import Recommendation
    from effvit.profiling.report.rows import Row


def recommend(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="result files [default: results.jsonl among the runs]", show_default=False),
    ] = None,
    max_latency_p50: Annotated[
        str | None, typer.Option("--max-latency-p50", metavar="TIME", help="median time of a call, at most: 10ms")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="peak memory of the process, at most: 2GiB")
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(metavar="POINTS", help="points of top-1 below softmax at the same resolution, at most: 1%"),
    ] = None,
    objective: Annotated[
        Literal["throughput", "latency", "accuracy", "memory", "energy"],
        typer.Option(help="what is to be the best of what keeps these limits"),
    ] = "throughput",
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", metavar="DEVICE", help="consider these alone: cpu:threads=1; may be given several times"
        ),
    ] = None,
    machine: Annotated[
        str | None, typer.Option(metavar="TEXT", help="consider machines alone whose name contains this")
    ] = None,
    backend: Annotated[str | None, typer.Option(metavar="NAME,...", help="consider these runtimes alone")] = None,
    precision: Annotated[str | None, typer.Option(metavar="NAME,...", help="consider these types alone")] = None,
    res: Annotated[str | None, typer.Option(metavar="PX,...", help="consider these image sizes alone")] = None,
    batch: Annotated[
        str | None, typer.Option(metavar="N,...", help="consider these batches alone: 1,8 or FIRST:LAST:FACTOR")
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Say which measured cell to ship: the best that keeps the limits, and what the data cannot decide.

    A limit is kept where the best estimate is within it; whether it is kept beyond doubt, by an interval of 95 %, is
    said beside it. Several machines, devices or data sets have a recommendation each. Ends with exit code 4 where
    nothing keeps the limits.
    """
    from effvit.cli.reporting import rows_of
    from effvit.profiling.limits import share_from_text
    from effvit.profiling.recommend import OBJECTIVES, Constraints
    from effvit.profiling.recommend import recommend as recommended
    from effvit.profiling.results import latest, read

    constraints = Constraints(
        None if max_latency_p50 is None else seconds_from_text(max_latency_p50, "--max-latency-p50"),
        None if max_memory is None else bytes_from_text(max_memory, "--max-memory"),
        None if max_drop is None else share_from_text(max_drop, "--max-drop"),
    )
    wanted = _Filter(
        devices=None if device is None else {str(device_from_text(text)) for text in device},
        machine=machine,
        backends=None if backend is None else set(names_from_text(backend)),
        precisions=None if precision is None else {str(one) for one in precisions_from_text(precision)},
        sizes=None if res is None else set(resolutions_from_text(res)),
        batches=None if batch is None else set(batches_from_text(batch)),
    )
    files = results or [runs / "results.jsonl"]
    rows = rows_of(latest(outcome for file in files for outcome in read(file)))
    kept = {id(row) for row in rows if wanted.keeps(row)}
    if not kept:
        raise UsageError(f"none of the {len(rows)} cells is of the kind that is asked for", _available(rows))
    chosen = next(one for one in OBJECTIVES if one.name == objective)
    recommendations = recommended(rows, constraints, chosen, lambda row: id(row) in kept)
    _write(recommendations, objective, json=json)
    if all(one.choice is None for one in recommendations):
        raise _nothing(recommendations)


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which cells are considered; None is all of them."""

    devices: set[str] | None
    machine: str | None
    backends: set[str] | None
    precisions: set[str] | None
    sizes: set[tuple[int, int]] | None
    batches: set[int] | None

    def keeps(self, row: Row) -> bool:
        cell = row.outcome.cell
        wanted: tuple[tuple[object, Container[object] | None], ...] = (
            (str(cell.device), self.devices),
            (cell.backend, self.backends),
            (str(cell.precision), self.precisions),
            ((row.workload.height, row.workload.width), self.sizes),
            (row.workload.batch, self.batches),
        )
        named = self.machine is None or self.machine.lower() in row.machine.lower()
        return named and all(values is None or value in values for value, values in wanted)


def _available(rows: Sequence[Row]) -> str:
    """Return what there is to choose from."""
    cells = [row.outcome.cell for row in rows]
    kinds = (
        ("device", {str(cell.device) for cell in cells}),
        ("backend", {cell.backend for cell in cells}),
        ("precision", {str(cell.precision) for cell in cells}),
        ("size", {row.workload.resolution for row in rows}),
        ("batch", {str(cell.workload.batch) for cell in cells}),
        ("machine", {row.machine for row in rows}),
    )
    listed = [f"{kind} {', '.join(sorted(values))}" for kind, values in kinds]
    return f"choose among: {'; '.join(listed)}"


def _write(recommendations: Sequence[Recommendation], objective: str, *, json: bool) -> None:
    if json:
        import msgspec

        write_json(msgspec.json.encode(recommendations))
        return
    from effvit.profiling.report.advice import lines

    several = len(recommendations) > 1
    show("\n\n".join("\n".join(lines(one, objective, several=several)) for one in recommendations))


def _nothing(recommendations: Sequence[Recommendation]) -> ConstraintError:
    from effvit.profiling.report.advice import how_near, why_none

    considered = sum(one.considered for one in recommendations)
    if not considered:
        again = "measure again, on a quiet machine: `effvit profile --retry-failed`"
        other = "choose another --objective, or measure that as well"
        return ConstraintError(
            why_none(recommendations), other if any(one.lacking for one in recommendations) else again
        )
    near = [text for one in recommendations if (text := how_near(one))]
    message = f"none of {considered} cells keeps the limits"
    return ConstraintError(
        f"{message}; the nearest is {near[0]}" if near else message,
        "allow more of what it exceeds, or measure other variants, sizes or precisions",
    )
