"""Which choices no other choice beats."""

from __future__ import annotations

from collections.abc import Sequence


def front(gains: Sequence[float | None], costs: Sequence[float | None]) -> tuple[bool, ...]:
    """Return which points nothing dominates: no other has as much gain at no more cost and is better in one of them.

    Points that lack either number are never on the front. Equal points stand or fall together.
    """
    points = [
        (gain, cost) if gain is not None and cost is not None else None for gain, cost in zip(gains, costs, strict=True)
    ]
    known = [point for point in points if point is not None]
    return tuple(point is not None and not any(_dominates(other, point) for other in known) for point in points)


def _dominates(other: tuple[float, float], point: tuple[float, float]) -> bool:
    return other[0] >= point[0] and other[1] <= point[1] and other != point
