"""Runs that were fine-tuned on the digits as a user would: an exact model first, and every other variant from it."""

from __future__ import annotations

from pathlib import Path

from effvit.data.base import load_data
from effvit.finetune import Finetuning, finetune
from effvit.mix import parse_mix
from effvit.run import Run
from effvit.runs import find_runs
from effvit.spec import BASELINE

# Six by six patches: room for pooling, windows and merging, and half a minute a variant on one core.
PX, PATCH = 48, 8
EXACT = {"epochs": 20}
TAUGHT = {"epochs": 4, "transfer_epochs": 1, "warmup_epochs": 0}


def trained_run(root: Path, attention: str, threads: int = 1) -> Run:
    """Return the run of a variant in `root`, trained now unless it was before."""
    for run in find_runs(root):
        if run.record.spec.attention == attention and run.record.status == "done":
            return run
    if attention == BASELINE:
        request = Finetuning(
            parse_mix(attention),
            model="test_vit",
            weights="none",
            resolution=(PX, PX),
            patch=PATCH,
            recipe=EXACT,
            threads=threads,
            workers=0,
        )
    else:
        teacher = trained_run(root, BASELINE, threads)
        request = Finetuning(parse_mix(attention), teacher=teacher.folder, recipe=TAUGHT, threads=threads, workers=0)
    return finetune(request, load_data("digits"), out=root)
