"""What `--cache` gains: `python tests/benchmarks/cache.py DATA`, where DATA is an ImageFolder or another data set.

Training batches are made in this process, by one thread, from image files and from what both caches hold, as `effvit
finetune` makes them; the time is that of the processor. Held-out images are prepared for several sizes, one after the
other, as `effvit evaluate` prepares them; the time is that of the clock. The ways take turns.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch
from command import run_command
from results import show_table, write_report
from rich.table import Table
from untrained_runs import make_run

from effvit.cached import Where
from effvit.cli.options import resolutions_from_text
from effvit.cli.output import say
from effvit.data.base import PHOTOGRAPHS, DataDefaults, ImageData, load_data
from effvit.decoded import cached_for, with_cache
from effvit.environment import Environment, capture_environment
from effvit.images import ImageDataset, ImageLoader
from effvit.preprocessing import training_transform
from effvit.profiling.pixels import PixelStore
from effvit.progress import silent
from effvit.run import DataRecord, Run
from effvit.sampling import stratified_subset

BATCH = 64
AUGMENTATIONS = {"RandAugment": PHOTOGRAPHS, "crop and flip": replace(PHOTOGRAPHS, auto_augment=None)}


@dataclass(frozen=True, slots=True)
class Timed:
    """How long one way took in every round, in seconds: for an image to train on, or for all held-out ones."""

    work: str
    way: str
    seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All ways, and what they were timed on; sizes are in px."""

    environment: Environment
    data: str
    px: int
    train_images: int
    sizes: tuple[int, ...]
    val_images: int
    timed: tuple[Timed, ...]
    schema: str = "effvit.bench.cache/1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="ImageFolder or another data set")
    parser.add_argument("--px", type=int, default=224, help="size that is trained at")
    parser.add_argument("--res", default="224,384", help="sizes that are evaluated at")
    parser.add_argument("--images", type=int, default=512, help="to train on, at most, and as many held out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="write the times to this file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    run_command(parser, run)


def run(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    whole = load_data(arguments.data)
    few = {name: stratified_subset(getattr(whole, name), arguments.images, seed=0) for name in ("train", "val")}
    data, sizes = replace(whole, **few), [height for height, _ in resolutions_from_text(arguments.res)]
    with tempfile.TemporaryDirectory(prefix="effvit-") as folder:
        os.environ["EFFVIT_CACHE"] = folder
        model = make_run(Path(folder), "softmax")
        timed = (
            *(one for name, how in AUGMENTATIONS.items() for one in training(data, model, name, how, arguments)),
            *evaluation(whole, model, sizes, arguments.images, arguments.rounds),
        )
    show_table(table_of(timed), markdown=arguments.markdown)
    if arguments.out is not None:
        environment = capture_environment(1)
        report = Report(environment, data.name, arguments.px, len(data.train), tuple(sizes), len(data.val), timed)
        write_report(arguments.out, report)


def training(data: ImageData, model: Run, name: str, how: DataDefaults, arguments: argparse.Namespace) -> list[Timed]:
    px = arguments.px
    kept = {where: with_cache(data, cached_for(where, (px, px), how.crop_scale), silent) for where in ("ram", "disk")}
    transform = training_transform(model.record.preprocessing, px, px, how)
    loaders = {
        way: ImageLoader(ImageDataset(part.train, transform, cache_bytes=0), batch=BATCH, workers=0, seed=0)
        for way, part in {"files": data, **kept}.items()
    }

    def epoch_of(loader: ImageLoader, number: int) -> float:
        started = time.process_time()
        for _ in loader.epoch(number):
            pass
        return (time.process_time() - started) / len(data.train)

    work = f"an image to train on, {name}"
    return in_turns(
        work,
        {way: lambda number, loader=loader: epoch_of(loader, number) for way, loader in loaders.items()},
        arguments.rounds,
    )


def evaluation(data: ImageData, model: Run, sizes: Sequence[int], images: int, rounds: int) -> list[Timed]:
    record = DataRecord(data.name, data.fingerprint, data.classes, len(data.train), len(data.val))
    judged = model.updated(replace(model.record, data=record))

    def prepare(cache: Where | None) -> float:
        started = time.perf_counter()
        with PixelStore(cache=cache) as store:
            for px in sizes:
                store.get(judged, px, px, images)
        return time.perf_counter() - started

    prepare("disk")  # which is what later ones find
    ways = {"files": None, "ram": "ram", "disk, once it is there": "disk"}
    return in_turns(
        "all held-out images", {way: lambda _, cache=cache: prepare(cache) for way, cache in ways.items()}, rounds
    )


def in_turns(work: str, ways: dict[str, Callable[[int], float]], rounds: int) -> list[Timed]:
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way in list(ways) if number % 2 == 0 else list(ways)[::-1]:
            seconds[way].append(ways[way](number))
        say(f"{work}, round {number + 1}: " + ", ".join(f"{way} {times[-1]:.4g} s" for way, times in seconds.items()))
    return [Timed(work, way, tuple(times)) for way, times in seconds.items()]


def table_of(timed: Sequence[Timed]) -> Table:
    """Return the median of each way, and how much faster it was than files in the same round."""
    table = Table(box=None)
    for head in ("what", "from"):
        table.add_column(head)
    for head in ("seconds", "times as fast as files"):
        table.add_column(head, justify="right")
    for one in timed:
        files = next(other for other in timed if (other.work, other.way) == (one.work, "files"))
        ratios = sorted(slow / fast for slow, fast in zip(files.seconds, one.seconds, strict=True))
        spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        table.add_row(one.work, one.way, f"{median(one.seconds):.4g}", spread)
    return table


if __name__ == "__main__":
    main()
