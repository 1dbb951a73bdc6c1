"""The numbers of a cell in the sittings that it was measured in, and the noise floor that they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from effvit.profiling import stats
from effvit.profiling.change import Floor, Spread, estimated_floor, spread
from effvit.profiling.limits import in_points
from effvit.profiling.metrics.base import Reading, readings_of
from effvit.profiling.pairing import Pair, Taken
from effvit.profiling.records import Evidence
from effvit.profiling.stats import Estimate


@dataclass(frozen=True, slots=True)
class NamedFloor:
    """The noise floor of one metric on one device."""

    name: str
    device: str
    floor: Floor


def measured(taken: Sequence[Taken]) -> list[Evidence]:
    """Return the evidence that counts: of stable sittings where there is one."""
    stable = [one.outcome.evidence for one in taken if one.outcome.evidence and one.outcome.status != "unstable"]
    return stable or [one.outcome.evidence for one in taken if one.outcome.evidence]


def spreads(name: str, taken: Sequence[Taken]) -> list[Spread]:
    """Return the spreads of a metric whose intervals are those of its logarithm; nothing of the others."""
    if in_points(name):
        return []
    return [known for evidence in measured(taken) if (known := spread_of(evidence, name)) is not None]


def spread_of(evidence: Evidence, name: str) -> Spread | None:
    """Return the spread of a positive reading whose interval is that of its logarithm; None without an interval."""
    reading = reading_of(evidence, name)
    if reading.value is None or reading.value <= 0:
        return None
    return spread(Estimate(reading.value, reading.low, reading.high), _freedom(name, evidence))


def _freedom(name: str, evidence: Evidence) -> int:
    """Return the degrees of freedom of an interval: one less than the rounds, or the blocks, that it is made of."""
    if name.startswith("latency_s."):
        return len(set(stats.counted(evidence.samples).rounds)) - 1
    blocks = evidence.throughput
    return len([number for number in range(len(blocks.blocks)) if number not in blocks.left_out]) - 1


def reading_of(evidence: Evidence, name: str) -> Reading:
    """Return the reading called `name`, one without a value where there is none."""
    found = (reading for reading in readings_of(evidence, name.split(".")[0]) if reading.name == name)
    return next(found, Reading(name, None, note="not measured"))


def noise_floors(found: Sequence[Pair], names: Sequence[str], given: Floor | None) -> list[NamedFloor]:
    """Return the floors of every metric with intervals on every device: what is given, or what repeated cells show."""
    devices = list(dict.fromkeys(str(pair.outcome.cell.device) for pair in found))
    floors = []
    for device in devices:
        of_device = [pair for pair in found if str(pair.outcome.cell.device) == device]
        for name in names:
            sides = [side for pair in of_device for side in (pair.before, pair.now)]
            floor = given if given is not None else estimated_floor(_repeated(name, sides))
            if floor is not None and any(spreads(name, side) for side in sides):
                floors.append(NamedFloor(name, device, floor))
    return floors


def _repeated(name: str, sides: Sequence[Sequence[Taken]]) -> list[list[Spread]]:
    """Return the spreads of the cells that share the most common set of two sittings or more: one list a sitting."""
    known = [(tuple(one.sitting for one in side if one.outcome.status == "ok"), side) for side in sides]
    repeated = [(sittings, spreads(name, side)) for sittings, side in known if len(sittings) >= 2]
    complete = [(sittings, cells) for sittings, cells in repeated if len(sittings) == len(cells)]
    if not complete:
        return []
    commonest = Counter(sittings for sittings, _ in complete).most_common(1)[0][0]
    table = [cells for sittings, cells in complete if sittings == commonest]
    return [list(sitting) for sitting in zip(*table, strict=True)]
