"""How far `effvit fit` is off: `python tests/benchmarks/fit_error.py --help`.

Every cell is predicted from the rates of this machine alone, and from these and all other cells, then measured as
`effvit profile` does it, with random weights. `--prepare` makes and verifies the artifacts, at any time; what is left
to do without it is timing, which wants the machine for itself. With the same folder it goes on where it was.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
from command import kept, run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import names_from_text, precisions_from_text, resolutions_from_text
from effvit.cli.output import progress_bars, say
from effvit.cli.sweeping import SweepDisplay
from effvit.demand import demand_of
from effvit.environment import usable_cores
from effvit.profiling.devices import Device
from effvit.profiling.fit import NOTHING, FitCell, Place, Quantity, fit_cell, history_of
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.recommend import Constraints
from effvit.profiling.records import Outcome
from effvit.profiling.report import quantities
from effvit.profiling.results import read
from effvit.profiling.survey import BareRuntime, Survey, survey
from effvit.profiling.sweep import run_sweep
from effvit.run import RECORD, Run, open_run
from effvit.spec import Precision
from effvit.surgery import attention_variants

SCHEMA = "effvit.fit-error-benchmark/1"


@dataclass(frozen=True, slots=True)
class Judged:
    """One cell as it was measured, predicted from the rates `alone`, and from them and all `others`."""

    attention: str
    backbone: str
    backend: str
    precision: Precision
    batch: int
    px: int
    alone: tuple[Quantity, Quantity | None]
    others: tuple[Quantity, Quantity | None]


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds; `survey` is of before anything was measured."""

    command: str
    survey: Survey
    cells: tuple[Judged, ...]
    schema: str = SCHEMA


def judged(outcomes: Sequence[Outcome], place: Place) -> list[Judged]:
    """Return every reliable outcome beside its predictions."""
    demands = cache(demand_of)
    usable = [one for one in outcomes if one.status == "ok" and one.evidence is not None]
    history = history_of(usable, demands)
    found = []
    for outcome in usable:
        cell, work = outcome.cell, outcome.cell.workload
        demand = demands(cell.model, work.height, work.width)
        here = replace(cell, model=demand.model, device=place.device)
        both = [fit_cell(here, demand, place, Constraints(), known) for known in (NOTHING, history)]
        if both[1].measured:
            kind = (cell.model.attention, cell.model.backbone, cell.backend, cell.precision, work.batch, work.height)
            alone, others = (_with_measured(one, both[1]) for one in both)
            found.append(Judged(*kind, alone, others))
    return found


def _with_measured(one: FitCell, measured: FitCell) -> tuple[Quantity, Quantity | None]:
    memory = one.memory_bytes
    if memory is not None and measured.memory_bytes is not None:
        memory = replace(memory, measured=measured.memory_bytes.measured)
    return replace(one.latency_s, measured=measured.latency_s.measured), memory


def summary_table(cells: Sequence[Judged]) -> Table:
    """Return how far predictions are off, by quantity, type, and what they rest on."""
    table = Table(box=SIMPLE_HEAD)
    titles = (
        "quantity",
        "precision",
        "predicted from",
        "cells",
        "median error",
        "90 %",
        "largest",
        "in interval",
        "interval",
    )
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index < 3 else "right")
    for place, quantity in enumerate(("latency p50", "peak memory")):
        for precision in dict.fromkeys(one.precision for one in cells):
            for basis in ("alone", "others"):
                some = [getattr(one, basis)[place] for one in cells if one.precision == precision]
                known = [one for one in some if one is not None and one.error is not None]
                if known:
                    rests_on = "the rates" if basis == "alone" else "rates and all other cells"
                    table.add_row(quantity, str(precision), rests_on, *_distribution(known))
    return table


def _distribution(known: Sequence[Quantity]) -> tuple[str, ...]:
    off = np.abs([one.error for one in known])
    widths = [
        math.sqrt(one.predicted.high / one.predicted.low) for one in known if one.predicted.low and one.predicted.high
    ]
    numbers = (np.median(off), np.quantile(off, 0.9), off.max())
    within = sum(one.covered for one in known)
    return (
        str(len(known)),
        *(f"{number:.0%}" for number in numbers),
        f"{within} of {len(known)}",
        f"x/÷ {np.median(widths):.2f}",
    )


def cells_table(cells: Sequence[Judged]) -> Table:
    """Return every cell as predicted from the rates, and as measured."""
    table = Table(box=SIMPLE_HEAD)
    titles = ("attention", "px", "batch", "precision", "backend", "predicted", "measured", "predicted", "measured")
    for index, title in enumerate(titles):
        table.add_column(title, justify="left" if index in (0, 3, 4) else "right")
    for one in cells:
        latency, memory = one.alone
        shown = [_text(value, "s") for value in (latency.predicted.value, latency.measured and latency.measured.value)]
        if memory is not None:
            shown += [_text(value, "") for value in (memory.predicted.value, memory.measured and memory.measured.value)]
        table.add_row(one.attention, str(one.px), str(one.batch), str(one.precision), one.backend, *shown)
    return table


