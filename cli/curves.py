"""Runs as tables, and their histories as curves of one line each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median

from rich.table import Table

from effvit.accuracy import Accuracy, top1, top5
from effvit.energy import EnergyTaken, together
from effvit.overview import Overview
from effvit.profiling.report.quantities import ABSENT, si
from effvit.run import EpochRecord, Run, RunRecord, ZeroTraining
from effvit.spec import Workload

PASSES_A_STEP = 3
"""A step of training is a pass forward and one back, in which the gradients of a product are two of its size."""
LEVELS = "▁▂▃▄▅▆▇█"
MOST_COLUMNS = 48


def sparkline(values: Sequence[float], columns: int = MOST_COLUMNS) -> str:
    """Return `values` as a line of blocks, lowest to highest; of more than `columns`, neighbours are averaged."""
    count = min(columns, len(values))
    bounds = [len(values) * column // count for column in range(count + 1)] if count else [0]
    means = [sum(values[low:high]) / (high - low) for low, high in pairwise(bounds)]
    lowest, spread = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    # Without any spread, a line in the middle: neither low nor high.
    shares = [(mean - lowest) / spread if spread else 0.5 for mean in means]
    return "".join(LEVELS[min(len(LEVELS) - 1, int(share * len(LEVELS)))] for share in shares)


def runs_table(runs: Sequence[Overview]) -> Table:
    """Return runs with what they came to."""
    table = _table("run", "model", "px", "attention", "data", "epochs", "top-1", "time", "status")
    for run in runs:
        size = ABSENT if run.resolution is None else Workload(1, *run.resolution).resolution
        done = ABSENT if run.epochs is None else f"{run.epochs} of {run.of_epochs}"
        table.add_row(
            run.name,
            run.model or ABSENT,
            size,
            run.attention or ABSENT,
            run.data or ABSENT,
            done,
            ABSENT if run.top1 is None else f"{run.top1:.1%}",
            ABSENT if run.seconds is None else duration(run.seconds),
            f"{run.status}, resumable" if run.resumable else run.status,
        )
    return table


def curves_table(run: Run, history: Sequence[EpochRecord]) -> Table:
    """Return the curves of a run, each with its first, best and last value; `best` is that of the kept weights."""
    table = _table("", f"epochs 1 to {len(history)}", "first", "last", "best")
    for column in table.columns[2:]:
        column.justify = "right"
    best = run.record.best
    for name, field, form in _CURVES:
        values = [value for epoch in history if (value := getattr(epoch, field)) is not None]
        if values:
            kept = ABSENT if best is None else format(getattr(best, field), form)
            table.add_row(name, sparkline(values), format(values[0], form), format(values[-1], form), kept)
    return table


def classes_table(classes: Sequence[str], accuracy: Accuracy, most: int | None = None) -> Table:
    """Return what became of each class, the worst first; of more than `most`, those."""
    table = _table("class", "top-1", "right", "images")
    for column in table.columns[1:]:
        column.justify = "right"
    counts = zip(classes, accuracy.class_top1, accuracy.class_images, strict=True)
    ranked = sorted(counts, key=lambda one: (one[1] / one[2] if one[2] else 1.0, one[0]))
    for name, right, images in ranked[:most]:
        table.add_row(name, f"{right / images:.1%}" if images else ABSENT, str(right), str(images))
    return table


def cost_table(record: RunRecord, history: Sequence[EpochRecord]) -> Table:
    """Return what training and inference took: the median epoch's seconds, and the share of a plain product's rate."""
    table = _table("", "seconds an epoch", "images/s", "MACs an image", "share of a product's rate")
    for column in table.columns[1:]:
        column.justify = "right"
    macs, rate = None if record.cost is None else record.cost.macs, record.product_macs_per_s
    trained, inferred = (median(epoch.train_s for epoch in history), median(epoch.inference_s for epoch in history))
    for name, seconds, images_per_s, passes in (
        ("training", trained, median(epoch.images_per_s for epoch in history), PASSES_A_STEP),
        ("inference", inferred, record.data.val_images / inferred, 1),
    ):
        share = None if macs is None or rate is None else passes * macs * images_per_s / (rate * record.processes)
        table.add_row(
            name,
            f"{seconds:.3g}",
            f"{images_per_s:.0f}",
            ABSENT if macs is None else f"{passes * macs / 1e9:.3g} G",
            ABSENT if share is None else f"{share:.0%}",
        )
    return table


def memory_line(history: Sequence[EpochRecord]) -> str:
    """Return the most memory of the first process in a sentence; what was not read is left out."""
    peaks = [
        (name, max((peak for epoch in history if (peak := getattr(epoch, field)) is not None), default=None))
        for name, field in (("host", "host_peak_bytes"), ("device", "device_peak_bytes"))
    ]
    return "peak memory: " + (", ".join(f"{name} {peak / 2**20:.0f} MiB" for name, peak in peaks if peak) or ABSENT)


def energy_line(history: Sequence[EpochRecord]) -> str:
    """Return what training took in all in a sentence, or why that is not known."""
    energy = together(EnergyTaken(epoch.cpu_joules, epoch.gpu_joules, epoch.energy_note) for epoch in history)
    told = [
        f"{name} {si(joules, 'J')}"
        for name, joules in (("processors", energy.cpu_joules), ("GPUs", energy.gpu_joules))
        if joules is not None
    ]
    why = energy.note or ("" if told else "it was not counted")
    return f"energy of training: {', '.join(told) or ABSENT}" + (f" ({why})" if why else "")


def before_training(zero: ZeroTraining) -> str:
    """Return in a sentence what the model answered before it was trained."""
    rates = [("top-1", top1(zero.accuracy)), ("top-5", top5(zero.accuracy))]
    said = ", ".join(f"{name} {rate:.1%}" for name, rate in rates if rate is not None)
    return f"before any training: {said}, from the logits of these classes of the {zero.of_classes} of {zero.head}"


def duration(seconds: float) -> str:
    """Return a time as `45 s`, `12 min` or `3.5 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


_CURVES = (
    ("training loss", "train_loss", ".3f"),
    ("held-out loss", "val_loss", ".3f"),
    ("top-1", "top1", ".1%"),
    ("top-5", "top5", ".1%"),
    ("class-balanced top-1", "balanced_top1", ".1%"),
    ("learning rate", "learning_rate", ".2g"),
    ("images/s in training", "images_per_s", ".0f"),
)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
