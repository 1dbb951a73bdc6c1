"""The largest batch that fits into memory, found by doubling and bisection, every try in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from effvit.environment import Environment, capture_environment
from effvit.errors import MismatchError, ResultError, UsageError
from effvit.export.base import Artifact
from effvit.memory import available_bytes
from effvit.profiling.isolate import CellFailure, IsolatedWorker
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Group, Plan
from effvit.profiling.preparation import Preparation, Refusal
from effvit.profiling.records import Cell, Status
from effvit.run import Run
from effvit.storage import write_atomically

SCHEMA = "effvit.frontier/1"
Stopped = Literal["found", "batch limit", "time limit", "failed"]


@dataclass(frozen=True, slots=True)
class Try:
    """One batch in a process of its own: `ok` with the peak of that process, or what became of it instead.

    `limit_bytes` of data is what the process was allowed; None: no limit but the machine's.
    """

    batch: int
    status: Status
    limit_bytes: int | None = None
    peak_bytes: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Frontier:
    """What fits of one cell, whose own batch is 1.

    `stopped` is `found` where one image more did not fit; the limit of the batch or of the time that ended the search
    before; or `failed`, for the `reason` given, where a try ended otherwise than by want of memory.
    """

    cell: Cell
    environment: Environment
    run: str
    tries: tuple[Try, ...]
    stopped: Stopped
    reason: str = ""
    schema: str = SCHEMA

    @property
    def largest(self) -> Try | None:
        """The largest batch that fitted; None where not even one image did, or nothing was tried."""
        return max((one for one in self.tries if one.status == "ok"), key=lambda one: one.batch, default=None)

    @property
    def too_large(self) -> Try | None:
        """The smallest batch that did not fit; None where every batch did, or nothing was tried."""
        return min((one for one in self.tries if one.status == "oom"), key=lambda one: one.batch, default=None)


@dataclass(frozen=True, slots=True)
class Bounds:
    """Where a search ends: at `batch`, or after `seconds`.

    `memory_bytes` of data is what a process may take. None: what is available when the search begins, so that it ends
    this process and not others.

    Raises:
        UsageError: A bound that leaves nothing to search.
    """

    batch: int = 4096
    seconds: float = 600.0
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.batch < 1 or self.seconds <= 0 or (self.memory_bytes is not None and self.memory_bytes <= 0):
            raise UsageError(
                f"a search up to batch {self.batch} in {self.seconds:g} s finds nothing", "choose larger bounds"
            )


class Listener(Protocol):
    """Is told how the searches go."""

    def planned(self, searches: int) -> None:
        """There are so many searches, those already made included."""

    def stage(self, text: str) -> None:
        """Something takes a while now."""

    def frontier(self, frontier: Frontier) -> None:
        """A search is finished, now or in an earlier run of the same command."""


def search(attempt: Callable[[int], Try], most: int, in_time: Callable[[], bool]) -> tuple[tuple[Try, ...], Stopped]:
    """Return what was tried to find the largest batch up to `most` that fits, and why that ended.

    Memory grows with the batch: whatever is smaller than a batch that fits fits, too. Doubles until one does not, then
    halves the distance until they lie side by side.
    """
    tries: list[Try] = []
    fits, fails = 0, most + 1
    while fails - fits > 1:
        if not in_time():
            return tuple(tries), "time limit"
        tries.append(attempt((fits + fails) // 2 if fails <= most else min(max(1, 2 * fits), most)))
        if tries[-1].status == "ok":
            fits = tries[-1].batch
        elif tries[-1].status == "oom":
            fails = tries[-1].batch
        else:
            late = tries[-1].status == "timeout" and not in_time()
            return tuple(tries), "time limit" if late else "failed"
    return tuple(tries), "batch limit" if fits == most else "found"


def find_frontiers(
    plan: Plan,
    effort: Effort,
    bounds: Bounds,
    results: Path,
    pixels: PixelStore,
    listener: Listener,
    *,
    start: Callable[[float], IsolatedWorker] = IsolatedWorker,
) -> list[Frontier]:
    """Search every cell of `plan`, batches apart, unless `results` holds what is sought, and return what was found.

    Raises:
        UsageError, BackendUnavailableError: The plan cannot be carried out on this machine.
        ResultError: `results` holds something else.
        DataError: The images are not those the runs were trained on.
        CheckpointError: A run's weights are damaged.
        StorageError: The disk is full; what was finished is on disk.
    """
    plan.check()
    environment = capture_environment(effort.threads)
    kept = read_frontiers(results)
    here = {one.cell.key: one for one in kept if environment.includes(one.environment)}
    searches = _Searches(effort, bounds, environment, pixels, Preparation(effort, pixels, listener.stage), start)
    cells = [(group, run) for group in plan.groups() for run in plan.runs]
    listener.planned(len(cells))
    found: list[Frontier] = []
    for group, run in cells:
        frontier = here.get(group.cell(run).key)
        if frontier is None or not _answers(frontier, bounds):
            kept = [one for one in kept if one is not frontier]
            listener.stage(f"{run.record.spec.attention}, {group}")
            frontier = searches.frontier(group, run, listener.stage)
            kept.append(frontier)
            write_atomically(results, b"".join(msgspec.json.encode(one) + b"\n" for one in kept))
        listener.frontier(frontier)
        found.append(frontier)
    return found


def read_frontiers(path: Path) -> list[Frontier]:
    """Return what a file of frontiers holds; nothing where there is none.

    Raises:
        ResultError: It holds something else.
    """
    if not path.exists():
        return []
    try:
        frontiers = [msgspec.json.decode(line, type=Frontier) for line in path.read_bytes().splitlines()]
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, UsageError) as error:
        raise ResultError(f"{path} cannot be read as batches that fit: {error}", "name another file") from error
    if any(one.schema != SCHEMA for one in frontiers):
        raise ResultError(f"{path} is of another schema than {SCHEMA!r}", "name another file")
    return frontiers


def _answers(frontier: Frontier, bounds: Bounds) -> bool:
    """Return whether a search within `bounds` would find no more than this one did."""
    if bounds.memory_bytes is not None and any(one.limit_bytes != bounds.memory_bytes for one in frontier.tries):
        return False
    if frontier.stopped == "batch limit":
        return frontier.largest is not None and frontier.largest.batch >= bounds.batch
    return frontier.stopped == "found"


@dataclass(frozen=True, slots=True)
class _Searches:
    effort: Effort
    bounds: Bounds
    environment: Environment
    pixels: PixelStore
    preparation: Preparation
    start: Callable[[float], IsolatedWorker]

    def frontier(self, group: Group, run: Run, stage: Callable[[str], None]) -> Frontier:
        """Search one cell; `stage` is told the batch that is tried."""
        artifact = self._verified(group, run)
        if isinstance(artifact, Refusal):
            return Frontier(group.cell(run), self.environment, run.name, (), "failed", artifact.reason)
        memory_bytes = self.bounds.memory_bytes or group.device.memory_bytes
        # A GPU refuses by itself what it has not, and its driver reserves more of the host than it uses.
        if memory_bytes is None and group.on_processor:
            memory_bytes = available_bytes()
        deadline = time.monotonic() + self.bounds.seconds

        def attempt(batch: int) -> Try:
            stage(f"{run.record.spec.attention}, {group}: {batch} images")
            timeout_s = max(0.0, min(self.effort.timeout_s, deadline - time.monotonic()))
            return self._attempt(group, run, artifact, batch, memory_bytes, timeout_s)

        tries, stopped = search(attempt, self.bounds.batch, lambda: time.monotonic() < deadline)
        reason = f"batch {tries[-1].batch}: {tries[-1].reason}" if stopped == "failed" else ""
        return Frontier(group.cell(run), self.environment, run.name, tries, stopped, reason)

    def _verified(self, group: Group, run: Run) -> Artifact | Refusal:
        """Return the artifact, which is what it was made from, or why there is none."""
        artifact = self.preparation.artifact(group, run)
        if isinstance(artifact, Refusal) or artifact.parity is not None:
            return artifact
        try:
            with self.start(self.effort.timeout_s) as worker:
                worker.hold(group.device)
                threads = group.threads(self.effort.threads)
                worker.open(group.backend.name, artifact, 1, threads, self._images(group, run))
                return self.preparation.verified(group, run, artifact, worker)
        except CellFailure as failure:
            return Refusal(failure.status, "open", failure.reason)
        except MismatchError as error:
            return Refusal("failed", "verify", error.message)

    def _attempt(
        self, group: Group, run: Run, artifact: Artifact, batch: int, memory_bytes: int | None, timeout_s: float
    ) -> Try:
        limit_bytes = None
        try:
            with self.start(timeout_s) as worker:
                worker.hold(group.device)
                if memory_bytes is not None:
                    limit_bytes = worker.limit_memory(memory_bytes)
                memory = worker.memory(
                    group.backend.name, artifact, batch, group.threads(self.effort.threads), self._images(group, run)
                )
        except CellFailure as failure:
            return Try(batch, failure.status, limit_bytes, reason=failure.reason)
        return Try(batch, "ok", limit_bytes, memory.peak_bytes)

    def _images(self, group: Group, run: Run) -> Path:
        workload = group.workload
        return self.pixels.get(run, workload.height, workload.width, self.effort.verify_images).path
