"""Training beside timm's own script: same model, images, batch, augmentation, precision and workers.

`python tests/benchmarks/finetune_beside_timm.py TRAIN_PY DATA`: TRAIN_PY is train.py of a checkout of
https://github.com/huggingface/pytorch-image-models, DATA a folder with train/ and val/ and a sub-folder for each class.

Each turn is a process of its own that trains from random weights and is then validated. Turns alternate, and change
their order from round to round. What counts is the last epoch, as each program itself tells it: images over the time
from the epoch's first batch being asked for to its last step. Memory is that of the process with all its workers,
where shared pages count once (the sum of proportional set sizes), sampled four times a second.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
import torch
from command import run_command
from results import show_table, write_report
from rich.table import Table

from effvit.cli.output import say
from effvit.environment import Environment, capture_environment, usable_cores
from effvit.errors import CheckFailedError

SAMPLE_S = 0.25
TIMM, OURS, STANDARD = "timm", "effvit", "effvit --recipe standard"
FAST = "effvit, as fast as standard"
KINDS = {"same": OURS, "fast": FAST, "standard": STANDARD}
LAST_RATE = re.compile(r"Train: (\d+) \[.*?Time: [^(]*\((\d+\.\d+)s,")
# Both: AdamW, cosine, smoothed labels, clipped gradients, crops and mirrored images, one interpolation.
RECIPE = {
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
    "layer_decay": "none",
    "warmup_epochs": 0,
    "label_smoothing": 0.1,
    "clip_gradient": 1.0,
    "crop_scale": "0.35,1.0",
    "horizontal_flip": 0.5,
    "auto_augment": "none",
    "random_erasing": 0.0,
}
# What `standard` learns with beyond these; without it, what is left of `standard` is how it computes.
UNLEARNT = {"mixup": 0.0, "cutmix": 0.0, "drop_path": 0.0, "ema_decay": 0.0}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is trained, and how; `px` is the side of the images, `threads` are the training process's own."""

    train_py: Path
    data: Path
    model: str
    px: int
    batch: int
    epochs: int
    workers: int
    threads: int
    device: str
    amp: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What one training came to; `top1` is a share of the held-out images."""

    name: str
    images_per_s: float
    peak_bytes: int
    top1: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """All turns in order, and what they were taken on."""

    environment: Environment
    model: str
    px: int
    batch: int
    epochs: int
    workers: int
    threads: int
    device: str
    amp: str
    turns: tuple[Turn, ...]
    schema: str = "effvit.bench.beside_timm/1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train_py", type=Path, help="timm's train.py")
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", choices=["off", "bf16", "fp16"], default="off")
    parser.add_argument(
        "--ours",
        choices=KINDS,
        nargs="+",
        default=["same", "fast"],
        help="the same settings; the same, but computed as --recipe standard has it here; all of --recipe standard",
    )
    parser.add_argument("--out", type=Path, help="write the turns to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    run_command(parser, run)


def run(arguments: argparse.Namespace) -> None:
    names = [TIMM, *(KINDS[kind] for kind in arguments.ours)]
    setting = Setting(
        train_py=arguments.train_py.resolve(),
        data=arguments.data.resolve(),
        model=arguments.model,
        px=arguments.px,
        batch=arguments.batch,
        epochs=arguments.epochs,
        workers=arguments.workers,
        threads=arguments.threads,
        device=arguments.device,
        amp=arguments.amp,
    )
    turns: list[Turn] = []
    for number in range(arguments.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            turn = take_turn(name, setting)
            turns.append(turn)
            say(f"round {number + 1}, {name}: {turn.images_per_s:.0f} images/s, top-1 {turn.top1:.1%}")
    show_table(table_of(turns, names), markdown=arguments.markdown)
    if arguments.out is not None:
        fields = (setting.model, setting.px, setting.batch, setting.epochs, setting.workers, setting.threads)
        report = Report(capture_environment(setting.threads), *fields, setting.device, setting.amp, tuple(turns))
        write_report(arguments.out, report)


def take_turn(name: str, setting: Setting) -> Turn:
    """Train once, and return what it came to.

    Raises:
        CheckFailedError: The program failed.
    """
    with tempfile.TemporaryDirectory(prefix="effvit-") as temporary:
        folder = Path(temporary)
        command = timm_command(setting, folder) if name == TIMM else our_command(setting, folder, name)
        started = time.perf_counter()
        peak_bytes = watched(command, setting, folder / "log")
        wall_s = time.perf_counter() - started
        rate, top1 = (timm_result if name == TIMM else our_result)(setting, folder)
    return Turn(name, rate, peak_bytes, top1, wall_s)


def timm_command(setting: Setting, folder: Path) -> list[str]:
    threads = f"import sys, torch, runpy; torch.set_num_threads({setting.threads}); sys.argv = sys.argv[1:]; "
    augmentation = ["--scale", *RECIPE["crop_scale"].split(","), "--hflip", str(RECIPE["horizontal_flip"])]
    half = {"off": [], "bf16": ["--amp", "--amp-dtype", "bfloat16"], "fp16": ["--amp"]}[setting.amp]
    return [
        sys.executable,
        "-c",
        threads + "runpy.run_path(sys.argv[0], run_name='__main__')",
        str(setting.train_py),
        *("--data-dir", str(setting.data), "--train-split", "train", "--val-split", "val"),
        *("--model", setting.model, "--num-classes", str(len(list((setting.data / "train").iterdir())))),
        *("--model-kwargs", f"img_size={setting.px}", "--img-size", str(setting.px)),
        *("--batch-size", str(setting.batch), "--epochs", str(setting.epochs)),
        *("--workers", str(setting.workers), "--device", setting.device, *half),
        *("--opt", "adamw", "--lr", str(RECIPE["learning_rate"]), "--weight-decay", str(RECIPE["weight_decay"])),
        *("--sched", "cosine", "--sched-on-updates", "--warmup-epochs", "0", "--cooldown-epochs", "0"),
        *("--min-lr", str(RECIPE["learning_rate"] / 100), "--smoothing", str(RECIPE["label_smoothing"])),
        *("--clip-grad", str(RECIPE["clip_gradient"]), "--color-jitter", "0", *augmentation),
        *("--train-interpolation", "bicubic", "--output", str(folder), "--experiment", "run"),
    ]


def timm_result(setting: Setting, folder: Path) -> tuple[float, float]:
    """Return images/s of the last epoch, and top-1."""
    seconds = {int(epoch): float(mean) for epoch, mean in LAST_RATE.findall((folder / "log").read_text())}
    with (folder / "run" / "summary.csv").open() as stream:
        last = list(csv.DictReader(stream))[-1]
    return setting.batch / seconds[setting.epochs - 1], float(last["eval_top1"]) / 100


def our_command(setting: Setting, folder: Path, name: str) -> list[str]:
    recipe = [] if name == OURS else ["--recipe", "standard"]
    pairs = {OURS: {**RECIPE, "amp": setting.amp}, FAST: {**RECIPE, **UNLEARNT}, STANDARD: {}}[name]
    chosen = [word for field, value in pairs.items() for word in ("--set", f"{field}={value}")]
    return [
        *(sys.executable, "-m", "effvit.cli.main", "finetune", setting.model, "--data", str(setting.data)),
        *("--weights", "none", "--res", str(setting.px), "--batch", str(setting.batch)),
        *("--epochs", str(setting.epochs), "--workers", str(setting.workers), "--threads", str(setting.threads)),
        *("--device", setting.device, "--runs", str(folder), "--name", "run", *recipe, *chosen),
    ]


def our_result(setting: Setting, folder: Path) -> tuple[float, float]:
    """Return images/s of the last epoch, and top-1."""
    last = json.loads((folder / "run" / "history.jsonl").read_text().splitlines()[-1])
    return last["images_per_s"], last["top1"]


def watched(command: Sequence[str], setting: Setting, log: Path) -> int:
    """Run a command, its output in `log`, and return the most memory that it and its children had.

    Raises:
        CheckFailedError: It failed.
    """
    peak_bytes = 0
    with log.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT) as process:
        while process.poll() is None:
            peak_bytes = max(peak_bytes, memory_of(process.pid))
            time.sleep(SAMPLE_S)
    if process.returncode:
        raise CheckFailedError(f"{command[0]} ended with {process.returncode}: {log.read_text()[-2000:]}")
    return peak_bytes


def memory_of(process: int) -> int:
    total = 0
    # A worker may end between being listed and being read.
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        for one in (parent, *parent.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += one.memory_full_info().pss
    return total


def table_of(turns: Sequence[Turn], names: Sequence[str]) -> Table:
    """Return the median of each contender's turns, and how it compares to timm in the same round."""
    table = Table(box=None, title=f"median of {len(turns) // len(names)} rounds")
    table.add_column("program")
    for head in ("images/s", "beside timm", "peak memory", "top-1", "whole command"):
        table.add_column(head, justify="right")
    by_name = {name: [turn for turn in turns if turn.name == name] for name in names}
    for name, own in by_name.items():
        ratios = sorted(one.images_per_s / peer.images_per_s for one, peer in zip(own, by_name[TIMM], strict=True))
        table.add_row(
            name,
            f"{median(turn.images_per_s for turn in own):.0f}",
            f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            f"{median(turn.peak_bytes for turn in own) / 2**20:.0f} MiB",
            f"{median(turn.top1 for turn in own):.1%}",
            f"{median(turn.wall_s for turn in own):.1f} s",
        )
    return table


if __name__ == "__main__":
    main()
