"""All runs of a folder at a glance, finished or not."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from effvit.claim import is_claimed
from effvit.errors import CheckpointError
from effvit.run import RECORD, Run, open_run
from effvit.state import STATE

Status = Literal["running", "killed", "interrupted", "failed", "done", "damaged"]


@dataclass(frozen=True, slots=True)
class Overview:
    """A run in a few words; what is None is not known of it, and `note` says why.

    `resolution` is (height, width) px, `seconds` what its finished epochs took in all. `status` is `killed` where the
    record says `running` and no process does. `resumable` runs have a saved state to go on from.
    """

    name: str
    status: Status
    resumable: bool
    note: str = ""
    model: str | None = None
    attention: str | None = None
    data: str | None = None
    resolution: tuple[int, int] | None = None
    started: str | None = None
    epochs: int | None = None
    of_epochs: int | None = None
    top1: float | None = None
    balanced_top1: float | None = None
    seconds: float | None = None


def overviews(root: Path) -> list[Overview]:
    """Return every run under `root`, oldest first, damaged ones at the end."""
    folders = sorted(path.parent for path in root.glob(f"*/{RECORD}")) if root.is_dir() else []
    return sorted(map(_overview_in, folders), key=lambda run: (run.started is None, run.started or "", run.name))


def overview_of(run: Run) -> Overview:
    """Return a run at a glance.

    Raises:
        CheckpointError: Its history is damaged.
    """
    record, history = run.record, run.history()
    best, transfer = record.best, record.transfer
    seconds = sum(epoch.train_s + epoch.inference_s for epoch in history)
    seconds += sum(epoch.train_s for epoch in transfer.epochs) if transfer is not None else 0.0
    status: Status = record.status
    if status == "running" and not is_claimed(run.folder):
        status = "killed"
    return Overview(
        name=run.name,
        status=status,
        resumable=status not in ("running", "done") and (run.folder / STATE).is_file(),
        model=record.spec.backbone,
        attention=record.spec.attention,
        data=record.data.name,
        resolution=record.spec.trained,
        started=record.started,
        epochs=len(history),
        of_epochs=record.recipe.epochs,
        top1=None if best is None else best.top1,
        balanced_top1=None if best is None else best.balanced_top1,
        note="no epoch is finished" if best is None else "",
        seconds=seconds,
    )


def _overview_in(folder: Path) -> Overview:
    try:
        return overview_of(open_run(folder))
    except CheckpointError as error:
        return Overview(folder.name, "damaged", resumable=False, note=error.message)
