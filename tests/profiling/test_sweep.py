"""Sweeps over runs with random weights: every cell becomes one outcome, whatever happens."""

from __future__ import annotations

import base64
import math
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import fakes
import pytest
from outcomes import CALIBRATION
from sweep_program import QUICK
from untrained_runs import make_run

from effvit.counters import Instruments
from effvit.errors import (
    BackendUnavailableError,
    CheckpointError,
    DataError,
    UnavailableError,
    UnknownNameError,
    UnsupportedError,
    UsageError,
)
from effvit.export.base import backends
from effvit.profiling.confinement import Confinement
from effvit.profiling.devices import CPU, Device
from effvit.profiling.disturbance import PROC_STAT
from effvit.profiling.energy import MEASURED_S
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan, available_backends
from effvit.profiling.records import CallWork, Outcome
from effvit.profiling.results import append, read
from effvit.profiling.sweep import run_sweep
from effvit.run import Run
from effvit.spec import Precision


class Meter:
    """A processor that has always taken 60 J more than when it was last asked."""

    device: Literal["cpu", "gpu", "board"] = "cpu"
    source = "a meter"
    total = 0.0

    def joules(self) -> float:
        self.total += 60
        return self.total


class Log:
    """Remembers what a sweep told."""

    def __init__(self) -> None:
        self.cells = 0
        self.stages: list[str] = []
        self.fresh: list[Outcome] = []
        self.known: list[Outcome] = []

    def planned(self, cells: int) -> None:
        self.cells = cells

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        (self.fresh if measured_now else self.known).append(outcome)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, "softmax"), make_run(root, "linformer")]


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


