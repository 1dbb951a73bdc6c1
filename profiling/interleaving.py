"""Contenders take turns in interleaved rounds: each in a new worker every time, or all in workers that stay open."""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from effvit.export.build import refuse
from effvit.profiling.bench import AccuracyKey, Bench, accuracy_key
from effvit.profiling.contender import Contender, Crowded, taking_part
from effvit.profiling.energy import MEASURED_S, measure_energy
from effvit.profiling.isolate import CellFailure, Opened
from effvit.profiling.pixels import Pixels
from effvit.profiling.plan import Group
from effvit.profiling.records import DeviceTimes, Energy, Stage
from effvit.profiling.staging import CLOCK, QUEUE_DEPTH
from effvit.profiling.stopping import standing


@dataclass(frozen=True, slots=True)
class _GroupMeasurement(ABC):
    bench: Bench
    group: Group
    order: random.Random = field(default_factory=random.Random)

    @abstractmethod
    def carry_out(self, contenders: Sequence[Contender]) -> None:
        """Measure those who did not drop out, from their first round on."""

    @abstractmethod
    def _in_worker(self, contender: Contender, work: Callable[[Contender], None]) -> None:
        """Do `work` while the contender's worker is there and, once it was opened, has the artifact open."""

    def _turn(self, contender: Contender, stage: Stage, work: Callable[[Contender], None]) -> None:
        contender.attempt(stage, partial(self._in_worker, contender, work))

    def _measure(self, contenders: Sequence[Contender]) -> None:
        """Measure contenders that were opened."""
        self._time(contenders)
        for contender in contenders:
            self._evaluate(contender)
        for contender in contenders:
            self._time_stages(contender)
            self._meter(contender)

    def _open(self, contender: Contender) -> None:
        """Open the artifact and verify it."""
        opened = self._load(contender)
        contender.artifact = self.bench.preparation.verified(
            self.group, contender.run, contender.artifact, contender.worker
        )
        contender.opened = opened

    def _load(self, contender: Contender) -> Opened:
        """Open the artifact in the contender's worker, which has to do what it is asked for: every time."""
        group, of_all_cores = self.group, self.bench.effort.threads
        pixels = self.bench.images(group, contender.run)
        opened = contender.worker.open(
            group.backend.name, contender.artifact, group.workload.batch, group.threads(of_all_cores), pixels.path
        )
        departures = group.departures(opened.settings, opened.confinement, of_all_cores)
        if departures and not self.bench.allow_fallback:
            refuse(departures)
        return opened

    def _time(self, contenders: Sequence[Contender]) -> None:
        least = self.bench.effort.rounds
        number = 0
        while turns := taking_part(contenders, least):
            self.bench.stage(f"round {number + 1}, at least {least}: {self.group}")
            self._time_round(number, self.order.sample(turns, len(turns)))
            number += 1

    def _time_round(self, number: int, contenders: Sequence[Contender]) -> None:
        for contender in contenders:
            self._turn(contender, "measure", partial(self._time_one, number))

    def _time_one(self, number: int, contender: Contender) -> None:
        effort = self.bench.effort
        measured = contender.worker.round(
            samples=math.ceil(effort.samples / effort.rounds),
            least_s=effort.least_s / effort.rounds,
            most_s=effort.most_s / effort.rounds,
            warmup_s=effort.warmup_s,
        )
        contender.rounds.append((number, measured))
        contender.standing = standing(contender.rounds, effort)

    def _evaluate(self, contender: Contender) -> None:
        if contender.refusal is not None:
            return
        pixels = self.bench.images(self.group, contender.run)
        key = accuracy_key(contender.artifact.sha256, self.group.cell(contender.run))
        known = self.bench.accuracies.get(key)
        if known is None or known.images != len(pixels.labels):
            self.bench.stage(f"accuracy of {contender.run.record.spec.attention}, {self.group}")
            self._turn(contender, "accuracy", partial(self._count, pixels, key))
        contender.accuracy = self.bench.accuracies.get(key)

    def _count(self, pixels: Pixels, key: AccuracyKey, contender: Contender) -> None:
        batch = self.group.evaluation_batch(self.bench.effort)
        counted = contender.worker.evaluate(pixels.path, pixels.labels, batch)
        self.bench.accuracies[key] = replace(counted, of_images=pixels.of_images, images_key=pixels.key)

    def _time_stages(self, contender: Contender) -> None:
        """Time the parts of a call of a contender that was measured on a GPU; its times stand without them."""
        if contender.refusal is not None or self.group.on_processor:
            return
        self.bench.stage(f"transfers of {contender.run.record.spec.attention}, {self.group}")
        try:
            self._in_worker(contender, self._read_stages)
        except CellFailure as failure:
            reason = f"the pass that was to time them failed: {failure.reason}"
            contender.device_times = DeviceTimes((), (), (), (), (), QUEUE_DEPTH, CLOCK, reason)

    def _read_stages(self, contender: Contender) -> None:
        contender.device_times = contender.worker.stages()

    def _meter(self, contender: Contender) -> None:
        """Read the energy counters over calls of a contender that was measured, in a pass that gives no times."""
        instruments = self.bench.instruments
        if contender.refusal is not None:
            return
        if not instruments.counters:
            contender.energy = Energy((), 0, "; ".join(instruments.reasons))
            return
        self.bench.stage(f"energy of {contender.run.record.spec.attention}, {self.group}")
        try:
            self._in_worker(contender, self._read_counters)
        except CellFailure as failure:
            contender.energy = Energy((), 0, f"the pass with energy counters failed: {failure.reason}")

    def _read_counters(self, contender: Contender) -> None:
        def calls() -> int:
            one = contender.worker.round(samples=1, least_s=MEASURED_S, most_s=MEASURED_S, warmup_s=0)
            return (one.warmup + len(one.seconds) + one.block_launches) * self.group.workload.batch

        contender.energy = measure_energy(self.bench.instruments, calls)


