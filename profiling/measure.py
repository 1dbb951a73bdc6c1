"""Measures cells beside each other, and reads the memory of each in a process of its own."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from effvit.export.base import Artifact
from effvit.profiling.bench import Bench
from effvit.profiling.contender import Contender, Crowded
from effvit.profiling.interleaving import Apart, Together
from effvit.profiling.isolate import CellFailure, IsolatedWorker
from effvit.profiling.plan import Group
from effvit.profiling.preparation import Refusal
from effvit.profiling.records import ArtifactFacts, CallWork, Evidence, HostMemory, Throughput
from effvit.profiling.timer import Round
from effvit.run import Run


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found on one cell, and why it cannot be relied on; empty if it can."""

    evidence: Evidence
    unstable: str


def measure_group(bench: Bench, group: Group, artifacts: Sequence[tuple[Run, Artifact]]) -> list[Measured | Refusal]:
    """Measure one group of cells and return, in the order of `artifacts`, what was found or why nothing was.

    Raises:
        DataError: The images are gone, or not the same any more.
        StorageError: The disk is full.
    """
    contenders = [Contender(run, artifact) for run, artifact in artifacts]
    reopened = _carry_out(bench, group, contenders)
    _weigh(bench, group, [one for one in contenders if one.refusal is None])
    comparison = uuid.uuid4().hex[:12]
    return [_result(contender, group, bench, comparison, reopened) for contender in contenders]


def _carry_out(bench: Bench, group: Group, contenders: Sequence[Contender]) -> bool:
    """Measure all contenders; return whether each was opened anew for its turns.

    They are if they are to be, and otherwise where memory does not hold all of them at once.
    """
    if bench.fresh:
        Apart(bench, group).carry_out(contenders)
        return True
    while True:
        left = [one for one in contenders if one.refusal is None]
        try:
            Together(bench, group).carry_out(left)
        except Crowded as crowded:
            apart = Apart(bench, group)
            # Whoever does not even fit alone drops out, and the others may have room without it.
            if crowded.victim is None or apart.opens(crowded.victim):
                bench.stage(f"memory does not hold all at once, each is opened anew for its turn: {group}")
                apart.carry_out(left)
                return True
        else:
            return False


def _weigh(bench: Bench, group: Group, contenders: Sequence[Contender]) -> None:
    """Read the memory of contenders that were measured, each in a fresh process in which nothing is timed."""
    for some in bench.at_once(contenders):
        _weigh_at_once(bench, group, some)


def _weigh_at_once(bench: Bench, group: Group, contenders: Sequence[Contender]) -> None:
    with ExitStack() as stack:
        scales = [stack.enter_context(bench.start(bench.effort.timeout_s)) for _ in contenders]
        for scale in scales:  # all of them import the runtime at once: that takes longer than anything else here
            with suppress(CellFailure):  # the answer tells
                scale.prepare(group.backend.name, group.device)
        for contender, scale in zip(contenders, scales, strict=True):
            bench.stage(f"memory of {contender.run.record.spec.attention}, {group}")
            contender.memory = _weighed(bench, group, contender, scale)
            scale.close()  # what it holds is the next one's


def _weighed(bench: Bench, group: Group, contender: Contender, scale: IsolatedWorker) -> HostMemory:
    pixels, threads = bench.images(group, contender.run), group.threads(bench.effort.threads)
    try:
        scale.ready()
        return scale.memory(group.backend.name, contender.artifact, group.workload.batch, threads, pixels.path)
    except CellFailure as failure:
        # The times stand all the same.
        return HostMemory(None, None, "", f"the process that was to read it failed: {failure.reason}")


def _result(contender: Contender, group: Group, bench: Bench, comparison: str, reopened: bool) -> Measured | Refusal:
    if contender.refusal is not None:
        return contender.refusal
    # It was opened, had a round and was weighed, or it would have been refused.
    assert contender.opened is not None
    assert contender.memory is not None
    assert contender.standing is not None
    artifact, opened, state = contender.artifact, contender.opened, contender.standing
    evidence = Evidence(
        comparison=comparison,
        artifact=ArtifactFacts(
            Path(artifact.path).name, artifact.sha256, artifact.size_bytes, artifact.build_s, artifact.pinned
        ),
        samples=state.samples,
        throughput=_throughput(contender.rounds, state.samples.left_out, group.workload.batch),
        memory=contender.memory,
        cost=artifact.cost,
        open_s=opened.open_s,
        first_s=opened.first_s,
        parity=artifact.parity,
        accuracy=contender.accuracy,
        turns=state.turns,
        work=_work(artifact, group),
        calibration=bench.calibration,
        energy=contender.energy,
        settings=opened.settings,
        confinement=opened.confinement,
        reopened=reopened,
        device_times=contender.device_times,
    )
    return Measured(evidence, state.unstable)


def _throughput(rounds: Sequence[tuple[int, Round]], left_out: tuple[int, ...], batch: int) -> Throughput:
    blocks = tuple((one.block_launches * batch, one.block_s) for _, one in rounds)
    return Throughput(blocks, tuple(place for place, (number, _) in enumerate(rounds) if number in left_out))


def _work(artifact: Artifact, group: Group) -> CallWork:
    images, cost = group.workload.batch, artifact.cost
    if cost.least_moved is None:
        return CallWork(images, None)
    return CallWork(images, (cost.parameters + images * cost.least_moved) * group.precision.size_bytes)
