"""What crossovers say, in words and as a table."""

from __future__ import annotations

from collections.abc import Sequence

from effvit.profiling.crossover import Crossover, Way
from effvit.profiling.report import quantities
from effvit.spec import BASELINE

TITLES = (
    "attention",
    "faster from",
    "95 % interval",
    "measured",
    "faster at",
    "undecided at",
    "slower at",
    "located by",
)


def sentences(found: Sequence[Crossover]) -> tuple[str, ...]:
    """Return what the crossovers of one context say: one sentence for each kind of answer that there is."""
    everywhere = [one for one in found if one.start == one.smallest_px]
    somewhere = [one for one in found if one.start is not None and one not in everywhere]
    nowhere = [one for one in found if one.start is None]
    said = []
    if everywhere:
        smallest = _px(everywhere[0].smallest_px)
        named = _listed([f"{one.label}{_doubt_everywhere(one)}" for one in everywhere])
        said.append(f"Faster than {BASELINE} from the smallest measured resolution on, {smallest}: {named}.")
    if somewhere:
        ordered = sorted(somewhere, key=lambda one: one.start or 0)
        named = _listed([f"{one.label} from about {_px(one.start or 0)} on ({interval(one)})" for one in ordered])
        said.append(f"Faster than {BASELINE} from a resolution on: {named}.")
    if nowhere:
        largest = _px(nowhere[0].largest_px)
        named = _listed([f"{one.label}{_doubt_nowhere(one)}" for one in nowhere])
        said.append(f"Never faster than {BASELINE} on this device up to {largest}, the largest measured: {named}.")
    return tuple(said)


def line(one: Crossover) -> tuple[str, ...]:
    """Return the crossover as texts under `TITLES`."""
    places = [_sides(one, way) for way in ("faster", "undecided", "slower")]
    how = "fit over tokens and batch" if one.fitted else "interpolation"
    located = quantities.ABSENT if one.bracket is None else f"{how}, {one.bracket[0]:.0f} to {one.bracket[1]:.0f} px"
    return (one.label, answer(one), interval(one), f"{one.smallest_px:.0f} to {_px(one.largest_px)}", *places, located)


def _sides(one: Crossover, way: Way) -> str:
    return ", ".join(f"{each.side_px:.0f}" for each in one.measured if each.way == way) or quantities.ABSENT


def answer(one: Crossover) -> str:
    """Return from where on the variant is faster: `about 410 px`, `224 px, the smallest`, `not up to 1024 px`."""
    if one.start is None:
        return f"not up to {_px(one.largest_px)}"
    if one.start == one.smallest_px:
        return f"{_px(one.smallest_px)}, the smallest"
    return f"about {_px(one.start)}"


def interval(one: Crossover) -> str:
    """Return the 95 % interval of the answer in words; without an upper end it reaches beyond what was measured."""
    if one.low is None:
        return "beyond doubt"
    if one.high is None:
        return f"{_px(one.low)}, or not up to {_px(one.largest_px)}"
    if one.low == one.high == one.smallest_px:
        return "beyond doubt"
    return f"{one.low:.0f} to {_px(one.high)}"


def _doubt_everywhere(one: Crossover) -> str:
    if one.certain:
        return ""
    return " (not certain at any)" if one.high is None else f" (certain from {_px(one.high)} on)"


def _doubt_nowhere(one: Crossover) -> str:
    """Return where it perhaps does become faster, and where it was, though not at the largest."""
    doubts = []
    if one.low is not None:
        doubts.append(f"perhaps from {_px(one.low)} on")
    faster = [_px(each.side_px) for each in one.measured if each.way == "faster"]
    if faster:
        doubts.append(f"though it is at {_listed(faster)}")
    return f" ({'; '.join(doubts)})" if doubts else ""


def _px(side: float) -> str:
    return f"{side:.0f} px"


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
