"""How long a study will take, from a sweep whose times are made up and trainings of a few steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from models_for_tests import digits, finished_run, record_of
from outcomes import make_outcome, make_samples, without_evidence

from effvit.errors import UsageError
from effvit.profiling import forecast as module
from effvit.profiling.agent.ssh import Host
from effvit.profiling.forecast import Forecast, Span, _cell_span, _steps_span, forecast
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.study import RUNS, SETTINGS, Study
from effvit.profiling.study_time import TIME, expect, read_time, spending
from effvit.spec import Precision

STUDY = Study(
    data="digits",
    fingerprint="f",
    attentions=("softmax", "linformer"),
    model="test_vit",
    weights="none",
    trained=(32, 32),
    recipe={"epochs": 50, "batch": 10},
    resolutions=((32, 32), (64, 64)),
    batches=(1, 4),
    precisions=(Precision.FP32,),
    backends=("ort-cpu",),
)
EFFORT = Effort(threads=1, rounds=5, samples=30, least_s=0.5, most_s=8.0, warmup_s=0.1)


def test_steps_take_as_long_as_the_shortest_and_the_longest_of_a_few() -> None:
    assert _steps_span([10.0, 10.5, 12.5], steps=100) == Span(50.0, 200.0)


@pytest.mark.parametrize(
    ("call_s", "span"),
    [
        (0.001, Span(2 + 0.5 + 5 * 0.1, 2 + 8.0)),  # half a second of calls, five warm-ups of a tenth
        (0.1, Span(2 + 30 * 0.1 + 5 * 0.2, 2 + 8.0)),  # thirty calls, five warm-ups of two
        (1.0, Span(2 + 30.0 + 10.0, 2 + 60.0 + 10.0)),  # the least that is measured is longer than the time for it
    ],
)
def test_a_cell_takes_what_it_needs_or_all_of_its_time(call_s: float, span: Span) -> None:
    assert _cell_span(2.0, call_s, EFFORT) == Span(pytest.approx(span.low_s), pytest.approx(span.high_s))


@pytest.fixture
def sweeps(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Plan, Effort]]:
    """Return what is asked to be probed; every cell is at once one of 10 ms whose artifact took 2.5 s."""
    asked = []

    def sweep(plan: Plan, effort: Effort, results: Path, pixels: object, listener: Any) -> list[Outcome]:
        asked.append((plan, effort))
        listener.planned(len(plan.groups()))
        outcome = make_outcome()
        assert outcome.evidence is not None
        outcome = replace(outcome, evidence=replace(outcome.evidence, samples=make_samples((0.01,), (0.01,))))
        for _ in plan.groups():
            listener.outcome(outcome, measured_now=True)
        return []

    monkeypatch.setattr(module, "run_sweep", sweep)
    monkeypatch.setattr(module.PixelStore, "data_of", lambda *_: digits())
    return asked


def test_every_variant_is_trained_for_some_steps_and_one_cell_a_backend_is_measured(
    sweeps: list[tuple[Plan, Effort]], tmp_path: Path
) -> None:
    said: list[str] = []
    found = forecast(STUDY, digits(), tmp_path / "study", EFFORT, said.append)
    assert not (tmp_path / "study").exists()
    assert [attention for attention, _ in found.training] == ["softmax", "linformer"]
    assert said[:2] == ["training softmax for 3 steps", "training linformer for 3 steps"]
    for _, span in found.training:
        assert 0 < span.low_s <= span.high_s
    ((plan, effort),) = sweeps
    assert (plan.resolutions, plan.batches, len(plan.runs)) == (((32, 32),), (1,), 1)
    assert (effort.rounds, effort.samples, effort.eval_images) == (5, 1, 16)
    assert found.cells == 2 * 2 * 2
    # Of every cell at least half a second of calls and five warm-ups.
    assert found.sweep.low_s > 8 * (0.5 + 0.5)
    assert found.total == found.sweep + found.training[0][1] + found.training[1][1]
    assert found.probe_s > 0


def test_what_is_there_already_is_not_counted(
    sweeps: list[tuple[Plan, Effort]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for attention in STUDY.attentions:
        finished_run(tmp_path / RUNS, attention, record_of(attention, trained=(32, 32)))
    whole = forecast(STUDY, digits(), tmp_path, EFFORT, lambda _: None)
    assert whole.training == ()
    done = [make_outcome(run=str(number)) for number in range(6)]
    monkeypatch.setattr(module, "read_finished", lambda _: done)
    rest = forecast(STUDY, digits(), tmp_path, EFFORT, lambda _: None)
    assert (whole.cells, rest.cells) == (8, 2)
    assert rest.sweep.low_s == pytest.approx(whole.sweep.low_s / 4, rel=0.1)


class FakeHost:
    """A host that has all runtimes."""

    def backends(self, asked: Sequence[str]) -> tuple[str, ...]:
        return tuple(asked)


def test_cells_of_hosts_are_counted_and_their_time_is_not(
    sweeps: list[tuple[Plan, Effort]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for attention in STUDY.attentions:
        finished_run(tmp_path / RUNS, attention, record_of(attention, trained=(32, 32)))
    monkeypatch.setattr(module, "require_same", lambda *_: None)

    def foretold(study: Study) -> Forecast:
        return forecast(study, digits(), tmp_path, EFFORT, lambda _: None, lambda _: FakeHost())  # type: ignore[arg-type,return-value]

    alone, both = foretold(STUDY), foretold(replace(STUDY, hosts=(Host("pi"), Host("desk"))))
    assert (alone.cells, alone.elsewhere) == (8, 0)
    assert (both.cells, both.elsewhere) == (3 * 8, 2 * 8)
    assert both.sweep.low_s == pytest.approx(alone.sweep.low_s, rel=0.1)
    there = foretold(replace(STUDY, devices=(), hosts=(Host("pi"),)))
    assert (there.cells, there.elsewhere, there.sweep) == (8, 8, Span(0.0, 0.0))
    assert len(sweeps) == 2  # nothing is probed where nothing is measured here


def test_a_cell_that_fails_costs_what_failing_took() -> None:
    failed = without_evidence(make_outcome(), "build_failed", "export", "no operator")
    assert module._probe(failed, 3.0, set()) == module._Probe(0.0, 3.0, 0.0)


def test_an_artifact_that_two_backends_read_is_made_once() -> None:
    built: set[str] = set()
    first, second = (module._probe(make_outcome(), 10.0, built) for _ in range(2))
    assert (first.build_s, first.fixed_s) == (2.5, 7.5)
    assert (second.build_s, second.fixed_s) == (0.0, 10.0)


def test_what_a_study_takes_adds_up_over_its_interruptions(tmp_path: Path) -> None:
    (tmp_path / SETTINGS).write_bytes(b"{}")  # it has begun
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("effvit.profiling.study_time.require_same", lambda *_: None)
        ticks = iter([0.0, 10.0, 100.0, 105.0])
        patched.setattr("effvit.profiling.study_time.time.monotonic", lambda: next(ticks))
        with pytest.raises(KeyboardInterrupt), spending(tmp_path, STUDY):
            raise KeyboardInterrupt
        expect(tmp_path, STUDY, 20.0, 40.0)  # of what is left
        with spending(tmp_path, STUDY):
            pass
    known = read_time(tmp_path, STUDY)
    assert (known.spent_s, known.low_s, known.high_s) == (15.0, 30.0, 50.0)
    assert read_time(tmp_path, replace(STUDY, weights="auto")).spent_s == 0


def test_the_time_of_another_study_is_left_alone(tmp_path: Path) -> None:
    expect(tmp_path, STUDY, 20.0, 40.0)
    before = (tmp_path / TIME).read_bytes()
    (tmp_path / SETTINGS).write_bytes(b"{}")
    with pytest.raises(UsageError, match="is damaged"), spending(tmp_path, STUDY):
        raise AssertionError("it was refused before")
    assert (tmp_path / TIME).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"[1]", b"\xff"])
def test_a_damaged_time_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / TIME).write_bytes(content)
    assert read_time(tmp_path, STUDY).low_s is None
