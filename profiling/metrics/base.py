"""What a metric is: a value that reads one family of numbers from the evidence of a cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal

from effvit.profiling.records import Evidence
from effvit.registry import discover


@dataclass(frozen=True, slots=True)
class Reading:
    """A named number in SI units or a plain count, with its 95 % interval where the data support one.

    `value` is None where the number is not available, and `note` says why.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class Metric:
    """A family of readings in one unit; the names of its readings start with `name` and a dot.

    `measure` returns the same names in the same order for any evidence: a gap is a reading without a value.
    """

    name: str
    unit: str
    better: Literal["lower", "higher"]
    summary: str
    measure: Callable[[Evidence], tuple[Reading, ...]]


@cache
def metrics() -> Mapping[str, Metric]:
    """Return every metric by name."""
    return discover("effvit.profiling.metrics", "METRIC", Metric)


@lru_cache(maxsize=4096)
def readings_of(evidence: Evidence, family: str) -> tuple[Reading, ...]:
    """Return the readings of the metric called `family`; nothing of one that there is not."""
    metric = metrics().get(family)
    return metric.measure(evidence) if metric is not None else ()
