"""What `effvit export` and `effvit inspect` say of ExecuTorch programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effvit.export.program_file import ProgramRecord


def program_summary(path: Path) -> str:
    """Return in a sentence how much of a program XNNPACK runs, and what of the attention it does not."""
    from effvit.export.program_census import program_census

    census = program_census(path)
    taken, left = (sum(one.count for one in counts) for counts in (census.delegated, census.left))
    parts = sum(part.count for part in census.delegates)
    text = f"XNNPACK runs {taken} of {taken + left} nodes, {taken / (taken + left):.1%}, in {parts} parts"
    beside = ", ".join(f"{one.count} {one.name}" for one in census.left)
    attention = "" if census.record is None else leftovers_text(census.record)
    return "; ".join(filter(None, (text, beside and f"left to ExecuTorch's kernels: {beside}", attention)))


def leftovers_text(record: ProgramRecord) -> str:
    """Return which operators of the mechanism fell off the delegate; empty where none did."""
    fallen = [one for one in record.leftovers if one.in_attention]
    if not fallen:
        return ""
    names = ", ".join(f"{one.in_attention} {one.operator}" for one in fallen)
    return f"{record.model.attention} attention falls off the delegate: {names}"