@pytest.fixture
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the fakes known to this process, as `start_worker` does to its workers."""
    for name, backend in fakes.fakes().items():
        monkeypatch.setitem(backends(), name, backend)  # type: ignore[arg-type]  # discovery returns a dict


def plan(runs: list[Run], *names: str, batches: tuple[int, ...] = (1,), px: tuple[int, ...] = (32,)) -> Plan:
    return Plan(tuple(runs), tuple((size, size) for size in px), batches, (Precision.FP32,), names or ("ort-cpu",))


def sweep(
    wanted: Plan,
    results: Path,
    pixels: PixelStore,
    log: Log | None = None,
    effort: Effort = QUICK,
    retry: bool = False,
    meters: tuple[Meter, ...] = (),
    fallback: bool = False,
) -> list[Outcome]:
    return run_sweep(
        wanted,
        effort,
        results,
        pixels,
        log or Log(),
        retry_failed=retry,
        allow_fallback=fallback,
        start=fakes.start_worker,
        calibrate=lambda threads, _stage: replace(CALIBRATION, threads=threads),
        counters=lambda: Instruments(meters, ()),
    )


@pytest.fixture(scope="module")
def measured(
    runs: list[Run], pixels: PixelStore, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Outcome], Log]:
    results, log = tmp_path_factory.mktemp("results") / "results.jsonl", Log()
    return results, sweep(plan(runs, "ort-cpu", batches=(1, 2), px=(32, 48)), results, pixels, log), log


def test_every_cell_becomes_one_outcome(measured: tuple[Path, list[Outcome], Log]) -> None:
    results, outcomes, log = measured
    assert log.cells == len(outcomes) == 2 * 2 * 2
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert read(results) == log.fresh
    assert len({outcome.cell.key for outcome in outcomes}) == 8


def test_cells_tell_of_each_of_the_same_images_whether_it_was_right(measured: tuple[Path, list[Outcome], Log]) -> None:
    accuracies = [outcome.evidence.accuracy for outcome in measured[1] if outcome.evidence is not None]
    for accuracy in accuracies:
        assert accuracy is not None
        assert accuracy.hits is not None
        right = bin(int.from_bytes(base64.b64decode(accuracy.hits))).count("1")
        assert right == accuracy.top1_correct
    assert len({accuracy.images_key for accuracy in accuracies if accuracy is not None}) == 1


def test_the_evidence_of_a_cell_belongs_to_its_artifact(measured: tuple[Path, list[Outcome], Log]) -> None:
    for outcome in measured[1]:
        evidence = outcome.evidence
        assert evidence is not None
        assert evidence.artifact.sha256
        assert evidence.artifact.path.endswith(".onnx")
        assert evidence.parity is not None
        assert evidence.parity.images == 16
        assert evidence.accuracy is not None
        assert (evidence.accuracy.images, evidence.accuracy.of_images) == (40, 359)
        assert len(evidence.samples.seconds) == 3
        assert evidence.samples.rounds == (0, 1, 2)
        assert len(evidence.throughput.blocks) == 3
        assert evidence.throughput.blocks[0][0] == 2 * outcome.cell.workload.batch
        batch, cost = outcome.cell.workload.batch, evidence.cost
        assert cost.least_moved is not None
        assert evidence.work == CallWork(batch, 4 * (cost.parameters + batch * cost.least_moved))
        assert evidence.calibration == replace(CALIBRATION, threads=1)
        assert all(turn.conditions.board is not None for turn in evidence.turns)
        memory = evidence.memory
        assert memory.peak_bytes is not None
        assert memory.before_bytes is not None
        assert memory.start_bytes is not None
        assert memory.peak_bytes > memory.before_bytes > memory.start_bytes > 0
        assert memory.images_bytes == batch * 3 * outcome.cell.workload.height**2 * 4


def test_energy_is_metered_over_the_calls_of_a_pass_of_its_own(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    (outcome,) = sweep(plan(runs[:1], batches=(2,)), tmp_path / "results.jsonl", pixels, meters=(Meter(),))
    evidence = outcome.evidence
    assert evidence is not None
    assert evidence.energy is not None
    (window,) = evidence.energy.windows
    assert (window.joules, window.idle_joules) == (60, 60)
    assert evidence.energy.images % 2 == 0
    assert window.seconds > MEASURED_S
    rate = 2 / statistics.median(evidence.samples.seconds)
    # What disturbs this machine is in one of the two and not in the other.
    assert 1 / 5 < evidence.energy.images / window.seconds / rate < 5


def test_variants_of_one_workload_share_their_rounds(measured: tuple[Path, list[Outcome], Log]) -> None:
    by_workload: dict[object, set[str]] = {}
    for outcome in measured[1]:
        assert outcome.evidence is not None
        by_workload.setdefault(outcome.cell.workload, set()).add(outcome.evidence.comparison)
    assert all(len(comparisons) == 1 for comparisons in by_workload.values())
    assert len(set.union(*by_workload.values())) == 4


def test_another_resolution_than_the_trained_one_is_noted(measured: tuple[Path, list[Outcome], Log]) -> None:
    for outcome in measured[1]:
        resampled = any("trained at 32 px" in note for note in outcome.notes)
        assert resampled == (outcome.cell.workload.height == 48)


def test_a_sweep_started_again_measures_only_what_is_missing(
    measured: tuple[Path, list[Outcome], Log], runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results, outcomes, _ = measured
    log, copy = Log(), tmp_path / "results.jsonl"
    copy.write_bytes(b"".join(results.read_bytes().splitlines(keepends=True)[:-2]) + b'{"schema": "effvit.res')
    again = sweep(plan(runs, "ort-cpu", batches=(1, 2), px=(32, 48)), copy, pixels, log)
    assert (len(log.known), len(log.fresh)) == (6, 2)
    assert again[:6] == outcomes[:6]
    assert len(read(copy)) == 8
    assert not any(stage.startswith("accuracy") for stage in log.stages), "accuracy was measured before"


def test_a_sweep_that_an_older_version_began_goes_on(
    measured: tuple[Path, list[Outcome], Log], runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    """It did not write which of several machines alike it was."""
    log, copy = Log(), tmp_path / "results.jsonl"
    for outcome in measured[1][:-2]:
        append(copy, replace(outcome, environment=replace(outcome.environment, hardware=None)))
    again = sweep(plan(runs, "ort-cpu", batches=(1, 2), px=(32, 48)), copy, pixels, log)
    assert (len(log.known), len(log.fresh)) == (6, 2)
    assert len({one.environment.key for one in again}) == 1
    assert read(copy) == again


@pytest.mark.usefixtures("misbehaving")
def test_a_failing_backend_is_rows_and_the_sweep_goes_on(runs: list[Run], pixels: PixelStore, tmp_path: Path) -> None:
    names = ("crashing", "hungry", "lying", "not-finite", "dying", "ort-cpu")
    outcomes = sweep(plan(runs[:1], *names), tmp_path / "results.jsonl", pixels)
    found = {outcome.cell.backend: (outcome.status, outcome.stage) for outcome in outcomes}
    assert found == {
        "crashing": ("failed", "open"),
        "hungry": ("oom", "open"),
        # ONNX Runtime itself has verified this file earlier in this module: that says nothing about other runtimes.
        "lying": ("failed", "verify"),
        "not-finite": ("failed", "open"),
        "dying": ("failed", "measure"),
        "ort-cpu": ("ok", None),
    }
    assert all(outcome.reason for outcome in outcomes if outcome.status != "ok")


@pytest.mark.usefixtures("misbehaving")
def test_failed_cells_are_tried_again_only_when_asked_for(runs: list[Run], pixels: PixelStore, tmp_path: Path) -> None:
    results, wanted = tmp_path / "results.jsonl", plan(runs[:1], "crashing", "ort-cpu")
    first = sweep(wanted, results, pixels)
    again, retried = Log(), Log()
    assert sweep(wanted, results, pixels, again) == first
    assert (len(again.fresh), len(again.known)) == (0, 2)
    sweep(wanted, results, pixels, retried, retry=True)
    assert [outcome.cell.backend for outcome in retried.fresh] == ["crashing"]
    assert len(read(results)) == 2, "the later outcome of a cell replaces the earlier"


@pytest.mark.usefixtures("misbehaving")
def test_a_runtime_that_does_something_else_is_measured_only_where_that_is_allowed(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results, wanted = tmp_path / "results.jsonl", plan(runs[:1], "coarse", "ort-cpu")
    refused, exact = sweep(wanted, results, pixels)
    assert (refused.status, refused.stage, refused.evidence) == ("fallback", "open", None)
    assert refused.reason == "asked for fp32, computes in bf16"
    assert exact.status == "ok"
    log = Log()
    allowed, _ = sweep(wanted, results, pixels, log, fallback=True)
    assert log.fresh == [allowed], "what was measured as asked is not measured again"
    assert (allowed.status, allowed.stage, allowed.reason) == ("fallback", None, "asked for fp32, computes in bf16")
    assert allowed.evidence is not None
    assert allowed.evidence.settings is not None
    assert allowed.evidence.settings.precision == Precision.BF16


def test_a_model_that_does_not_fit_a_device_is_out_of_memory_and_the_sweep_goes_on(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    devices = (Device(threads=1, memory_bytes=48 * 2**20), Device(threads=1, memory_bytes=2**30), CPU)
    outcomes = sweep(replace(plan(runs[:1]), devices=devices), tmp_path / "results.jsonl", pixels)
    assert [outcome.status for outcome in outcomes] == ["oom", "ok", "ok"]
    assert len({outcome.cell.key for outcome in outcomes}) == 3
    small, large, whole = outcomes
    assert "(limit: 48MiB, " in small.reason
    assert large.evidence is not None
    assert large.evidence.confinement is not None
    assert large.evidence.confinement.departures(devices[1]) == []
    assert len(large.evidence.confinement.cores or ()) == 1
    assert whole.evidence is not None
    assert whole.evidence.confinement == Confinement(tuple(sorted(os.sched_getaffinity(0))))


@pytest.fixture
def one_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a tool like the driver's name a GPU."""
    tool = tmp_path / "tools" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'Some GPU, 1.2'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.usefixtures("one_gpu")
