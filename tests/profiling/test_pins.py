"""Artifacts with modules kept in fp32 beside those without: which are measured, and what the pins cost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import fakes
import msgspec
import pytest
from artifacts import ARTIFACT
from outcomes import CALIBRATION, make_outcome, make_samples
from sweep_program import QUICK
from untrained_runs import make_run

from effvit.counters import Instruments
from effvit.export.base import pick_backend
from effvit.export.pins import AUTO, PinCost, Pinned
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Group, Plan
from effvit.profiling.records import Cell, Outcome
from effvit.profiling.report import details, display
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.sweep import run_sweep
from effvit.run import Run
from effvit.spec import ModelSpec, Precision, Swap, Workload

PINS = ("blocks.3.attn",)
HALF, INT8, FULL = (
    Group(pick_backend("ort-cpu"), precision, Workload(1, 64, 64))
    for precision in (Precision.FP16, Precision.INT8, Precision.FP32)
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


def plan(*runs: Run) -> Plan:
    return Plan(runs, ((64, 64),), (1,), (Precision.FP16, Precision.FP32), ("ort-cpu",))


def searched(run: Run, pins: tuple[str, ...], *, by_search: bool = True) -> None:
    """Let an fp16 graph with these pins be what a search found."""
    path = run.folder / "artifacts" / f"{'-'.join(pins)}.onnx"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    known = replace(
        ARTIFACT, path=f"artifacts/{path.name}", precision=Precision.FP16, pinned=Pinned(pins, searched=by_search)
    )
    path.with_name(f"{path.stem}.ort-cpu.json").write_bytes(msgspec.json.encode(known))


def test_what_is_named_is_measured_beside_the_same_without(run: Run) -> None:
    pinned = replace(run, pins=PINS)
    wanted = plan(run, pinned)
    wanted.check()
    assert wanted.entrants(HALF) == [run, pinned]
    assert wanted.entrants(FULL) == [run]  # which has nothing to keep in fp32
    assert HALF.source(pinned).pins == PINS
    assert HALF.cell(pinned) == replace(HALF.cell(run), pins=PINS)
    assert HALF.cell(pinned).key != HALF.cell(run).key


def test_what_a_search_found_is_measured_in_the_place_of_what_was_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, "softmax")
    wanted = plan(run, replace(run, pins=AUTO))
    searched(run, ("blocks.0",), by_search=False)
    assert wanted.entrants(HALF) == [run]
    searched(run, PINS)
    assert wanted.entrants(HALF) == [replace(run, pins=PINS)]
    assert wanted.entrants(INT8) == [run]
    assert wanted.entrants(replace(HALF, workload=Workload(1, 32, 32))) == [run]
    assert wanted.entrants(replace(HALF, backend=pick_backend("torch"))) == [run]


def test_cells_without_pins_keep_the_key_that_they_had_before_there_were_any() -> None:
    spec = ModelSpec("test_vit", (Swap("softmax"),), 10, (32, 32), weights="0" * 64)
    cell = Cell(spec, "ort-cpu", Precision.FP16, Workload(1, 32, 32))
    assert cell.key == "3b522a36927f9df6"


def pinned_outcome(outcome: Outcome, *rounds: float, cost: PinCost | None = None) -> Outcome:
    evidence = outcome.evidence
    assert evidence is not None
    return replace(
        outcome,
        cell=replace(outcome.cell, pins=PINS),
        evidence=replace(
            evidence,
            samples=make_samples(*((seconds,) for seconds in rounds)),
            artifact=replace(evidence.artifact, pinned=Pinned(PINS, cost=cost)),
        ),
    )


def timed(outcome: Outcome, *rounds: float) -> Outcome:
    made = pinned_outcome(outcome, *rounds)
    return replace(made, cell=outcome.cell)


def row_of(outcomes: list[Outcome], label: str) -> Row:
    (row,) = [row for row in make_rows(outcomes) if row.label == label]
    return row


def test_pins_cost_the_ratio_of_the_times_in_the_same_rounds() -> None:
    linear = make_outcome("linformer")
    rows = [timed(linear, 1.0, 2.0), pinned_outcome(linear, 1.5, 3.0), make_outcome("softmax")]
    row = row_of(rows, "linformer, blocks.3.attn in fp32")
    assert row.pin_cost is not None
    assert row.pin_cost.value == pytest.approx(1.5)
    assert details.pin_cost(row).startswith("1.500x (1.500x to 1.500x) the time of the same without, in the same")
    assert row_of(rows, "linformer").pin_cost is None


def test_times_of_other_rounds_say_nothing_of_what_pins_cost() -> None:
    linear = make_outcome("linformer")
    evidence = linear.evidence
    assert evidence is not None
    elsewhere = replace(linear, evidence=replace(evidence, comparison="another sitting"))
    pinned = pinned_outcome(linear, 1.5, 3.0)
    row = row_of([elsewhere, pinned], "linformer, blocks.3.attn in fp32")
    assert (row.pin_cost, details.pin_cost(row)) == (None, "-")
    known = pinned_outcome(linear, 1.5, cost=PinCost(1.25, 1.2, 1.3, batch=1, threads=2))
    row = row_of([elsewhere, known], "linformer, blocks.3.attn in fp32")
    assert details.pin_cost(row) == (
        "1.250x (1.200x to 1.300x) the time of the same without when it was exported, batch 1 on 2 threads"
    )


def test_softmax_without_pins_is_the_baseline_and_with_them_where_there_is_no_other() -> None:
    softmax = make_outcome("softmax")
    pinned = pinned_outcome(softmax, 3.0, 6.0)
    plain, linear = timed(softmax, 1.0, 2.0), timed(make_outcome("linformer"), 2.0, 4.0)
    rows = [pinned, plain, linear]
    assert row_of(rows, "linformer").baseline == plain
    wide = row_of(rows, "softmax, blocks.3.attn in fp32")
    assert wide.baseline == plain
    assert display.speedup(wide).startswith("0.33")
    assert display.speedup(row_of(rows, "softmax")) == "baseline"
    rows = [pinned, linear]
    assert row_of(rows, "linformer").baseline == pinned
    assert display.speedup(row_of(rows, "softmax, blocks.3.attn in fp32")) == "baseline"


def test_many_pins_are_counted_in_a_label() -> None:
    outcome = make_outcome("linformer")
    named = tuple(f"blocks.{index}" for index in range(4))
    (row,) = make_rows([replace(outcome, cell=replace(outcome.cell, pins=named))])
    assert row.label == "linformer, blocks.0 and 3 more in fp32"


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


@pytest.mark.slow
def test_a_sweep_measures_both_in_the_same_rounds(run: Run, pixels: PixelStore, tmp_path: Path) -> None:
    wanted = Plan(
        (run, replace(run, pins=("blocks.0", "blocks.1"))), ((32, 32),), (1,), (Precision.INT8,), ("ort-cpu",)
    )
    outcomes = run_sweep(
        wanted,
        QUICK,
        tmp_path / "results.jsonl",
        pixels,
        Silent(),
        start=fakes.start_worker,
        calibrate=lambda threads, _stage: replace(CALIBRATION, threads=threads),
        counters=lambda: Instruments((), ()),
    )
    plain, pinned = outcomes
    assert plain.evidence is not None
    assert pinned.evidence is not None
    assert plain.evidence.comparison == pinned.evidence.comparison
    assert plain.evidence.artifact.sha256 != pinned.evidence.artifact.sha256
    assert pinned.evidence.artifact.pinned == Pinned(("blocks.0", "blocks.1"))
    assert "kept in fp32: blocks.0, blocks.1" in pinned.notes
    assert all(one.evidence is not None and one.evidence.parity is not None for one in outcomes)
    (row,) = [row for row in make_rows(outcomes) if row.outcome.cell.pins]
    assert row.pin_cost is not None
    assert 0.2 < row.pin_cost.value < 5


class Silent:
    """Is told how a sweep goes, and keeps it to itself."""

    def planned(self, cells: int) -> None:
        assert cells == 2

    def stage(self, text: str) -> None: ...

    def outcome(self, outcome: Outcome, measured_now: bool) -> None: ...