def _text(value: float | None, unit: str) -> str:
    if value is None:
        return quantities.ABSENT
    return quantities.si(value, unit) if unit else quantities.size(value)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        _show(read_report(arguments.show, Report).cells)
        return
    if arguments.results:
        outcomes = [outcome for file in arguments.results for outcome in read(file)]
        cells = [one for place in _places(outcomes) for one in judged(outcomes, place)]
        _show(cells)
        return
    device = Device(threads=arguments.threads)
    backends = names_from_text(arguments.backend)
    with kept(arguments.folder) as folder:
        runs = tuple(_run_of(folder, arguments.model, name) for name in names_from_text(arguments.attn))
        sizes = tuple(resolutions_from_text(arguments.res))
        plan = Plan(runs, sizes, (1,), tuple(precisions_from_text(arguments.precision)), tuple(backends), (device,))
        place = Place(str(device), device, survey(arguments.threads, backends, say))
        outcomes = _sweep(plan, _effort(arguments), folder, prepare=arguments.prepare)
    if arguments.prepare:
        return
    cells = judged(outcomes, place)
    _show(cells)
    if arguments.out is not None:
        write_report(arguments.out, Report(shlex.join(["python", *sys.argv]), place.survey, tuple(cells)))


def _sweep(plan: Plan, effort: Effort, folder: Path, *, prepare: bool) -> list[Outcome]:
    """Measure, or prepare: artifacts and their verification are kept beside the runs, and brief times thrown away."""
    results = folder / ("prepared.jsonl" if prepare else "results.jsonl")
    with progress_bars() as progress, PixelStore() as pixels:
        display = SweepDisplay(progress)
        outcomes = run_sweep(plan, effort, results, pixels, display)
        display.close()
    return outcomes


def _effort(arguments: argparse.Namespace) -> Effort:
    """Return how long to measure: medians are to be known far better than predictions are."""
    brief = arguments.prepare
    return Effort(
        threads=arguments.threads,
        rounds=2 if brief else 5,
        samples=2 if brief else 10,
        least_s=0.0 if brief else arguments.seconds,
        most_s=0.1 if brief else 6 * arguments.seconds,
        eval_images=1,
        verify_images=8,
        max_noise=math.inf,
    )


def _places(outcomes: Sequence[Outcome]) -> list[Place]:
    """Return the machines of outcomes, with the rates and the bare runtimes that stand beside their cells."""
    found: dict[tuple[str, Device], Place] = {}
    for outcome in outcomes:
        evidence = outcome.evidence
        if evidence is not None and evidence.calibration is not None:
            bare = BareRuntime(outcome.cell.backend, evidence.memory.before_bytes)
            one = Place(
                str(outcome.cell.device),
                outcome.cell.device,
                Survey(outcome.environment, evidence.calibration, (bare,)),
            )
            known = found.setdefault((one.machine, one.device), one)
            if known.survey.bare_bytes(bare.backend) is None:
                runtimes = (*known.survey.runtimes, bare)
                found[one.machine, one.device] = replace(known, survey=replace(known.survey, runtimes=runtimes))
    return list(found.values())


def _run_of(folder: Path, backbone: str, attention: str) -> Run:
    place = folder / "runs" / f"{backbone}-{attention}"
    if (place / RECORD).exists():
        return open_run(place)
    return make_run(folder / "runs", attention, name=place.name, backbone=backbone, px=224)


def _show(cells: Sequence[Judged]) -> None:
    for table in (cells_table(cells), summary_table(cells)):
        show_table(table, markdown=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_tiny_patch16_224", help="timm model")
    parser.add_argument("--attn", default=",".join(attention_variants()), help="variants")
    parser.add_argument("--res", default="224,384", help="sides of square images in px")
    parser.add_argument("--precision", default="fp32,int8", help="types to compute in")
    parser.add_argument("--backend", default="ort-cpu", help="runtimes")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument("--seconds", type=float, default=1.0, help="timed seconds a cell, at least")
    parser.add_argument("--folder", type=Path, help="keep models and results here")
    parser.add_argument(
        "--prepare", action="store_true", help="make and verify artifacts, and time nothing that counts"
    )
    parser.add_argument("--results", type=Path, action="append", help="judge these result files; measure nothing")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="show this JSON file; measure nothing")
    return parser


if __name__ == "__main__":
    run_command(_parser(), _run)
