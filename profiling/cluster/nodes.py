"""The nodes of a Ray cluster, and what is asked of Ray so that cells have a machine for themselves. No Ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from effvit import __version__
from effvit.environment import Environment
from effvit.errors import BackendUnavailableError, UnavailableError, UsageError
from effvit.export.base import pick_backend
from effvit.profiling.agent.archive import code_digest
from effvit.profiling.devices import Device

MACHINE = "effvit_cpu"
"""The resource that a node is started with, one of it, to be measured on by one cell at a time."""
START = f"ray start --num-cpus=0 --resources='{{\"{MACHINE}\": 1}}'"


@dataclass(frozen=True, slots=True)
class Node:
    """A node as Ray knows it: what it hands out there in all, `machines` of the resource MACHINE."""

    id: str
    name: str
    cpus: float
    gpus: float = 0
    machines: float = 0


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node's Python tells of itself.

    `code` is a hash of the code that measures, `runtimes` are the backends that can run there. Processes of a higher
    `niceness` wait for those of a lower one.
    """

    version: str
    code: str
    environment: Environment
    runtimes: tuple[str, ...]
    niceness: int


@dataclass(frozen=True, slots=True)
class Member:
    """A node that takes part in a sweep, and what it told of itself."""

    node: Node
    facts: NodeFacts


@dataclass(frozen=True, slots=True)
class Demand:
    """What a task asks of Ray; while it has that, no other cells are measured on its node."""

    cpus: float
    gpus: float = 0
    machines: float = 0

    def fits(self, node: Node) -> bool:
        """Return whether a node has what is asked for, once nothing else is there."""
        return node.cpus >= self.cpus and node.gpus >= self.gpus and node.machines >= self.machines


def able_nodes(device: Device, nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes that can be asked for `device`: of those started with MACHINE alone, where there are such.

    Raises:
        UsageError: A GPU by another number than 0: Ray says which one a task gets.
        UnavailableError: There is none.
    """
    if device.index:
        raise UsageError(f"{device} cannot be asked for: Ray hands out GPUs", "write --device cuda")
    marked = [node for node in nodes if node.machines >= 1]
    found = [node for node in marked or nodes if _has(device, node, all_cpus=not marked)]
    if not found:
        where = f" that offers {MACHINE}" if marked else ""
        raise UnavailableError(
            f"no node of the cluster{where} has {device}: {_offers(nodes)}", "start one that has it, with `ray start`"
        )
    return found


def demand_of(device: Device, nodes: Sequence[Node]) -> Demand:
    """Return what a task asks of Ray to have `device`, and the machine around it, for itself.

    That is one MACHINE where nodes were started with it, and otherwise every CPU of a node.

    Raises:
        As `able_nodes`.
        UnavailableError: Nodes have different numbers of CPUs, and none was started with MACHINE: no number is all CPUs
            of whichever node Ray takes.
        UsageError: A node offers more than one MACHINE.
    """
    able = able_nodes(device, nodes)
    gpus = float(device.kind == "cuda")
    if able[0].machines:
        for node in able:
            if node.machines > 1:
                hint = f"start every node with one: {START}"
                raise UsageError(f"{node.name} offers {node.machines:g} of {MACHINE}, but is one machine", hint)
        return Demand(cpus=device.threads or 0, gpus=gpus, machines=1)
    sizes = sorted({node.cpus for node in able})
    if len(sizes) > 1:
        counts = " and ".join(f"{size:g}" for size in sizes)
        raise UnavailableError(
            f"nodes have {counts} CPUs, so Ray cannot be asked for all of whichever node it takes",
            f"start every node that is to measure with {START}",
        )
    return Demand(cpus=sizes[0], gpus=gpus)


def check_code(member: Member) -> None:
    """Check that a node would measure with the code of here.

    Raises:
        UnavailableError: It has another effvit.
    """
    facts = member.facts
    if facts.code != code_digest():
        raise UnavailableError(
            f"{member.node.name} has effvit {facts.version} of the code {facts.code}, "
            f"and here it is {__version__} of the code {code_digest()}",
            "install the same effvit on every node",
        )


def runtimes_for(device: Device, asked: Sequence[str], members: Sequence[Member]) -> tuple[str, ...]:
    """Return the backends to measure on `device`: of those asked for, or else of all that every member has.

    Raises:
        BackendUnavailableError: A member lacks one that was asked for, or they have none in common.
        UnknownNameError: There is no backend of that name.
    """
    wanted = tuple(name for name in asked if device.kind in pick_backend(name).devices)
    for name in wanted:
        for member in members:
            if name not in member.facts.runtimes:
                raise BackendUnavailableError(f"{member.node.name} has no {name}", pick_backend(name).install)
    if asked:
        return wanted
    everywhere = set.intersection(*(set(member.facts.runtimes) for member in members))
    common = [name for name in members[0].facts.runtimes if name in everywhere]
    fitting = tuple(name for name in common if device.kind in pick_backend(name).devices)
    if not fitting:
        names = " and ".join(member.node.name for member in members)
        raise BackendUnavailableError(f"{names} have no runtime for {device} in common", "install one on every node")
    return fitting


def remarks(members: Sequence[Member]) -> list[str]:
    """Return what one should know of the nodes before one reads their numbers, a sentence each."""
    found = []
    kinds = {member.facts.environment.key for member in members}
    if len(kinds) > 1:
        found.append(
            f"the {len(members)} nodes are {len(kinds)} different machines: what was measured on one does not compare "
            "with what was measured on another"
        )
    nice = [member for member in members if member.facts.niceness > 0]
    if nice:
        names = ", ".join(member.node.name for member in nice)
        found.append(
            f"Ray runs tasks at niceness {max(member.facts.niceness for member in nice)} on {names}: whatever else "
            "runs there goes first; RAY_worker_niceness=0, set where `ray start` is called, changes that"
        )
    return found


def _has(device: Device, node: Node, *, all_cpus: bool) -> bool:
    least = device.threads or (1 if all_cpus else 0)
    return node.cpus >= least and node.gpus >= (device.kind == "cuda")


def _offers(nodes: Sequence[Node]) -> str:
    if not nodes:
        return "it has no node"
    return ", ".join(f"{node.name} has {node.cpus:g} CPUs and {node.gpus:g} GPUs" for node in nodes)
