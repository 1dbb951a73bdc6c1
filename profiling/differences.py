"""What differs around two sets of measurements, beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from effvit.environment import facts
from effvit.profiling.pairing import Pair, machine
from effvit.profiling.records import Calibration, Evidence, Outcome

# Less is what numpy's own rates differ by from one sitting to the next.
_RATE_TOLERANCE = 0.05


@dataclass(frozen=True, slots=True)
class Difference:
    """A fact that is not the same on both sides; empty text where a side does not have it."""

    what: str
    before: str
    now: str


def differences(before: Sequence[Outcome], now: Sequence[Outcome]) -> list[Difference]:
    """Return how the environments differ: machine, software, and the rates that the machine reached itself."""
    ours, theirs = ([dict(facts(one.environment)) for one in side] for side in (before, now))
    names = dict.fromkeys(name for known in (*ours, *theirs) for name in known)
    found = [Difference(name, _values(ours, name), _values(theirs, name)) for name in names]
    return [one for one in found if one.before != one.now] + _rates(before, now)


def changed_files(pairs: Sequence[Pair]) -> list[Difference]:
    """Return in how many cells the weights and the artifacts are not those of before."""
    both = [pair for pair in pairs if pair.before and pair.now]
    weights = sum(_weights(pair.before[-1].outcome) != _weights(pair.now[-1].outcome) for pair in both)
    known = [(_hash(pair.before[-1].outcome), _hash(pair.now[-1].outcome)) for pair in both]
    hashes = [(one, other) for one, other in known if one is not None and other is not None]
    found = []
    if weights:
        found.append(Difference("weights", "", f"others in {weights} of {len(both)} cells"))
    if changed := sum(one != other for one, other in hashes):
        found.append(Difference("artifacts", "", f"others in {changed} of {len(hashes)} cells"))
    return found


def other_machine(before: Sequence[Outcome], now: Sequence[Outcome]) -> bool:
    """Return whether the two sides ran on different hardware."""
    ours, theirs = ({machine(one.environment) for one in side} for side in (before, now))
    return ours != theirs


def _weights(outcome: Outcome) -> str | None:
    return outcome.cell.model.weights


def _hash(outcome: Outcome) -> str | None:
    return outcome.evidence.artifact.sha256 if outcome.evidence else None


_RATES: tuple[tuple[str, Callable[[Calibration], float]], ...] = (
    ("numpy's matrix products a second", lambda calibration: calibration.macs_per_s),
    ("numpy's copied bytes a second", lambda calibration: calibration.bytes_per_s),
)


def _rates(before: Sequence[Outcome], now: Sequence[Outcome]) -> list[Difference]:
    found = []
    for what, rate in _RATES:
        ours, theirs = (_median_rate(side, rate) for side in (before, now))
        if ours is not None and theirs is not None and abs(theirs / ours - 1) > _RATE_TOLERANCE:
            found.append(Difference(what, "", f"{100 * (theirs / ours - 1):+.0f} %"))
    return found


def _median_rate(outcomes: Iterable[Outcome], rate: Callable[[Calibration], float]) -> float | None:
    rates = [rate(one) for outcome in outcomes if (one := _calibration(outcome.evidence)) is not None]
    return median(rates) if rates else None


def _calibration(evidence: Evidence | None) -> Calibration | None:
    if evidence is None or evidence.calibration is None or evidence.calibration.disturbed:
        return None
    return evidence.calibration


def _values(known: Iterable[Mapping[str, str]], name: str) -> str:
    return " | ".join(sorted({text for facts_of_one in known if (text := facts_of_one.get(name, ""))}))
