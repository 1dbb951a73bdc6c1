"""What heat, and want of power, did to a cell over all its rounds. Functions of the evidence."""

from __future__ import annotations

from dataclasses import dataclass

from effvit.profiling.disturbance import Conditions, gpu_held_back, held_back
from effvit.profiling.records import Evidence


@dataclass(frozen=True, slots=True)
class Heat:
    """A cell's rounds, those that are left out included; None: no round tells.

    In degrees Celsius, `start_c` is the temperature before the first warm-up and `peak_c` the highest that was seen, by
    `sensor`. `lowest_hz` is the lowest clock of the fastest cores, `power_w` the mean power of the board's supply.
    `slowed` of the `rounds` were slowed down, for these `reasons`, each once.
    """

    start_c: float | None
    peak_c: float | None
    lowest_hz: float | None
    power_w: float | None
    slowed: int | None
    rounds: int
    reasons: tuple[str, ...] = ()
    sensor: str = ""

    def __str__(self) -> str:
        """Return what slowed it down, as half a sentence: `slowed down in 3 of 9 rounds, at up to 84 °C: ...`."""
        if not self.slowed:
            return ""
        hot = "" if self.peak_c is None else f", at up to {self.peak_c:.0f} °C"
        return f"slowed down in {self.slowed} of {self.rounds} rounds{hot}: {'; '.join(self.reasons)}"


def heat_of(evidence: Evidence) -> Heat:
    """Return what the rounds of a cell tell; of a file that says nothing of them, nothing."""
    rounds = [turn.conditions for turn in evidence.turns]
    boards = [one.board for one in rounds if one.board is not None]
    starts = [one.start_c for one in boards if one.start_c is not None]
    ends = [(one.end_c, one.sensor) for one in boards if one.end_c is not None]
    powers = [one.power_w for one in boards if one.power_w is not None]
    reasons = [reason for one in rounds if (reason := slowed_by(one))]
    return Heat(
        start_c=starts[0] if starts else None,
        peak_c=max([*starts, *(celsius for celsius, _ in ends)], default=None),
        lowest_hz=min((one.lowest_hz for one in rounds if one.lowest_hz is not None), default=None),
        power_w=sum(powers) / len(powers) if powers else None,
        slowed=len(reasons) if any(map(_tells, rounds)) else None,
        rounds=len(rounds),
        reasons=tuple(dict.fromkeys(reasons)),
        sensor=max(ends)[1] if ends else "",
    )


def slowed_by(one: Conditions) -> str:
    """Return what slowed the processor, or the GPU, down in a round; empty if nothing did."""
    # Without the number of times, which is another one every round.
    processor = "heat slowed the processor down" if one.throttled else held_back(one)
    return processor or gpu_held_back(one.gpu, one.wall_s)


def _tells(one: Conditions) -> bool:
    """Return whether a round would say so if something had slowed it down."""
    of_board = one.board is not None and one.board.held_back is not None
    of_gpu = one.gpu is not None and (one.gpu.reasons is not None or one.gpu.heat_s is not None)
    return one.throttled is not None or of_board or of_gpu
