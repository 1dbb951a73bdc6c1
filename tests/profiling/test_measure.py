"""Who takes part in which round, and what becomes of it, with workers that only make numbers up."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest
from models_for_tests import MACHINE, record_of
from outcomes import make_cost

from effvit.accuracy import Accuracy
from effvit.export.base import Artifact, Parity, pick_backend
from effvit.export.settings import RuntimeSettings
from effvit.memory import ResidentMemory
from effvit.profiling import stats
from effvit.profiling.bench import Bench
from effvit.profiling.confinement import Confinement
from effvit.profiling.devices import Device
from effvit.profiling.disturbance import Conditions
from effvit.profiling.isolate import CellFailure, Opened
from effvit.profiling.measure import Measured, measure_group
from effvit.profiling.plan import Effort, Group
from effvit.profiling.preparation import Refusal
from effvit.profiling.records import DeviceTimes, HostMemory
from effvit.profiling.timer import Round
from effvit.run import Run
from effvit.spec import Precision, Workload

EFFORT = Effort(threads=1, rounds=5, samples=30, least_s=0.1, most_s=20.0, max_noise=0.02)
GROUP = Group(pick_backend("torch"), Precision.FP32, Workload(2, 64, 64))
LAUNCHES = 6
TIMES = DeviceTimes((1e-5,), (1e-4,), (9e-3,), (1e-5,), (1e-2,), 1, "made up")
RECORD = record_of()
ON_GPU = replace(GROUP, device=Device("cuda", index=0))


@dataclass
class Neighbour:
    """Another process on the same two cores; it slows whatever is measured while it is busy, and can be seen.

    Rounds in which it is busy follow one another: after each it stays as it is with the chance `stays`.
    """

    random: random.Random
    share: float = 0.0
    stays: float = 0.8
    busy: bool = False

    def next_round(self) -> float:
        """Return the share of the cores that it takes during one round."""
        if self.random.random() > self.stays:
            self.busy = not self.busy
        return self.share if self.busy else 0.0


@dataclass
class FakeWorker:
    """Launches take `latency_s`, `noise` more or less from launch to launch and `uneven` from round to round."""

    latency_s: float
    noise: float
    uneven: float
    neighbour: Neighbour
    random: random.Random
    fails_in: int | None = None
    wall_s: float = 0.3
    rounds: int = 0
    device: str = ""
    more_threads: int = 0
    log: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is no process to end."""

    def prepare(self, backend: str, device: Device) -> None:
        self.device = "cpu" if device.kind == "cpu" else "cuda:0"
        self.log.append("prepare")

    def close(self) -> None: ...

    def ready(self) -> None: ...

    def resident(self) -> ResidentMemory:
        return ResidentMemory(1, 2, "made up")

    def open(self, backend: str, artifact: Artifact, batch: int, threads: int, pixels: Path) -> Opened:
        settings = RuntimeSettings("made up", self.device, Precision.FP32, threads + self.more_threads)
        return Opened(0.1, 0.2, settings, Confinement(None))

    def memory(self, backend: str, artifact: Artifact, batch: int, threads: int, pixels: Path) -> HostMemory:
        self.log.append("memory")
        return HostMemory(1, 2, "made up")

    def stages(self) -> DeviceTimes | None:
        if self.fails_in == 0:
            raise CellFailure("failed", "the worker crashed with SIGSEGV")
        return TIMES

    def evaluate(self, pixels: Path, labels: list[int], batch: int) -> Accuracy:
        return Accuracy(1, 1, 1, None, (1,), (1,))

    def round(self, samples: int, least_s: float, most_s: float, warmup_s: float) -> Round:
        self.rounds += 1
        if self.rounds == self.fails_in:
            raise CellFailure("failed", "the worker crashed with SIGSEGV")
        taken = self.neighbour.next_round()
        level_s = self.latency_s * self.random.lognormvariate(0, self.uneven) * (1 + taken)
        seconds = tuple(level_s * self.random.lognormvariate(0, self.noise) for _ in range(LAUNCHES))
        conditions = Conditions(self.wall_s, self.wall_s, 2, 0.0, taken * 2 * self.wall_s, 0, None, None)
        return Round(2, 0.1, seconds, 2, 2 * level_s, conditions)


