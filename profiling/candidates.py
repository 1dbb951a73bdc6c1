"""Choices under constraints, where every number has its doubt. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from effvit.profiling.records import Cell
from effvit.profiling.stats import Estimate

State = Literal["satisfied", "perhaps", "not", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """What a candidate has of what is limited: at most `most`; `value` is None where it was not measured.

    `rounds` or `images` is how many of these the interval rests on, None where it is not made of them.
    """

    name: str
    most: float
    value: Estimate | None
    note: str = ""
    rounds: int | None = None
    images: int | None = None

    @property
    def met(self) -> bool:
        """Whether the best estimate is within the limit."""
        return self.value is not None and self.value.value <= self.most

    @property
    def state(self) -> State:
        """What the interval says; without an interval, what the value says."""
        if self.value is None:
            return "unknown"
        low, high = self.value.low, self.value.high
        if low is None or high is None:
            return "satisfied" if self.met else "not"
        return "satisfied" if high <= self.most else "not" if low > self.most else "perhaps"

    @property
    def excess(self) -> float:
        """By how much it lies beyond the limit: as a share of it, or for a drop of accuracy as it is; 0 within."""
        if self.value is None or self.met:
            return 0.0
        over = self.value.value - self.most
        return over if self.name == DROP else over / self.most


DROP = "drop"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A measured cell; `merit` is the objective, the larger the better: what is to be small comes as its inverse."""

    label: str
    cell: Cell
    run: str
    value: Estimate
    merit: float
    checks: tuple[Check, ...]

    @property
    def met(self) -> bool:
        """Whether every best estimate is within its limit."""
        return all(check.met for check in self.checks)

    @property
    def certain(self) -> bool:
        """Whether every limit is kept beyond doubt."""
        return all(check.state == "satisfied" for check in self.checks)

    @property
    def excess(self) -> float:
        """The largest excess over any limit."""
        return max((check.excess for check in self.checks), default=0.0)

    def but(self, name: str) -> bool:
        """Return whether every limit but the one called `name` is kept, and that one is known not to be."""
        others = all(check.met for check in self.checks if check.name != name)
        return others and any(check.name == name and check.value is not None and not check.met for check in self.checks)

    def check(self, name: str) -> Check:
        """Return the check called `name`."""
        return next(check for check in self.checks if check.name == name)


@dataclass(frozen=True, slots=True)
class Relaxation:
    """The smallest step of one limit that buys something: to `needed`, for `candidate`.

    `gain` is by which share the objective becomes better, None where nothing satisfied before. `most_gain` is what
    would come of doing without the limit.
    """

    name: str
    needed: float
    candidate: Candidate
    gain: float | None
    most_gain: float | None


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate with the highest merit, the first of equals."""
    return max(candidates, key=lambda candidate: candidate.merit, default=None)


def relaxations(candidates: Sequence[Candidate], choice: Candidate | None) -> list[Relaxation]:
    """Return for each limit the least that it has to give way by for something better than `choice`, if it can.

    They come in the order of what doing without the limit would buy: the first is the binding one.
    """
    names = dict.fromkeys(check.name for candidate in candidates for check in candidate.checks)
    found = []
    for name in names:
        kept_out = [one for one in candidates if one.but(name) and (choice is None or one.merit > choice.merit)]
        if not kept_out:
            continue
        nearest = min(kept_out, key=lambda one: (_value(one, name), -one.merit))
        most = max(one.merit for one in kept_out)
        found.append(
            Relaxation(name, _value(nearest, name), nearest, _gain(nearest.merit, choice), _gain(most, choice))
        )
    return sorted(found, key=lambda one: -(one.most_gain or 0.0))


def nearest_miss(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return the candidate whose largest excess is the smallest, among those that lack no number."""
    known = [one for one in candidates if all(check.value is not None for check in one.checks)]
    return min(known, key=lambda one: (one.excess, -one.merit), default=None)


def more_needed(count: int, half_width: float, gap: float) -> int | None:
    """Return how many more rounds or images make an interval as narrow as `gap`; None where no number does.

    Intervals become narrower with the root of the count, and a little faster where few rounds make them.
    """
    if gap == 0:
        return None
    return max(1, round(count * ((half_width / gap) ** 2 - 1)))


def _value(candidate: Candidate, name: str) -> float:
    value = candidate.check(name).value
    assert value is not None
    return value.value


def _gain(merit: float, choice: Candidate | None) -> float | None:
    return None if choice is None else merit / choice.merit - 1
