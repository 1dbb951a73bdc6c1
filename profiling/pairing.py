"""Which outcomes of two sets of result files are of the same cell."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
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
    of the sets has several, and of those that are alike if the same ones are in both. Runs that are called the same on
    both sides belong together, and the last one left on either side as well, so that a run may have another name.
    """
    which = _one_of_alike if _the_same_of_alike(before, now) else machine
    several = any(len({which(one) for one in _environments(files)}) > 1 for files in (before, now))
    ours, theirs = (_by_place(files, which if several else None) for files in (before, now))
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


def _by_place(
    files: Sequence[Sequence[Outcome]], which: Callable[[Environment], Hashable] | None
) -> Mapping[Hashable, _Runs]:
    found: dict[Hashable, dict[str, list[Taken]]] = defaultdict(lambda: defaultdict(list))
    for number, outcomes in enumerate(files):
        seen: Counter[Hashable] = Counter()
        for outcome in outcomes:
            place = _place(outcome), None if which is None else which(outcome.environment)
            found[place][outcome.run].append(Taken((number, seen[place, outcome.run]), outcome))
            seen[place, outcome.run] += 1
    return {place: {run: tuple(taken) for run, taken in runs.items()} for place, runs in found.items()}


def _place(outcome: Outcome) -> Hashable:
    cell = outcome.cell
    return replace(cell, model=replace(cell.model, weights=None)), outcome.data


def machine(environment: Environment) -> tuple[Hashable, ...]:
    """Return the hardware: what stays when software is renewed."""
    return environment.cpu, environment.cores, environment.ram_bytes, environment.gpus


def _one_of_alike(environment: Environment) -> tuple[Hashable, ...]:
    return *machine(environment), _known_as(environment)


def _known_as(environment: Environment) -> str:
    return "" if environment.hardware is None else environment.hardware.known_as


def _the_same_of_alike(before: Sequence[Sequence[Outcome]], now: Sequence[Sequence[Outcome]]) -> bool:
    """Return whether one side has no machine that the other has not: those of a test farm are new every time."""
    ours, theirs = ({_known_as(one) for one in _environments(files)} for files in (before, now))
    return "" not in ours | theirs and (ours <= theirs or theirs <= ours)


def _environments(files: Sequence[Sequence[Outcome]]) -> list[Environment]:
    return [outcome.environment for outcomes in files for outcome in outcomes]