@dataclass(frozen=True)
class Pixels:
    path: Path = Path("pixels.npy")
    labels: tuple[int, ...] = (0,)
    of_images: int = 1
    key: str = "images"

    def get(self, *_: object) -> Self:
        return self


@dataclass(frozen=True)
class Verified:
    """Takes every artifact for what it should be."""

    def verified(self, group: Group, run: Run, artifact: Artifact, worker: object) -> Artifact:
        return artifact


@dataclass
class Lab:
    """One group of cells on one synthetic machine: softmax first, then linformer, performer and so on."""

    latencies_s: Sequence[float]
    effort: Effort = EFFORT
    noise: float = 0.005
    uneven: Sequence[float] = (0.01, 0.01, 0.01)
    taken: float = 0.0
    seed: int = 0
    fails_in: int | None = None
    walls_s: Sequence[float] = (0.3, 0.3, 0.3)
    workers: list[FakeWorker] = field(default_factory=list)
    group: Group = GROUP
    fresh: bool = False
    drifts_after: float = math.inf
    log: list[str] = field(default_factory=list)

    def measure(self) -> list[Measured | Refusal]:
        def start(_timeout_s: float) -> FakeWorker:
            place = len(self.workers) % len(self.latencies_s)  # after the workers that time come those that weigh
            fails_in = self.fails_in if place == 1 else None
            # A sequence of its own for each: the order within rounds is drawn anew in every run.
            chance = random.Random(f"{self.seed} {place}")
            neighbour = Neighbour(chance, self.taken)
            worker = FakeWorker(
                self.latencies_s[place],
                self.noise,
                self.uneven[place],
                neighbour,
                chance,
                fails_in,
                self.walls_s[place],
                log=self.log,
                more_threads=int(len(self.workers) >= self.drifts_after),
            )
            self.workers.append(worker)
            return worker

        names = ("softmax", "linformer", "performer")[: len(self.latencies_s)]
        bench = Bench(self.effort, Pixels(), Verified(), {}, lambda _: None, start, fresh=self.fresh)  # type: ignore[arg-type]
        return measure_group(bench, self.group, [_cell(name) for name in names])


def _cell(attention: str) -> tuple[Run, Artifact]:
    spec = replace(RECORD.spec, swaps=tuple(replace(swap, attention=attention) for swap in RECORD.spec.swaps))
    artifact = Artifact(
        "onnx", f"/{attention}.onnx", attention, 1, spec, Precision.FP32, 64, 64, RECORD.preprocessing, ("a",),
        make_cost(), (), 0.0, Parity(1, 0.0, 1.0, 1.0, 1.0),
    )  # fmt: skip
    return Run(Path(attention), replace(RECORD, spec=spec, environment=MACHINE)), artifact


def measured(results: Sequence[Measured | Refusal]) -> list[Measured]:
    found = [one for one in results if isinstance(one, Measured)]
    assert len(found) == len(results)
    return found


def rounds_of(one: Measured) -> list[int]:
    return [turn.round for turn in one.evidence.turns]


def test_a_steady_cell_stops_after_the_least_rounds() -> None:
    lab = Lab((1e-2, 1e-2), uneven=(0.001, 0.001))
    softmax, linformer = measured(lab.measure())
    assert rounds_of(softmax) == rounds_of(linformer) == [0, 1, 2, 3, 4]
    assert len(softmax.evidence.samples.seconds) == 5 * LAUNCHES
    assert softmax.evidence.samples.stopped == "30 launches, 0.1 s and 5 rounds, interval within ±2 %"
    assert softmax.unstable == ""


def test_the_baseline_goes_on_with_whoever_needs_more_rounds_and_others_do_not() -> None:
    lab = Lab((1e-2, 1e-2, 1e-2), uneven=(0.001, 0.04, 0.001))
    softmax, linformer, performer = measured(lab.measure())
    assert len(rounds_of(linformer)) > 10
    assert rounds_of(softmax) == rounds_of(linformer)
    assert rounds_of(performer) == [0, 1, 2, 3, 4]
    ratio = stats.speedup(softmax.evidence.samples, linformer.evidence.samples)
    assert ratio is not None
    assert ratio.low is not None