def test_a_backend_that_computes_on_one_of_the_devices_is_unsupported_on_the_others(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    wanted = replace(plan(runs[:1]), devices=(Device("cuda", index=0), CPU))
    on_gpu, on_cpu = sweep(wanted, tmp_path / "results.jsonl", pixels)
    assert (on_gpu.status, on_gpu.stage) == ("unsupported", "export")
    assert on_gpu.reason == "ort-cpu computes on cpu, not on cuda"
    assert on_cpu.status == "ok"


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="PyTorch may see a GPU here")
def test_a_gpu_that_pytorch_does_not_see_is_a_row(runs: list[Run], pixels: PixelStore, tmp_path: Path) -> None:
    wanted = replace(plan(runs[:1], "torch"), devices=(Device("cuda", index=0),))
    (outcome,) = sweep(wanted, tmp_path / "results.jsonl", pixels)
    assert (outcome.status, outcome.stage) == ("skipped", "open")
    assert outcome.reason.startswith("cuda:0 cannot be used: torch ")


def test_without_names_those_backends_are_taken_that_compute_on_a_device() -> None:
    gpu = Device("cuda", index=0)
    assert "ort-cpu" not in available_backends([gpu])
    assert "torch" in available_backends([gpu])
    assert {"ort-cpu", "torch"} <= set(available_backends([gpu, CPU]))


