"""Which outcomes of two sets of result files are of the same cell."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

from effvit.environment import Environment
from effvit.profiling.records import Outcome


@dataclass(frozen=True, slots=True)
class Taken:
    """An outcome and the sitting it belongs to: which file, and the how many-th of its cell in there."""

    sitting: tuple[int, int]
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Pair:
    """What became of one cell before and now, in the order of the sittings; one side may be empty."""

    before: tuple[Taken, ...]
    now: tuple[Taken, ...]

    @property
    def outcome(self) -> Outcome:
        """The latest outcome, which names the cell."""
        return (self.now or self.before)[-1].outcome


_Runs = dict[str, tuple[Taken, ...]]


def pairs(before: Sequence[Sequence[Outcome]], now: Sequence[Sequence[Outcome]]) -> list[Pair]:
    """Return every cell of two sets of files, in the order in which they first appear.

    The weights' hash and the environment do not tell cells apart, because they are what changes; machines do where one
    of the sets has several. Runs that are called the same on both sides belong together, and the last one left on
    either side as well, so that a run may have another name.
    """
    several = any(len(_machines(files)) > 1 for files in (before, now))
    ours, theirs = _by_place(before, several), _by_place(now, several)
    found: list[Pair] = []
    for place in dict.fromkeys([*ours, *theirs]):
        found += _matched(ours.get(place, {}), theirs.get(place, {}))
    return found


def _matched(ours: _Runs, theirs: _Runs) -> list[Pair]:
    alone, new = [run for run in ours if run not in theirs], [run for run in theirs if run not in ours]
    found = [Pair(taken, theirs[run]) for run, taken in ours.items() if run in theirs]
    if len(alone) == len(new) == 1:
        return [*found, Pair(ours[alone[0]], theirs[new[0]])]
    return [*found, *(Pair(ours[run], ()) for run in alone), *(Pair((), theirs[run]) for run in new)]


def _by_place(files: Sequence[Sequence[Outcome]], several_machines: bool) -> Mapping[Hashable, _Runs]:
    found: dict[Hashable, dict[str, list[Taken]]] = defaultdict(lambda: defaultdict(list))
    for number, outcomes in enumerate(files):
        seen: Counter[Hashable] = Counter()
        for outcome in outcomes:
            place = _place(outcome), machine(outcome.environment) if several_machines else None
            found[place][outcome.run].append(Taken((number, seen[place, outcome.run]), outcome))
            seen[place, outcome.run] += 1
    return {place: {run: tuple(taken) for run, taken in runs.items()} for place, runs in found.items()}


def _place(outcome: Outcome) -> Hashable:
    cell = outcome.cell
    return replace(cell, model=replace(cell.model, weights=None)), outcome.data


def machine(environment: Environment) -> tuple[Hashable, ...]:
    """Return the hardware: what stays when software is renewed."""
    return environment.cpu, environment.cores, environment.ram_bytes, environment.gpus


def _machines(files: Sequence[Sequence[Outcome]]) -> set[tuple[Hashable, ...]]:
    return {machine(outcome.environment) for outcomes in files for outcome in outcomes}