def test_nobody_waits_for_a_baseline_that_needs_more_rounds() -> None:
    softmax, linformer = measured(Lab((1e-2, 1e-2), uneven=(0.04, 0.001)).measure())
    assert len(rounds_of(softmax)) > 10
    assert rounds_of(linformer) == [0, 1, 2, 3, 4]


def test_the_time_limit_ends_what_stays_uneven_and_says_so() -> None:
    # 0.4 s a round with its warm-up: 10 rounds take 4 s.
    lab = Lab((1e-2, 1e-2), uneven=(0.5, 0.5), effort=replace(EFFORT, most_s=4.0))
    for one in measured(lab.measure()):
        assert len(rounds_of(one)) == 10
        assert one.evidence.samples.stopped.startswith("time limit: the interval is still ±")
        assert one.evidence.samples.stopped.endswith("asked for ±2 %")
        assert one.unstable == ""


def test_the_baseline_goes_along_no_longer_than_its_own_limit() -> None:
    # 1 s and 0.4 s a round with the warm-up: 8 and 20 rounds take 8 s.
    effort = replace(EFFORT, most_s=8.0)
    lab = Lab((1e-2, 1e-2), uneven=(0.001, 0.5), walls_s=(0.9, 0.3), effort=effort)
    softmax, linformer = measured(lab.measure())
    assert (len(rounds_of(softmax)), len(rounds_of(linformer))) == (8, 20)
    assert softmax.evidence.samples.stopped == "30 launches, 0.1 s and 5 rounds, interval within ±2 %"


def test_a_round_that_fails_takes_its_cell_out_and_the_others_go_on() -> None:
    softmax, linformer, performer = Lab((1e-2,) * 3, uneven=(0.001,) * 3, fails_in=2).measure()
    assert linformer == Refusal("failed", "measure", "the worker crashed with SIGSEGV")
    assert [rounds_of(one) for one in measured([softmax, performer])] == [[0, 1, 2, 3, 4]] * 2


def test_a_process_lives_for_one_round_where_each_is_to_be_fresh() -> None:
    lab = Lab((1e-2,) * 3, uneven=(0.001,) * 3, fresh=True)
    results = measured(lab.measure())
    assert all(one.evidence.reopened and len(rounds_of(one)) >= lab.effort.rounds for one in results)
    assert max(worker.rounds for worker in lab.workers) == 1
    assert sum(worker.rounds for worker in lab.workers) == sum(len(rounds_of(one)) for one in results)


def test_every_process_has_to_do_what_was_asked_for_not_the_first_alone() -> None:
    softmax, linformer = Lab((1e-2, 1e-2), fresh=True, drifts_after=5).measure()  # two opened, three rounds were timed
    for refused in (softmax, linformer):
        assert isinstance(refused, Refusal)
        assert (refused.status, refused.reason) == ("fallback", "asked for 1 thread, uses 2")


def test_all_who_read_memory_import_their_runtime_at_once() -> None:
    lab = Lab((1e-2,) * 3, uneven=(0.001,) * 3)
    measured(lab.measure())
    assert lab.log == ["prepare"] * 3 + ["prepare"] * 3 + ["memory"] * 3


def test_disturbed_rounds_are_repeated_and_only_the_others_count() -> None:
    lab = Lab((1e-2, 1e-2), uneven=(0.001, 0.001), taken=0.5, seed=6)
    softmax, _ = measured(lab.measure())
    evidence = softmax.evidence
    disturbed = [turn.round for turn in evidence.turns if turn.disturbed]
    assert disturbed
    assert len(evidence.turns) - len(disturbed) >= 5
    assert evidence.samples.left_out == tuple(disturbed)
    assert len(evidence.samples.seconds) == LAUNCHES * len(evidence.turns)
    assert [place for place, turn in enumerate(evidence.turns) if turn.disturbed] == list(evidence.throughput.left_out)
    # The neighbour makes launches take half as long again.
    assert stats.median_s(evidence.samples) == pytest.approx(1e-2, rel=0.01)
    assert softmax.unstable == ""