@pytest.mark.usefixtures("misbehaving")
def test_a_hanging_cell_times_out(runs: list[Run], pixels: PixelStore, tmp_path: Path) -> None:
    effort = replace(QUICK, timeout_s=6)
    (outcome,) = sweep(plan(runs[:1], "hanging"), tmp_path / "results.jsonl", pixels, effort=effort)
    assert (outcome.status, outcome.stage) == ("timeout", "open")
    assert "6 s" in outcome.reason


def test_a_cell_that_stays_disturbed_is_unstable_and_keeps_its_numbers(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results, log = tmp_path / "results.jsonl", Log()
    # Less than nothing is tolerated, so that every round is disturbed.
    effort = replace(QUICK, rounds=2, tolerance=replace(QUICK.tolerance, steal=-math.inf))
    if not PROC_STAT.exists():
        pytest.skip("steal is read from /proc/stat")
    (outcome,) = sweep(plan(runs[:1]), results, pixels, log, effort=effort)
    assert (outcome.status, outcome.stage) == ("unstable", "measure")
    assert outcome.reason.startswith("4 of 4 rounds were disturbed; in the last of them the hypervisor took")
    assert outcome.evidence is not None
    assert len(outcome.evidence.samples.seconds) == 8
    assert all(turn.conditions.cpu_s > 0 for turn in outcome.evidence.turns)
    assert read(results) == log.fresh == [outcome]


def test_an_unstable_cell_is_tried_again_with_those_of_its_rounds_when_asked_for(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results, wanted = tmp_path / "results.jsonl", plan(runs, batches=(1, 2))
    outcomes = sweep(wanted, results, pixels)
    append(results, replace(outcomes[1], status="unstable", stage="measure", reason="a neighbour"))
    again, retried = Log(), Log()
    sweep(wanted, results, pixels, again)
    assert (len(again.fresh), len(again.known)) == (0, 4)
    sweep(wanted, results, pixels, retried, retry=True)
    assert [outcome.cell for outcome in retried.fresh] == [outcome.cell for outcome in outcomes[:2]]
    assert {outcome.status for outcome in read(results)} == {"ok"}


def test_a_precision_that_a_runtime_lacks_is_unsupported(runs: list[Run], pixels: PixelStore, tmp_path: Path) -> None:
    wanted = replace(plan(runs[:1]), precisions=(Precision.FP8,))
    (outcome,) = sweep(wanted, tmp_path / "results.jsonl", pixels)
    assert outcome.status == "unsupported"
    assert "fp8" in outcome.reason


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"resolutions": ((33, 33),)}, UsageError),
        ({"batches": (0,)}, UsageError),
        ({"backends": ("ort-cpuu",)}, UnknownNameError),
        ({"backends": ("tensorrt",)}, BackendUnavailableError),
        ({"devices": (CPU, CPU)}, UsageError),
        ({"devices": (Device(threads=100_000),)}, UsageError),
    ],
)
def test_what_can_be_known_before_is_refused_before(
    runs: list[Run], pixels: PixelStore, tmp_path: Path, change: dict[str, object], error: type[Exception]
) -> None:
    if error is BackendUnavailableError and backends()["tensorrt"].unavailable() is None:
        pytest.skip("TensorRT is here")
    with pytest.raises(error):
        sweep(replace(plan(runs), **change), tmp_path / "results.jsonl", pixels)  # type: ignore[arg-type]
    assert not (tmp_path / "results.jsonl").exists()


