"""The data of a page to take away: compressed, and reduced where a page could not hold it."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from effvit.profiling import results
from effvit.profiling.records import DeviceTimes, Evidence, Outcome, Samples

# With the drawing library and the tables of 2,000 cells, a page stays under 5 MB.
MOST_BYTES = 2_000_000
REDUCED = "reduced for the report: one median a round stands for its launches"


@dataclass(frozen=True, slots=True)
class Download:
    """A file inside the page: gzip in base64."""

    name: str
    content: str


def result_file(outcomes: Sequence[Outcome]) -> tuple[Download, bool]:
    """Return the outcomes as a result file, and whether it is reduced; both kinds are read by `effvit report`.

    Reduced, each round is represented by the median of its launches, from which the same speed-ups follow.
    """
    whole = _compressed("results.jsonl", _lines(outcomes))
    if len(whole.content) <= MOST_BYTES:
        return whole, False
    return _compressed("results-reduced.jsonl", _lines([reduced(outcome) for outcome in outcomes])), True


def table_file(csv_text: str) -> Download:
    """Return the table of all cells as CSV."""
    return _compressed("report.csv", csv_text.encode())


def reduced(outcome: Outcome) -> Outcome:
    """Return the outcome with one median a round for its launches, and without what the machine did beside them."""
    evidence = outcome.evidence
    if evidence is None:
        return outcome
    less = replace(evidence, samples=_round_medians(evidence.samples), turns=(), device_times=_medians(evidence))
    return replace(outcome, evidence=less, notes=(*outcome.notes, REDUCED))


def _round_medians(samples: Samples) -> Samples:
    rounds, seconds = np.array(samples.rounds), np.array(samples.seconds)
    numbers = np.unique(rounds)
    medians = tuple(float(np.median(seconds[rounds == number])) for number in numbers)
    return replace(samples, seconds=medians, rounds=tuple(int(number) for number in numbers))


def _medians(evidence: Evidence) -> DeviceTimes | None:
    times = evidence.device_times
    if times is None or not times.end_to_end_s:
        return times
    return replace(
        times,
        enqueue_s=_median(times.enqueue_s),
        host_to_device_s=_median(times.host_to_device_s),
        compute_s=_median(times.compute_s),
        device_to_host_s=_median(times.device_to_host_s),
        end_to_end_s=_median(times.end_to_end_s),
    )


def _median(seconds: Sequence[float]) -> tuple[float]:
    return (float(np.median(seconds)),)


def _lines(outcomes: Sequence[Outcome]) -> bytes:
    return b"".join(results.encode(outcome) + b"\n" for outcome in outcomes)


def _compressed(name: str, content: bytes) -> Download:
    # Without the time, so that the same outcomes make the same page.
    return Download(name, base64.b64encode(gzip.compress(content, mtime=0)).decode())