def test_rounds_go_on_until_enough_of_them_were_undisturbed_for_both_of_a_pair() -> None:
    """Each disturbed in half of its rounds, and not in the same ones: enough for two medians is not for their ratio."""
    softmax, linformer = measured(Lab((1e-2, 1e-2), uneven=(0.001, 0.001), taken=0.5, seed=0).measure())
    quiet = [{turn.round for turn in one.evidence.turns if not turn.disturbed} for one in (softmax, linformer)]
    assert len(quiet[0] & quiet[1]) == 5
    assert max(map(len, quiet)) > 5
    assert (softmax.unstable, linformer.unstable) == ("", "")


def test_a_neighbour_who_stays_makes_the_cell_unstable_with_its_numbers() -> None:
    lab = Lab((1e-2, 1e-2), uneven=(0.001, 0.001), taken=0.5, seed=3)
    lab.effort = replace(EFFORT, tolerance=replace(EFFORT.tolerance, others=-1.0))  # every round counts as disturbed
    for one in measured(lab.measure()):
        assert "10 of 10 rounds were disturbed" in one.unstable
        assert len(one.evidence.samples.seconds) == 10 * LAUNCHES
        assert one.evidence.samples.left_out == ()


def test_the_parts_of_a_call_are_timed_on_a_gpu_alone() -> None:
    lab = Lab((1e-2, 1e-2), uneven=(0.001, 0.001))
    assert [one.evidence.device_times for one in measured(lab.measure())] == [None, None]
    lab = Lab((1e-2, 1e-2), uneven=(0.001, 0.001), group=ON_GPU)
    assert [one.evidence.device_times for one in measured(lab.measure())] == [TIMES, TIMES]


def test_times_stand_without_the_parts_of_a_call() -> None:
    softmax, linformer = measured(Lab((1e-2, 1e-2), uneven=(0.001, 0.001), group=ON_GPU, fails_in=0).measure())
    assert softmax.evidence.device_times == TIMES
    assert linformer.evidence.device_times is not None
    assert linformer.evidence.device_times.end_to_end_s == ()
    assert linformer.evidence.device_times.note.endswith("failed: the worker crashed with SIGSEGV")
    assert rounds_of(linformer) == [0, 1, 2, 3, 4]


def test_what_runs_elsewhere_than_asked_for_is_a_fallback() -> None:
    elsewhere = replace(ON_GPU, device=Device("cuda", index=1))
    for one in Lab((1e-2,), group=elsewhere).measure():
        assert one == Refusal("fallback", "open", "asked for cuda:1, runs on cuda:0")


@pytest.mark.parametrize("taken", [0.0, 0.3])
def test_equal_artifacts_are_told_apart_in_at_most_5_of_100_sweeps(
    taken: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole decision: rounds, stopping, disturbances left out, the paired interval; alone and beside a hog."""
    monkeypatch.setattr(stats, "DRAWS", 200)
    sweeps, declared, found = 150, 0, 0
    for seed in range(sweeps):
        lab = Lab((1e-2, 1e-2, 0.9e-2), seed=seed, taken=taken, uneven=(0.015, 0.015, 0.015))
        softmax, twin, faster = measured(lab.measure())
        alike = stats.speedup(softmax.evidence.samples, twin.evidence.samples)
        ahead = stats.speedup(softmax.evidence.samples, faster.evidence.samples)
        reliable = not (softmax.unstable or twin.unstable)
        declared += reliable and _declared(alike)
        found += _declared(ahead) or bool(softmax.unstable or faster.unstable)
    # Two standard deviations of a count of so many with a chance of 5 %.
    assert declared / sweeps <= 0.05 + 2 * (0.05 * 0.95 / sweeps) ** 0.5
    assert found / sweeps >= 0.95, "a gain of a tenth is found, or the cells are called unstable"


def _declared(ratio: stats.Estimate | None) -> bool:
    """Return whether the ratio is told from 1."""
    return ratio is not None and ratio.low is not None and ratio.high is not None and (ratio.low > 1 or ratio.high < 1)
