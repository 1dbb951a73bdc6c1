"""A fine-tuning in a process of its own, to be killed and gone on with."""

from __future__ import annotations

from pathlib import Path

import torch
from models_for_tests import digits

from effvit.finetune import Finetuning, finetune
from effvit.mix import parse_mix
from effvit.resume import resume
from effvit.run import RECORD, open_run

# Everything that draws at random: order, crops, RandAugment, erasing, mixup, cutmix, stochastic depth.
RECIPE = {
    "epochs": 3,
    "batch": 10,
    "crop_scale": (0.5, 1.0),
    "auto_augment": "rand-m9-mstd0.5-mmax9-inc1",
    "random_erasing": 0.25,
    "mixup": 0.2,
    "cutmix": 0.5,
    "drop_path": 0.2,
}
RESOLUTION = (32, 32)
SAVE_EVERY_S = 0.02
"""Some steps: a kill then falls between states, and while one is written."""


def request(attention: str = "linformer", **recipe: object) -> Finetuning:
    return Finetuning(
        parse_mix(attention),
        model="test_vit",
        weights="none",
        resolution=RESOLUTION,
        recipe=RECIPE | recipe,
        device="cpu",
        threads=1,
        workers=0,
        save_every_s=SAVE_EVERY_S,
    )


def go_on(root: Path, asked: Finetuning, images: int = 40) -> None:
    """Begin the run `killed` in `root`, or go on with it."""
    data, folder = digits(train=images), root / "killed"
    torch.set_num_threads(1)
    if not (folder / RECORD).exists():
        finetune(asked, data, out=root, name="killed")
    elif open_run(folder).record.status != "done":
        resume(open_run(folder), asked, data)
