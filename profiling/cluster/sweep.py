"""A sweep over the nodes of a cluster: parts are handed to it, and outcomes are stored here as they come back. No Ray.

What is handed over is scheduled, retried and moved between nodes by the cluster alone.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from effvit.errors import CellsFailedError, UnsupportedError
from effvit.export.base import pick_backend
from effvit.interruption import uninterrupted
from effvit.profiling.agent.detached import error_of
from effvit.profiling.agent.kit import Kit
from effvit.profiling.agent.measuring import Allowed
from effvit.profiling.agent.packing import Packing, collect
from effvit.profiling.cluster.nodes import (
    Demand,
    Member,
    Node,
    NodeFacts,
    able_nodes,
    check_code,
    demand_of,
    remarks,
    runtimes_for,
)
from effvit.profiling.cluster.parts import Part, cut, missing_parts, plan_of
from effvit.profiling.cluster.working import Worked
from effvit.profiling.plan import Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import append, decode
from effvit.profiling.sweep import Listener, kept_outcomes


@dataclass(frozen=True, slots=True)
class Job:
    """A part as it is handed over: what to call it, what it asks for, and its kit."""

    name: str
    demand: Demand
    kit: Kit


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the job of a number: `node` has worked on it, or it was `lost` for good with the nodes it was on.

    `lost` is the reason, empty where there is none.
    """

    job: int
    node: str = ""
    worked: Worked | None = None
    lost: str = ""


class Cluster(Protocol):
    """Machines that jobs are spread over."""

    def nodes(self) -> list[Node]:
        """Return the nodes that are there now."""

    def facts(self, nodes: Sequence[Node]) -> list[NodeFacts]:
        """Return what each of the nodes tells of itself.

        Raises:
            UnavailableError: One does not, or has no effvit.
        """

    def measure(self, jobs: Sequence[Job], blobs: Path, allowed: Allowed) -> Generator[Answer, None, None]:
        """Yield an answer for every job as they come; whoever closes the iterator cancels what is left.

        The files of the kits lie in the folder `blobs`. A job whose node is lost is given to another one, within
        limits. No two run on a node at the same time, by what they demand.

        Raises:
            UnavailableError: The cluster is gone.
        """


@dataclass(frozen=True, slots=True)
class ClusterSweep:
    """The cells of a plan on a cluster; backends that the plan does not name are those that the nodes have."""

    cluster: Cluster
    packing: Packing
    allowed: Allowed
    listener: Listener

    def run(self, results: Path) -> list[Outcome]:
        """Measure what `results` does not hold from these nodes yet, and return the outcomes of all cells.

        Outcomes are appended to `results` as parts come back, all of a part or none.

        Raises:
            UsageError: Cells that cannot be.
            UnavailableError: No node has a device, or one lacks a runtime or effvit; the cluster is gone.
            CellsFailedError: Parts were lost with their nodes again and again; all others are on disk.
            EffvitError: Whatever packing raises, or a node ended with.
        """
        _check(self.packing.plan)
        nodes = self.cluster.nodes()
        members = self._members(nodes)
        plan = replace(self.packing.plan, backends=_backends(self.packing.plan, members))
        known = kept_outcomes(
            results,
            dict.fromkeys(member.facts.environment for member in members),
            retry_failed=self.allowed.retry_failed,
            allow_fallback=self.allowed.fallback,
        )
        cells = [group.cell(run).key for group in plan.groups() for run in plan.runs]
        self.listener.planned(len(cells))
        done = {outcome.cell.key: outcome for outcome in known if outcome.cell.key in set(cells)}
        for outcome in done.values():
            self.listener.outcome(outcome, measured_now=False)
        parts = missing_parts(plan, done)
        if parts:
            for text in remarks(members):
                self.packing.stage(text)
            done |= self._measured(parts, nodes, results)
        return [done[key] for key in cells]

    def _members(self, nodes: Sequence[Node]) -> list[Member]:
        """Return the nodes that have a device of the plan, and what they tell."""
        able = list(dict.fromkeys(node for device in self.packing.plan.devices for node in able_nodes(device, nodes)))
        self.packing.stage("asking the nodes what they have")
        members = [Member(node, facts) for node, facts in zip(able, self.cluster.facts(able), strict=True)]
        for member in members:
            check_code(member)
        return members

    def _measured(self, parts: Sequence[Part], nodes: Sequence[Node], results: Path) -> dict[str, Outcome]:
        demands = [demand_of(part.group.device, nodes) for part in parts]
        with tempfile.TemporaryDirectory(prefix="effvit-kit-") as temporary:
            blobs = Path(temporary)
            # All of them before the first is measured: what makes artifacts may run on a node that measures.
            kit = collect(replace(self.packing, plan=plan_of(parts, self.packing.plan)), blobs)
            jobs = [Job(str(part.group), demand, cut(kit, part)) for demand, part in zip(demands, parts, strict=True)]
            return self._stored(jobs, blobs, results)

    def _stored(self, jobs: Sequence[Job], blobs: Path, results: Path) -> dict[str, Outcome]:
        """Store and return the outcomes of all jobs by the keys of their cells."""
        found: dict[str, Outcome] = {}
        lost: list[str] = []
        by_node: Counter[str] = Counter()
        self.listener.stage(_progress(by_node, len(jobs)))
        with closing(self.cluster.measure(jobs, blobs, self.allowed)) as answers:
            for number, answer in enumerate(answers, start=1):
                if answer.worked is None:
                    lost.append(answer.lost)
                    continue
                outcomes = [decode(line, f"an outcome from {answer.node}") for line in answer.worked.lines]
                with uninterrupted():  # all of them or none: their ratios need rounds in common
                    for outcome in outcomes:
                        append(results, outcome)
                for outcome in outcomes:
                    found[outcome.cell.key] = outcome
                    self.listener.outcome(outcome, measured_now=True)
                if answer.worked.ended.code:
                    raise error_of(answer.node, answer.worked.ended)
                by_node[answer.node] += len(outcomes)
                self.listener.stage(_progress(by_node, len(jobs) - number))
        if lost:
            raise CellsFailedError(
                f"{len(lost)} of {len(jobs)} groups of cells were lost with every node that had them: {lost[0]}",
                "the others are in the result file, and the same command tries these again",
            )
        return found


def _progress(by_node: Counter[str], left: int) -> str:
    counts = [f"{node}: {count} cells" for node, count in sorted(by_node.items())]
    return ", ".join([*counts, f"{left} groups left"])


def _backends(plan: Plan, members: Sequence[Member]) -> tuple[str, ...]:
    nodes = [member.node for member in members]
    found: list[str] = []
    for device in plan.devices:
        able = able_nodes(device, nodes)
        found += runtimes_for(device, plan.backends, [member for member in members if member.node in able])
    return plan.backends or tuple(dict.fromkeys(found))


def _check(plan: Plan) -> None:
    """Check what can be known before anything is made.

    Raises:
        UnsupportedError: A backend whose artifacts cannot be carried.
        UsageError: Cells that cannot be.
    """
    plan.check_cells()
    for backend in map(pick_backend, plan.backends):
        if backend.device_bound:
            raise UnsupportedError(
                f"the engines of {backend.name} are of use on the machine alone that builds them",
                "run `effvit profile` there, or choose a backend whose artifacts can be carried",
            )
