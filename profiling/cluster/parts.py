"""A sweep in parts, each of which one node measures: what is compared within rounds stays on one machine. No Ray."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from effvit.profiling.agent.kit import Kit
from effvit.profiling.plan import Group, Plan
from effvit.run import Run


@dataclass(frozen=True, slots=True)
class Part:
    """Cells that differ in the run alone: they take turns in the same rounds."""

    group: Group
    runs: tuple[Run, ...]


def missing_parts(plan: Plan, known: Collection[str]) -> list[Part]:
    """Return what of a plan is left to be measured; `known` are the keys of cells that were."""
    parts = []
    for group in plan.groups():
        runs = tuple(run for run in plan.runs if group.cell(run).key not in known)
        if runs:
            parts.append(Part(group, runs))
    return parts


def plan_of(parts: Collection[Part], plan: Plan) -> Plan:
    """Return `plan` without the values of its axes that no part has."""
    groups = [part.group for part in parts]
    return replace(
        plan,
        runs=tuple(run for run in plan.runs if any(run in part.runs for part in parts)),
        resolutions=tuple(dict.fromkeys((group.workload.height, group.workload.width) for group in groups)),
        batches=tuple(dict.fromkeys(group.workload.batch for group in groups)),
        precisions=tuple(dict.fromkeys(group.precision for group in groups)),
        backends=tuple(dict.fromkeys(group.backend.name for group in groups)),
        devices=tuple(dict.fromkeys(group.device for group in groups)),
    )


def cut(kit: Kit, part: Part) -> Kit:
    """Return the kit of one part: of the files of `kit` it names those alone that the part's cells need."""
    group, work = part.group, part.group.workload
    names = {run.name for run in part.runs}
    size = (work.height, work.width)
    return replace(
        kit,
        runs=tuple(run for run in kit.runs if run.name in names),
        resolutions=(size,),
        batches=(work.batch,),
        precisions=(group.precision,),
        backends=(group.backend.name,),
        devices=(group.device,),
        artifacts=tuple(
            one
            for one in kit.artifacts
            if one.run in names
            and (one.backend, one.precision, one.height, one.width) == (group.backend.name, group.precision, *size)
        ),
        images=tuple(one for one in kit.images if one.run in names and (one.height, one.width) == size),
    )
