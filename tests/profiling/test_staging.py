"""The parts of a call on a GPU, with a session whose GPU is made up."""

from __future__ import annotations

import time
from dataclasses import replace
from statistics import median

import pytest
from outcomes import make_cell, make_evidence, make_outcome

from effvit.export.base import Images, Logits
from effvit.export.settings import RuntimeSettings
from effvit.profiling.metrics.device import measure
from effvit.profiling.records import DeviceTimes
from effvit.profiling.report.html import html_text
from effvit.profiling.report.page import content_of
from effvit.profiling.report.rows import make_rows
from effvit.profiling.staging import CLOCK, time_stages

ENQUEUE_S, WAIT_S = 0.002, 0.004


class MadeUp:
    """Launches return after `ENQUEUE_S`, the wait for them takes `WAIT_S`; its GPU counts one second an entry."""

    gpu = "GPU-0"

    def __init__(self) -> None:
        self.log: list[str] = []

    def bind(self, images: Images) -> None:
        raise AssertionError("what is timed is bound before")

    def launch(self) -> None:
        self.log.append("launch")
        time.sleep(ENQUEUE_S)

    def synchronize(self) -> None:
        self.log.append("wait")
        time.sleep(WAIT_S)

    def logits(self) -> Logits:
        raise AssertionError("nobody reads them")

    def settings(self) -> RuntimeSettings:
        raise AssertionError("nobody reads them")

    def upload(self) -> None:
        self.log += ["upload"] * 2

    def download(self) -> None:
        self.log += ["download"] * 5

    def mark(self) -> int:
        return len(self.log)

    def seconds_between(self, first: int, second: int) -> float:
        assert self.log[-1] == "wait", "an event is asked before it is past"
        return float(second - first)


def test_each_part_lies_between_its_marks_and_every_call_is_finished_before_the_next() -> None:
    session = MadeUp()
    times = time_stages(session, passes=3, warmup_s=0)
    one = ["upload", "upload", "launch", *["download"] * 5, "wait"]
    assert session.log == one * 4  # the first makes the buffer of the logits
    assert times.host_to_device_s == (2.0,) * 3
    assert times.compute_s == (1.0,) * 3
    assert times.device_to_host_s == (5.0,) * 3
    assert (times.queue_depth, times.clock, times.note) == (1, CLOCK, "")


def test_the_host_tells_how_long_a_launch_takes_to_return_and_the_whole_call() -> None:
    times = time_stages(MadeUp(), passes=5, warmup_s=0)
    assert all(ENQUEUE_S <= one < ENQUEUE_S + WAIT_S for one in sorted(times.enqueue_s)[:3])
    assert all(one >= ENQUEUE_S + WAIT_S for one in times.end_to_end_s)
    assert median(times.end_to_end_s) < 10 * (ENQUEUE_S + WAIT_S)


def test_slow_calls_are_timed_for_as_long_as_allowed_and_at_least_once() -> None:
    assert len(time_stages(MadeUp(), passes=100, most_s=0.0, warmup_s=0).end_to_end_s) == 1


def test_warming_up_lasts_as_long_as_asked() -> None:
    session = MadeUp()
    time_stages(session, passes=1, warmup_s=0.05)
    assert session.log.count("launch") > 3


TIMES = DeviceTimes(
    enqueue_s=(1e-3, 2e-3, 9e-3),
    host_to_device_s=(1e-4, 3e-4, 2e-4),
    compute_s=(5e-3, 4e-3, 6e-3),
    device_to_host_s=(1e-5, 1e-5, 4e-5),
    end_to_end_s=(6e-3, 5e-3, 7e-3),
    queue_depth=1,
    clock="events",
)


def test_the_readings_are_medians_with_the_depth_of_the_queue() -> None:
    readings = measure(replace(make_evidence(make_cell()), device_times=TIMES))
    assert {one.name: one.value for one in readings} == {
        "device_s.end_to_end": 6e-3,
        "device_s.enqueue": 2e-3,
        "device_s.host_to_device": 2e-4,
        "device_s.compute": 5e-3,
        "device_s.device_to_host": 1e-5,
    }
    assert {one.note for one in readings} == {"events; 3 calls, 1 in flight; no interval: one pass"}


def test_a_pass_that_failed_leaves_gaps_with_the_reason() -> None:
    failed = DeviceTimes((), (), (), (), (), 1, "events", "the pass that was to time them failed: it crashed")
    for one in measure(replace(make_evidence(make_cell()), device_times=failed)):
        assert (one.value, one.note) == (None, failed.note)


@pytest.mark.parametrize("times", [TIMES, None])
def test_the_report_has_a_table_of_calls_on_a_gpu_where_there_were_some(times: DeviceTimes | None) -> None:
    outcome = make_outcome()
    timed = replace(outcome, evidence=replace(make_evidence(outcome.cell), device_times=times))
    text = html_text(content_of(make_rows([timed])))
    assert ("Calls on a GPU" in text) is (times is not None)
    assert ("200 µs" in text) is (times is not None)
