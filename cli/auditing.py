"""What `effvit data check` shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table

from effvit.audit import Audit, Count, Extent, Repeat
from effvit.cli.tables import plain
from effvit.profiling.report.quantities import ABSENT

_NAMED = 10


def audit_table(audit: Audit) -> Table:
    """Return what is in a data set, and the first few of what is wrong with it."""
    table = plain("", audit.name)
    for name, value in _rows(audit):
        table.add_row(name, value)
    return table


def _rows(audit: Audit) -> Iterator[tuple[str, str]]:
    yield "images", f"{audit.images} in {len(audit.classes)} classes, {audit.size_bytes / 2**20:.1f} MiB"
    train, val = (sum(getattr(count, part) for count in audit.classes) for part in ("train", "val"))
    yield "split", f"{train} to train on, {val} held out"
    yield "balance", _balance(audit)
    yield "width", _extent(audit.width)
    yield "height", _extent(audit.height)
    yield "formats", _kinds(audit.formats)
    yield "modes", _kinds(audit.modes)
    yield "turned by EXIF", str(audit.turned)
    yield "animated", f"{audit.animated}, of which the first frame is taken" if audit.animated else "0"
    yield "other files", _first(audit.others)
    yield "misnamed", _first([f"{file.name} is {file.format}" for file in audit.misnamed])
    yield "unreadable", _first([f"{file.name}: {file.reason}" for file in audit.unreadable])
    within = [repeat for repeat in audit.repeats if not repeat.leaks]
    yield "repeated in a part", _first([_told(repeat) for repeat in within])
    yield "repeated across", _first([_told(repeat) for repeat in audit.leaks])
    torn = [repeat for repeat in audit.repeats if repeat.label != repeat.of_label]
    yield "of two classes", _first([f"{one.image} ({one.label}) as {one.of} ({one.of_label})" for one in torn])


def _balance(audit: Audit) -> str:
    counts = sorted(audit.classes, key=lambda count: count.train)
    if not counts or audit.imbalance is None:
        return ABSENT
    least, most = counts[0], counts[-1]
    return f"{least.train} ({least.name}) to {most.train} ({most.name}) a class to train on, {audit.imbalance:.3g} : 1"


def _extent(extent: Extent | None) -> str:
    return ABSENT if extent is None else f"{extent.least} to {extent.most} px, median {extent.median:g}"


def _kinds(counts: Sequence[Count]) -> str:
    return ", ".join(f"{count.kind} {count.images}" for count in counts) or ABSENT


def _told(repeat: Repeat) -> str:
    how = "the same pixels" if repeat.exact else f"{repeat.bits} bits apart"
    return f"{repeat.image} as {repeat.of}, {how}"


def _first(culprits: Sequence[str]) -> str:
    """Return how many there are and the first of them, a line each."""
    more = [f"and {len(culprits) - _NAMED} more"] if len(culprits) > _NAMED else []
    return "\n".join([str(len(culprits)), *culprits[:_NAMED], *more])
