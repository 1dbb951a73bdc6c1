"""What a change may be called: regressed, improved, the same, or none of these for certain.

A metric regressed where it is worse beyond doubt and its interval reaches beyond the limit: where it changed, and by no
less than may be tolerated for all that is known. With the whole interval beyond the limit, most changes of 5 % known to
+-2 % would pass a limit of 3 %; with the best estimate beyond it, 6.5 % of them did where launches are slow now and
then (simulated pairs as in tests/profiling/test_compare.py, one seed), and noise failed where rounds are uneven. A
real change that is smaller than the limit fails as long as the measurement cannot show that it is.

Of many comparisons some stand out by chance: "nothing changed" is rejected for all of them together, after Benjamini
and Hochberg, so that of pairs of files in which nothing changed 2.5 % fail, however many cells they have.

Source:
    Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.stats import false_discovery_control

from effvit.profiling import stats
from effvit.profiling.change import Change
from effvit.profiling.limits import Limit

# Per side: what is called worse is certain to 97.5 %, as by an interval of 95 % that excludes no change.
LEVEL = (1 - stats.CONFIDENCE) / 2
Verdict = Literal[
    "regressed", "failed now", "cannot be told", "missing in B", "improved", "works now", "same", "no limit",
    "missing in A", "failed in both",
]  # fmt: skip
FAILING: tuple[Verdict, ...] = ("regressed", "failed now")


@dataclass(frozen=True, slots=True)
class MetricChange:
    """One metric of one cell, before and now; several sittings give their geometric mean.

    `within` is the largest change that the interval allows, in the unit of `change`; `note` says what the verdict rests
    on where it is not the interval.
    """

    name: str
    before: float | None
    now: float | None
    change: Change | None
    limit: Limit | None = None
    verdict: Verdict = "no limit"
    note: str = ""

    @property
    def within(self) -> float | None:
        """The larger end of the interval, whatever its sign."""
        change = self.change
        return None if change is None or change.low is None or change.high is None else max(-change.low, change.high)


def judged(drafts: Sequence[Sequence[MetricChange]]) -> list[list[MetricChange]]:
    """Return all changes with their verdicts; what stands out is rejected together."""
    at = [(row, column) for row, changes in enumerate(drafts) for column in range(len(changes))]
    open_ = [place for place in at if _can_be_judged(drafts[place[0]][place[1]])]
    chances = [_chance_of_harm(drafts[row][column]) for row, column in open_]
    worse = _rejected(chances)
    better = _rejected([1 - chance for chance in chances])
    found = [list(changes) for changes in drafts]
    for place, (row, column) in enumerate(open_):
        found[row][column] = _verdict(found[row][column], worse[place], better[place])
    return [[_by_value(change) for change in changes] for changes in found]


def _can_be_judged(change: MetricChange) -> bool:
    known = change.change is not None and change.change.chance is not None
    return known and change.limit is not None and change.verdict == "no limit"


def _chance_of_harm(change: MetricChange) -> float:
    """Return the probability of so much harm where nothing changed."""
    chance = change.change.chance if change.change else None
    assert chance is not None
    return chance if change.limit and change.limit.better == "lower" else 1 - chance


def _rejected(chances: Sequence[float]) -> list[bool]:
    return [bool(chance <= LEVEL) for chance in false_discovery_control(chances)] if chances else []


def _verdict(found: MetricChange, worse: bool, better: bool) -> MetricChange:
    limit, change = found.limit, found.change
    if limit is None or change is None or change.low is None or change.high is None:
        return found
    ends = limit.harm(change.low), limit.harm(change.high)
    if worse and max(ends) > limit.most:
        return replace(found, verdict="regressed")
    if better and min(ends) < -limit.most:
        return replace(found, verdict="improved")
    if abs(limit.harm(change.value)) > limit.most and min(ends) * max(ends) > 0:
        return replace(found, verdict="cannot be told", note="among so many comparisons it stands out by chance")
    if (max(ends) - min(ends)) / 2 > limit.most:
        return replace(found, verdict="cannot be told", note="the interval is wider than the limit")
    return replace(found, verdict="same")


def _by_value(found: MetricChange) -> MetricChange:
    """Return the verdict on a number without doubt: measured once, or counted on the same images."""
    limit, change = found.limit, found.change
    if limit is None or found.verdict != "no limit":
        return found
    if change is None:
        # What neither side has is not compared; what one of them lacks should have been.
        lacking = found.before is None and found.now is None
        return found if lacking else replace(found, verdict="cannot be told")
    harm = limit.harm(change.value)
    # 0.8 - 0.795 is 0.0050000000000000044: a limit is what its digits say.
    if abs(harm) <= limit.most * (1 + 1e-9):
        return replace(found, verdict="same")
    return replace(found, verdict="regressed" if harm > 0 else "improved")
