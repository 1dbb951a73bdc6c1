"""What counts as a regression, as it is written: `latency_p50>+3%`, `top1<-0.5`."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from effvit.errors import UnknownNameError, UsageError
from effvit.profiling.metrics.base import metrics

ALIASES = (
    ("latency_p50", "latency_s.p50"),
    ("latency_p90", "latency_s.p90"),
    ("latency_p95", "latency_s.p95"),
    ("latency_p99", "latency_s.p99"),
    ("throughput", "throughput.images_per_s"),
    ("memory", "memory.host_peak_bytes"),
    ("top1", "accuracy.top1"),
    ("top5", "accuracy.top5"),
    ("balanced_top1", "accuracy.balanced_top1"),
    ("size", "artifact.size_bytes"),
    ("energy", "energy.cpu_gross_j"),
)
DEFAULT_LIMITS = ("latency_p50>+3%", "throughput<-3%", "memory>+5%", "top1<-0.5")
_FORM = re.compile(r"\s*([a-z0-9_.]+)\s*([<>])\s*([+-]?)([0-9]{1,6}(?:\.[0-9]{1,6})?)\s*(%|points?)?\s*")
_EXAMPLE = 'write --fail-on "latency_p50>+3%" or --fail-on "top1<-0.5"'


@dataclass(frozen=True, slots=True)
class Limit:
    """By how much a metric may become worse: a share of what it was, or for accuracy a difference of shares."""

    name: str
    most: float
    better: Literal["lower", "higher"]

    @property
    def in_points(self) -> bool:
        """Whether it limits a difference of shares."""
        return in_points(self.name)

    @property
    def text(self) -> str:
        """What `limit_from_text` reads: `latency_p50>+3%`."""
        sign = ">+" if self.better == "lower" else "<-"
        return f"{alias(self.name)}{sign}{100 * self.most:g}{'' if self.in_points else '%'}"

    def harm(self, change: float) -> float:
        """Return by how much a change makes things worse; negative where it makes them better."""
        return change if self.better == "lower" else -change


def limit_from_text(text: str, known: Collection[str]) -> Limit:
    """Return the limit that a text means; `known` are the full names of what was measured.

    Raises:
        UnknownNameError: No such metric was measured.
        UsageError: Not of the form METRIC>+N% or METRIC<-N, a unit that the metric does not have, or a limit to its
            becoming better.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"{text!r} is not a limit", _EXAMPLE)
    called, sign, direction, number, unit = match.groups()
    name = metric_name(called, known)
    better = metrics()[name.split(".")[0]].better
    worse = ">" if better == "lower" else "<"
    signed = f"{called}{worse}{'+' if worse == '>' else '-'}{number}{'' if in_points(name) else '%'}"
    if sign != worse:
        raise UsageError(f"{text!r} would fail where {called} becomes better", f'write --fail-on "{signed}"')
    if direction != ("+" if worse == ">" else "-"):
        raise UsageError(f"{text!r} does not limit a change of {called}", f'write --fail-on "{signed}"')
    if in_points(name) and unit == "%":
        raise UsageError(f"{called} changes by points, not by per cent", f'write --fail-on "{signed}"')
    if not in_points(name) and unit != "%":
        raise UsageError(f"{text!r} does not say per cent of what {called} was", f'write --fail-on "{signed}"')
    return Limit(name, float(number) / 100, better)


def metric_name(called: str, known: Collection[str]) -> str:
    """Return the full name of a metric that is called by it or by its alias.

    Raises:
        UnknownNameError: No such metric was measured.
    """
    full = dict(ALIASES).get(called, called)
    if full not in known:
        aliases = [short for short, name in ALIASES if name in known]
        raise UnknownNameError("metric", called, {*known, *aliases})
    return full


def alias(name: str) -> str:
    """Return what a metric is called for short, or its name."""
    return next((short for short, full in ALIASES if full == name), name)


def in_points(name: str) -> bool:
    """Return whether changes of the metric called `name` are differences of shares, as those of accuracy are."""
    return name.startswith("accuracy.")


def share_from_text(text: str, option: str) -> float:
    """Return the share that `2%` means; a number alone is per cent as well.

    Raises:
        UsageError: Not a percentage, below 0, or 100 and more.
    """
    match = re.fullmatch(r"\s*([0-9]{1,3}(?:\.[0-9]{1,9})?)\s*%?\s*", text)
    share = math.nan if match is None else float(match[1]) / 100
    if not share < 1:
        raise UsageError(f"{text!r} is not a percentage below 100", f"write {option} 2%")
    return share
