"""Groups that memory does not hold all at once, on a machine that is made small.

Its kernel is a thread here, which ends the largest process of a sweep once they take more than there is.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import fakes
import psutil
import pytest
from sweep_program import QUICK
from untrained_runs import make_run

from effvit.export.base import Artifact
from effvit.profiling.bench import Bench
from effvit.profiling.measure import Measured, measure_group
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Group
from effvit.profiling.preparation import Preparation, Refusal
from effvit.run import Run
from effvit.spec import Precision, Workload


class SmallMachine:
    """Has memory for what the workers of this process may take, `limit_bytes`, which it begins to watch in `with`."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes, self.killed = limit_bytes, set[int]()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def room(self) -> int:
        return max(0, self.limit_bytes - sum(self._taken().values()))

    def _taken(self) -> dict[psutil.Process, int]:
        taken = {}
        for process in psutil.Process().children():
            # A process that has just been forked shows the memory of its parent until it runs its own program.
            with suppress(psutil.NoSuchProcess):
                if any(word.endswith("fakes.py") for word in process.cmdline()):
                    taken[process] = process.memory_info().rss
        return taken

    def _watch(self) -> None:
        while not self._over.wait(0.005):
            taken = self._taken()
            if sum(taken.values()) > self.limit_bytes:
                victim = max(taken, key=taken.__getitem__)
                victim.kill()
                self.killed.add(victim.pid)  # perhaps again: it is not gone at once

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, "softmax"), make_run(root, "linformer")]


@pytest.fixture(scope="module")
def pixels() -> Iterator[PixelStore]:
    with PixelStore() as store:
        yield store


@pytest.fixture(scope="module")
def idle_bytes(runs: list[Run], pixels: PixelStore) -> int:
    """Return what a worker takes with an artifact of these open that wants nothing more."""
    group = group_of("ort-cpu")
    preparation = Preparation(QUICK, pixels, lambda _: None)
    artifact = preparation.artifact(group, runs[0])
    assert isinstance(artifact, Artifact)
    with fakes.start_worker(60) as worker:
        worker.open("ort-cpu", artifact, 1, 1, pixels.get(runs[0], 32, 32, QUICK.eval_images).path)
        now_bytes = worker.resident().now_bytes
    assert now_bytes is not None
    return now_bytes


def group_of(backend: str) -> Group:
    return Group(fakes.fakes().get(backend, fakes.fake(backend)), Precision.FP32, Workload(1, 32, 32))


def measure(
    machine: SmallMachine, runs: list[Run], pixels: PixelStore, backend: str, stages: list[str]
) -> list[Measured | Refusal]:
    group = group_of(backend)
    preparation = Preparation(QUICK, pixels, stages.append)
    artifacts = []
    for run in runs:
        artifact = preparation.artifact(group, run)
        assert isinstance(artifact, Artifact)
        artifacts.append((run, artifact))
    bench = Bench(QUICK, pixels, preparation, {}, stages.append, fakes.start_worker, room=machine.room)
    with machine:
        return measure_group(bench, group, artifacts)


def reopened(results: list[Measured | Refusal]) -> list[bool]:
    measured = [one for one in results if isinstance(one, Measured)]
    assert len(measured) == len(results), results
    for one in measured:
        assert len(one.evidence.samples.seconds) == QUICK.rounds
        assert one.evidence.accuracy is not None
        assert one.evidence.parity is not None
    return [one.evidence.reopened for one in measured]


def test_where_memory_holds_all_they_stay_open(runs: list[Run], pixels: PixelStore, idle_bytes: int) -> None:
    machine = SmallMachine(3 * (idle_bytes + fakes.HELD_BYTES))
    assert reopened(measure(machine, runs, pixels, "holding", [])) == [False, False]
    assert not machine.killed


def test_where_memory_holds_one_they_are_opened_in_turn_before_anyone_is_killed(
    runs: list[Run], pixels: PixelStore, idle_bytes: int
) -> None:
    machine = SmallMachine(2 * idle_bytes + fakes.HELD_BYTES * 3 // 2)
    assert reopened(measure(machine, runs, pixels, "holding", [])) == [True, True]
    assert not machine.killed


def test_who_is_killed_while_others_are_open_is_tried_alone(
    runs: list[Run], pixels: PixelStore, idle_bytes: int
) -> None:
    """What an artifact takes in its rounds shows too late."""
    machine = SmallMachine(2 * idle_bytes + fakes.HELD_BYTES * 3 // 2)
    stages: list[str] = []
    assert reopened(measure(machine, runs, pixels, "holding-later", stages)) == [True, True]
    assert len(machine.killed) == 1
    assert any(stage.startswith("memory does not hold all at once") for stage in stages)


def test_who_is_killed_alone_is_out_of_memory(runs: list[Run], pixels: PixelStore, idle_bytes: int) -> None:
    machine = SmallMachine((3 * idle_bytes + fakes.HELD_BYTES) // 2)
    for refusal in measure(machine, runs, pixels, "holding", []):
        assert isinstance(refusal, Refusal)
        assert (refusal.status, refusal.stage) == ("oom", "open")
        assert "killed by the kernel" in refusal.reason
    assert len(machine.killed) == 3  # the first beside the other, and then each alone


def test_others_stay_open_beside_each_other_without_who_does_not_fit_alone(
    runs: list[Run], pixels: PixelStore, idle_bytes: int, tmp_path: Path
) -> None:
    machine = SmallMachine(4 * (idle_bytes + fakes.HELD_BYTES))
    three = [*runs, make_run(tmp_path, "performer")]
    hungry, *others = measure(machine, three, pixels, "hungry-for-softmax", [])
    assert hungry == Refusal("oom", "open", "MemoryError")
    assert reopened(others) == [False, False]
