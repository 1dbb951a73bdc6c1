"""`effvit finetune --attn NAME` for every variant, nothing else said: `python tests/benchmarks/digits.py`.

But for `--weights none`, so that the result does not depend on a network being there.

Each training is a process of its own, in an order drawn anew for every round, so that a slow hour is not one variant's
alone. The table goes to stdout as Markdown with `--markdown`.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from command import run_command
from results import show_table, write_report
from rich.table import Table

from effvit.cli.output import say
from effvit.environment import Environment, capture_environment
from effvit.errors import CheckFailedError
from effvit.run import open_run
from effvit.spec import BASELINE
from effvit.surgery import attention_variants


@dataclass(frozen=True, slots=True)
class Training:
    """One run of the default command: the best epoch's accuracies, and the seconds of epochs and of the command."""

    attention: str
    seed: int
    top1: float
    balanced_top1: float
    epochs: int
    train_s: float
    inference_s: float
    wall_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """All trainings in order, and what they were done on."""

    environment: Environment
    trainings: tuple[Training, ...]
    schema: str = "effvit.bench.digits/1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attn", nargs="+", help="these variants alone", default=sorted(attention_variants()))
    parser.add_argument("--rounds", type=int, default=3, help="trainings of each, with seeds from 0")
    parser.add_argument("--epochs", type=int, help="other than the default, to try it out")
    parser.add_argument("--out", type=Path, help="write the trainings to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    run_command(parser, run)


def run(arguments: argparse.Namespace) -> None:
    trainings: list[Training] = []
    for seed in range(arguments.rounds):
        for attention in random.Random(seed).sample(arguments.attn, len(arguments.attn)):
            trainings.append(train(attention, seed, arguments.epochs))
            say(f"seed {seed}, {attention}: top-1 {trainings[-1].top1:.1%}, {trainings[-1].wall_s:.0f} s")
    show_table(table_of(trainings), markdown=arguments.markdown)
    if arguments.out is not None:
        write_report(arguments.out, Report(capture_environment(), tuple(trainings)))


def train(attention: str, seed: int, epochs: int | None) -> Training:
    """Run the command, and return what it came to.

    Raises:
        CheckFailedError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder:
        command = [sys.executable, "-m", "effvit.cli.main", "finetune", "--attn", attention, "--seed", str(seed)]
        command += ["--weights", "none", "--runs", folder, "--name", "run", "--json"]
        command += [] if epochs is None else ["--epochs", str(epochs)]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wall_s = time.perf_counter() - started
        if done.returncode:
            raise CheckFailedError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
        best, history = json.loads(done.stdout)["best"], open_run(Path(folder) / "run").history()
    return Training(
        attention=attention,
        seed=seed,
        top1=best["top1"],
        balanced_top1=best["balanced_top1"],
        epochs=len(history),
        train_s=sum(epoch.train_s for epoch in history),
        inference_s=sum(epoch.inference_s for epoch in history),
        wall_s=wall_s,
    )


def table_of(trainings: Sequence[Training]) -> Table:
    """Return a row for each variant, softmax first: the median over seeds, and the range of its top-1."""
    table = Table(box=None)
    table.add_column("attention")
    for head in (
        "top-1",
        "lowest to highest",
        "class-balanced",
        "training",
        "an epoch",
        "whole command",
        "beside softmax",
    ):
        table.add_column(head, justify="right")
    names = sorted({one.attention for one in trainings}, key=lambda name: (name != BASELINE, name))
    walls = {name: median(one.train_s for one in trainings if one.attention == name) for name in names}
    for name in names:
        own = [one for one in trainings if one.attention == name]
        top1 = sorted(one.top1 for one in own)
        table.add_row(
            name,
            f"{median(top1):.1%}",
            f"{top1[0]:.1%} to {top1[-1]:.1%}",
            f"{median(one.balanced_top1 for one in own):.1%}",
            f"{walls[name]:.1f} s",
            f"{median(one.train_s / one.epochs for one in own):.2f} s",
            f"{median(one.wall_s for one in own):.1f} s",
            f"{walls[name] / walls[BASELINE]:.2f}" if BASELINE in walls else "-",
        )
    return table


if __name__ == "__main__":
    main()