@dataclass(frozen=True, slots=True)
class Together(_GroupMeasurement):
    """Everyone's worker stays open: a turn costs nothing, and nobody is disturbed by another who starts."""

    def carry_out(self, contenders: Sequence[Contender]) -> None:
        """Measure from the start.

        Raises:
            Crowded: Memory does not hold all of them.
        """
        with ExitStack() as stack:
            for one in contenders:
                one.begin(beside=len(contenders) > 1)
                one.opened = None
                one.worker = stack.enter_context(self.bench.start(self.bench.effort.timeout_s))
            self._open_all(contenders)
            self._measure(contenders)

    def _open_all(self, contenders: Sequence[Contender]) -> None:
        self.bench.stage(f"opening {self.group}")
        for one in contenders:
            one.attempt("open", partial(one.worker.prepare, self.group.backend.name, self.group.device))
        for one in contenders:
            one.attempt("open", one.worker.ready)
        # One after the other, with every runtime imported and idle: loading and the first launch are timed.
        most_bytes = 0
        for one in contenders:
            room_bytes = self.bench.room()
            if room_bytes is not None and room_bytes < most_bytes:
                raise Crowded
            before_bytes = one.worker.resident().now_bytes or 0
            self._turn(one, "open", self._open)
            most_bytes = max(most_bytes, (one.worker.resident().peak_bytes or 0) - before_bytes)

    def _in_worker(self, contender: Contender, work: Callable[[Contender], None]) -> None:
        work(contender)


@dataclass(frozen=True, slots=True)
class Apart(_GroupMeasurement):
    """Each turn has a worker of its own, in which the artifact is opened anew, untimed: one is open at a time."""

    def carry_out(self, contenders: Sequence[Contender]) -> None:
        """Measure from the start, but for the opening of those that were opened before."""
        for one in contenders:
            one.begin(beside=False)
        self.bench.stage(f"opening {self.group}")
        self._in_turn([one for one in contenders if one.opened is None], "open", self._open)
        self._measure(contenders)

    def opens(self, contender: Contender) -> bool:
        """Return whether the contender can be opened with no other open; if not, it drops out."""
        contender.begin(beside=False)
        contender.opened = None
        self._turn(contender, "open", self._open)
        return contender.refusal is None

    def _time_round(self, number: int, contenders: Sequence[Contender]) -> None:
        self._in_turn(contenders, "measure", partial(self._time_one, number))

    def _in_turn(self, contenders: Sequence[Contender], stage: Stage, work: Callable[[Contender], None]) -> None:
        """Do `work` with one after the other, each in a new worker."""
        for some in self.bench.at_once(contenders):
            self._in_turn_at_once(some, stage, work)

    def _in_turn_at_once(
        self, contenders: Sequence[Contender], stage: Stage, work: Callable[[Contender], None]
    ) -> None:
        """Do `work` with one after the other, whose workers are all there from the start.

        All of them import their runtime at once: that takes longer than anything else about a worker, and nothing is
        timed meanwhile.
        """
        with ExitStack() as stack:
            for one in contenders:
                one.worker = stack.enter_context(self.bench.start(self.bench.effort.timeout_s))
                one.attempt(stage, partial(one.worker.prepare, self.group.backend.name, self.group.device))
            for one in contenders:
                one.attempt(stage, one.worker.ready)
            for one in contenders:
                one.attempt(stage, partial(self._opened_for, one, work))
                one.worker.close()  # its memory is the next one's

    def _opened_for(self, contender: Contender, work: Callable[[Contender], None]) -> None:
        if contender.opened is not None:
            self._load(contender)
        work(contender)

    def _in_worker(self, contender: Contender, work: Callable[[Contender], None]) -> None:
        with self.bench.start(self.bench.effort.timeout_s) as contender.worker:
            contender.worker.prepare(self.group.backend.name, self.group.device)
            contender.worker.ready()
            self._opened_for(contender, work)
