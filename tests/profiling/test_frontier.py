"""The largest batch that fits: a search over numbers, and over processes whose memory is limited for real."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from untrained_runs import make_run

from effvit.errors import ResultError, UsageError
from effvit.export.base import backends
from effvit.profiling.frontier import Bounds, Frontier, Try, find_frontiers, read_frontiers, search
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.run import Run
from effvit.spec import Precision

LIMIT_BYTES = 2**30
QUICK = Effort(threads=1, timeout_s=60, verify_images=16)


def fitting(most: int, tried: list[int], status: str = "oom") -> Callable[[int], Try]:
    """Return a try in which up to `most` images fit."""

    def attempt(batch: int) -> Try:
        tried.append(batch)
        return Try(batch, "ok" if batch <= most else status, reason="why")  # type: ignore[arg-type]

    return attempt


def always() -> bool:
    return True


@pytest.mark.parametrize("largest", range(65))
def test_the_largest_batch_is_found_whatever_it_is(largest: int) -> None:
    tried: list[int] = []
    tries, stopped = search(fitting(largest, tried), 64, always)
    assert max((one.batch for one in tries if one.status == "ok"), default=0) == largest
    assert stopped == ("batch limit" if largest == 64 else "found")
    assert len(tried) == len(set(tried)) <= 14  # doubling to 64 takes 7 tries, halving 32 up to 5


def test_batches_are_doubled_and_then_halved() -> None:
    tried: list[int] = []
    search(fitting(11, tried), 4096, always)
    assert tried == [1, 2, 4, 8, 16, 12, 10, 11]


def test_a_limit_that_is_no_power_of_two_is_tried_itself() -> None:
    tried: list[int] = []
    assert search(fitting(100, tried), 6, always)[1] == "batch limit"
    assert tried == [1, 2, 4, 6]


def test_a_crash_says_nothing_about_memory() -> None:
    tries, stopped = search(fitting(3, [], status="failed"), 64, always)
    assert ([one.batch for one in tries], stopped) == ([1, 2, 4], "failed")


def test_a_try_that_outlasts_the_search_is_its_time_limit() -> None:
    left = iter([True, True, True, False])
    tries, stopped = search(fitting(3, [], status="timeout"), 64, lambda: next(left))
    assert ([one.batch for one in tries], stopped) == ([1, 2, 4], "time limit")
    assert search(fitting(3, [], status="timeout"), 64, always)[1] == "failed"


def test_a_search_ends_with_its_time() -> None:
    left = iter([True, True, True, False])
    tries, stopped = search(fitting(50, []), 64, lambda: next(left))
    assert ([one.batch for one in tries], stopped) == ([1, 2, 4], "time limit")


@pytest.mark.parametrize("bounds", [{"batch": 0}, {"seconds": 0.0}, {"memory_bytes": 0}])
def test_bounds_that_leave_nothing_are_refused(bounds: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="finds nothing"):
        Bounds(**bounds)  # type: ignore[arg-type]


class Log:
    def __init__(self) -> None:
        self.searches = 0
        self.stages: list[str] = []
        self.found: list[Frontier] = []

    def planned(self, searches: int) -> None:
        self.searches = searches

    def stage(self, text: str) -> None:
        self.stages.append(text)

    def frontier(self, frontier: Frontier) -> None:
        self.found.append(frontier)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


@pytest.fixture(autouse=True)
def misbehaving(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, backend in fakes.fakes().items():
        monkeypatch.setitem(backends(), name, backend)  # type: ignore[arg-type]  # discovery returns a dict


def searched(run: Run, pixels: PixelStore, results: Path, *names: str, bounds: Bounds, log: Log) -> list[Frontier]:
    plan = Plan((run,), ((32, 32),), (1,), (Precision.FP32,), names)
    return find_frontiers(plan, QUICK, bounds, results, pixels, log, start=fakes.start_worker)


def test_the_frontier_is_where_one_image_more_needs_more_than_the_limit(
    run: Run, pixels: PixelStore, tmp_path: Path
) -> None:
    results, log = tmp_path / "frontier.jsonl", Log()
    bounds = Bounds(memory_bytes=LIMIT_BYTES)
    (found,) = searched(run, pixels, results, "greedy", bounds=bounds, log=log)
    assert found.stopped == "found"
    largest = found.largest
    assert largest is not None
    assert largest.peak_bytes is not None
    fate = {one.batch: one.status for one in found.tries}
    assert (fate[largest.batch], fate[largest.batch + 1]) == ("ok", "oom")
    assert largest.batch * fakes.GREED_BYTES < largest.peak_bytes <= LIMIT_BYTES
    # What Python, numpy and ONNX Runtime take themselves lies well below half of the limit.
    assert largest.batch * fakes.GREED_BYTES > LIMIT_BYTES // 2
    assert {one.limit_bytes for one in found.tries} == {LIMIT_BYTES}
    assert log.searches == 1
    assert any(stage.endswith("greedy: 8 images") for stage in log.stages)

    again = Log()
    assert searched(run, pixels, results, "greedy", bounds=bounds, log=again) == [found] == again.found
    assert again.stages == [], "it was searched before"
    assert read_frontiers(results) == [found]


def test_a_process_that_has_no_room_for_its_runtime_is_out_of_memory(
    run: Run, pixels: PixelStore, tmp_path: Path
) -> None:
    bounds = Bounds(memory_bytes=8 * 2**20)
    (found,) = searched(run, pixels, tmp_path / "frontier.jsonl", "ort-cpu", bounds=bounds, log=Log())
    assert ([(one.batch, one.status) for one in found.tries], found.stopped) == ([(1, "oom")], "found")
    assert found.largest is None


def test_a_backend_that_crashes_has_no_frontier_but_a_reason(run: Run, pixels: PixelStore, tmp_path: Path) -> None:
    results = tmp_path / "frontier.jsonl"
    crashed, lied, fine = searched(
        run, pixels, results, "crashing", "lying", "ort-cpu", bounds=Bounds(batch=2), log=Log()
    )
    assert (crashed.stopped, crashed.largest) == ("failed", None)
    assert "SIGSEGV" in crashed.reason
    assert (lied.stopped, lied.tries) == ("failed", ())
    assert fine.stopped == "batch limit"
    assert fine.largest is not None
    assert fine.largest.batch == 2
    tried = Log()
    searched(run, pixels, results, "crashing", "ort-cpu", bounds=Bounds(batch=2), log=tried)
    assert tried.stages, "what failed is tried again"
    assert not any("ort-cpu" in stage for stage in tried.stages)


def test_wider_bounds_than_those_that_ended_a_search_search_again(run: Run, pixels: PixelStore, tmp_path: Path) -> None:
    results = tmp_path / "frontier.jsonl"
    tried = []
    for bounds in (Bounds(batch=1), Bounds(batch=2), Bounds(batch=1), Bounds(batch=1, memory_bytes=LIMIT_BYTES)):
        log = Log()
        (found,) = searched(run, pixels, results, "ort-cpu", bounds=bounds, log=log)
        tried.append(sum(stage.endswith(("1 images", "2 images")) for stage in log.stages))
        assert read_frontiers(results) == [found]
    assert tried == [1, 2, 0, 1]


def test_a_lower_limit_of_before_stays(run: Run, pixels: PixelStore) -> None:
    with fakes.start_worker(60) as worker:
        assert worker.limit_memory(LIMIT_BYTES) == LIMIT_BYTES
        assert worker.limit_memory(2 * LIMIT_BYTES) == LIMIT_BYTES


@pytest.mark.parametrize("content", [b"{}\n", b"not json\n", b'{"schema": "effvit.result/3"}\n'])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "frontier.jsonl"
    path.write_bytes(content)
    with pytest.raises(ResultError, match="cannot be read as batches that fit"):
        read_frontiers(path)


def test_a_file_of_another_schema_is_refused(run: Run, pixels: PixelStore, tmp_path: Path) -> None:
    path = tmp_path / "frontier.jsonl"
    (found,) = searched(run, pixels, path, "ort-cpu", bounds=Bounds(batch=1), log=Log())
    path.write_bytes(path.read_bytes().replace(b"effvit.frontier/1", b"effvit.frontier/9"))
    assert replace(found, schema="effvit.frontier/9") != found
    with pytest.raises(ResultError, match="another schema"):
        read_frontiers(path)