@pytest.mark.usefixtures("one_gpu")
def test_a_backend_that_computes_on_none_of_the_devices_is_refused_before(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    wanted = replace(plan(runs), devices=(Device("cuda", index=0),))
    with pytest.raises(UnsupportedError, match="ort-cpu computes on cpu, not on cuda") as caught:
        sweep(wanted, tmp_path / "results.jsonl", pixels)
    assert caught.value.hint == "add --device cpu"
    with pytest.raises(UnavailableError, match="there is no cuda:1"):
        sweep(replace(wanted, devices=(Device("cuda", index=1),)), tmp_path / "results.jsonl", pixels)


def test_a_backend_that_is_slow_to_open_has_to_be_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "torch-compile" not in available_backends()
    eager = replace(backends()["torch-compile"], slow_to_open=False, unavailable=lambda: None)
    monkeypatch.setitem(backends(), "torch-compile", eager)  # type: ignore[arg-type]  # discovery returns a dict
    assert "torch-compile" in available_backends()


def test_the_same_run_twice_is_refused(runs: list[Run], pixels: PixelStore, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="twice"):
        sweep(plan([runs[0], runs[0]]), tmp_path / "results.jsonl", pixels)


def test_other_images_than_the_trained_ones_are_refused(runs: list[Run], tmp_path: Path) -> None:
    record = runs[0].record
    other = Run(runs[0].folder, replace(record, data=replace(record.data, fingerprint="0" * 64)))
    with PixelStore() as store, pytest.raises(DataError, match="not those"):
        sweep(plan([other]), tmp_path / "results.jsonl", store)


def test_weights_that_are_not_the_recorded_ones_are_refused(pixels: PixelStore, tmp_path: Path) -> None:
    run = make_run(tmp_path, "softmax")
    run.weights.write_bytes(make_run(tmp_path, "softmax", name="other", px=48).weights.read_bytes())
    with pytest.raises(CheckpointError, match="records"):
        sweep(plan([run]), tmp_path / "results.jsonl", pixels)


def test_a_killed_sweep_loses_no_finished_outcome_and_leaves_no_worker(
    runs: list[Run], pixels: PixelStore, tmp_path: Path
) -> None:
    results = tmp_path / "results.jsonl"
    folders = [str(run.folder) for run in runs]
    program = [sys.executable, str(Path(__file__).parents[1] / "sweep_program.py"), str(results), *folders]
    process = subprocess.Popen(program, start_new_session=True)
    deadline = time.monotonic() + 120
    while not (results.exists() and results.read_bytes().count(b"\n") >= 2) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    before = read(results)
    assert 2 <= len(before) < 8
    log = Log()
    outcomes = sweep(plan(runs, "ort-cpu", batches=(1, 2), px=(32, 64)), results, pixels, log)
    assert len(outcomes) == len(read(results)) == 8
    assert read(results)[: len(before)] == before
    assert log.known == before
