"""What attention transfer is worth: `python tests/benchmarks/transfer.py --help`.

A softmax model is trained first. Then every variant is swapped into it and fine-tuned in two ways, after attention
transfer and directly, with the same seeds, the same batches and the same number of fine-tuning steps; `--longer` adds a
third, which spends the epochs of the transfer on fine-tuning. Stopped and started again, it goes on where it was.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
from command import run_command

from effvit.cli.options import names_from_text
from effvit.cli.output import CountingBar, progress_bars, say
from effvit.cli.training import TrainingDisplay, warn_of_skipped
from effvit.data.base import ImageData, load_data
from effvit.environment import Environment, capture_environment, usable_cores
from effvit.errors import UsageError
from effvit.finetune import Finetuning, finetune
from effvit.mix import parse_mix
from effvit.recipe import DISTILL_WEIGHT
from effvit.run import RECORD, Run, open_run
from effvit.spec import BASELINE, file_name
from effvit.storage import make_folder, write_atomically
from effvit.surgery import attention_variants, pick_variant

SCHEMA = "effvit.transfer-benchmark/1"

SETTINGS, RESULTS, TABLE = "settings.json", "results.json", "table.md"
Way = Literal["teacher", "transfer", "direct", "longer"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What is trained; the folder of a benchmark holds one such. `seeds` are those of weights, order and pixels."""

    data: str
    fingerprint: str
    model: str | None
    weights: str
    px: int | None
    patch: int | None
    batch: int | None
    epochs: int
    transfer_epochs: int
    finetune_epochs: int
    distill: bool
    longer: bool
    seeds: tuple[int, ...]
    attentions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """One run: shares of the held-out images whose label is ranked first, and errors as in TransferRecord, averaged.

    `top1` is of the best epoch, `last_top1` of the last. None is what a run has not gone through.
    """

    attention: str
    way: Way
    seed: int
    transfer_epochs: int
    finetune_epochs: int
    zero_shot_top1: float | None
    transferred_top1: float | None
    error_before: float | None
    error_after: float | None
    top1: float
    last_top1: float
    train_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds."""

    command: str
    environment: Environment
    device: str
    backbone: str
    resolution: tuple[int, int]
    train_images: int
    val_images: int
    settings: Settings
    results: tuple[Result, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Accuracy with and without attention transfer.")
    parser.add_argument("--data", default="digits", help="data set or ImageFolder")
    parser.add_argument("--model", help="timm model [default: what suits the data]")
    parser.add_argument("--weights", default="auto", help="initial weights of the softmax model")
    parser.add_argument("--res", type=int, help="side of the square images in px")
    parser.add_argument("--patch", type=int, help="patch size in px")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--epochs", type=int, default=20, help="of the softmax model")
    parser.add_argument("--transfer-epochs", type=int, default=4)
    parser.add_argument("--finetune-epochs", type=int, default=5)
    parser.add_argument(
        "--distill", action=argparse.BooleanOptionalAction, default=True, help="in every way or in none"
    )
    parser.add_argument("--longer", action="store_true", help="also fine-tune directly for as many epochs in all")
    parser.add_argument("--seeds", default="0", help="0 or 0,1,2")
    parser.add_argument("--attn", help="variants [default: all that are not exact]")
    parser.add_argument("--device", help="cpu or cuda [default: cuda if there]")
    parser.add_argument("--workers", type=int, help="processes that load images")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument("--out", type=Path, required=True, help="the benchmark's folder")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    with progress_bars() as progress:
        data = load_data(arguments.data, progress=CountingBar(progress, "checking images", "checked"))
    warn_of_skipped(data)
    settings = _settings(arguments, data)
    _claim(arguments.out, settings)
    results: list[Result] = []
    table = ""
    for seed in settings.seeds:
        exact = _trained(arguments, data, settings, BASELINE, "teacher", seed, None)
        results.append(_result(exact, BASELINE, "teacher", seed))
        for attention in settings.attentions:
            for way in _ways(settings):
                run = _trained(arguments, data, settings, attention, way, seed, exact.folder)
                results.append(_result(run, attention, way, seed))
                table = _write(arguments, exact, settings, results)
    say(f"\n{table}results: {arguments.out / RESULTS}")


def _settings(arguments: argparse.Namespace, data: ImageData) -> Settings:
    approximate = [name for name, variant in attention_variants().items() if not variant.exact]
    attentions = tuple(names_from_text(arguments.attn)) or tuple(approximate)
    for swap in (swap for attention in attentions for swap in parse_mix(attention)):
        if pick_variant(swap.attention).exact:
            raise UsageError(f"{swap.attention} attention has nothing to learn", "leave it out of --attn")
    try:
        seeds = tuple(int(seed) for seed in names_from_text(arguments.seeds))
    except ValueError:
        raise UsageError(f"{arguments.seeds!r} are no seeds", "write --seeds 0,1,2") from None
    return Settings(
        data=data.name,
        fingerprint=data.fingerprint,
        model=arguments.model,
        weights=arguments.weights,
        px=arguments.res,
        patch=arguments.patch,
        batch=arguments.batch,
        epochs=arguments.epochs,
        transfer_epochs=arguments.transfer_epochs,
        finetune_epochs=arguments.finetune_epochs,
        distill=arguments.distill,
        longer=arguments.longer,
        seeds=seeds or (0,),
        attentions=attentions,
    )


def _claim(folder: Path, settings: Settings) -> None:
    """Write the settings into the folder, or check that they are those already there."""
    path = folder / SETTINGS
    if path.exists() and msgspec.json.decode(path.read_bytes(), type=Settings) != settings:
        raise UsageError(f"{folder} holds a benchmark with other settings", "choose another --out")
    make_folder(folder)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(settings), indent=2) + b"\n")


def _ways(settings: Settings) -> tuple[Way, ...]:
    return ("transfer", "direct", "longer") if settings.longer else ("transfer", "direct")


def _recipe(settings: Settings, way: Way, seed: int) -> Mapping[str, object]:
    recipe: dict[str, object] = {"seed": seed}
    if settings.batch is not None:
        recipe["batch"] = settings.batch
    if way == "teacher":
        return recipe | {"epochs": settings.epochs}
    return recipe | {
        "epochs": settings.finetune_epochs + (settings.transfer_epochs if way == "longer" else 0),
        "transfer_epochs": settings.transfer_epochs if way == "transfer" else 0,
        "distill_weight": DISTILL_WEIGHT if settings.distill else 0.0,
    }


def _trained(
    arguments: argparse.Namespace,
    data: ImageData,
    settings: Settings,
    attention: str,
    way: Way,
    seed: int,
    teacher: Path | None,
) -> Run:
    """Return the finished run, from an earlier start if there is one; what an interrupted training left is removed."""
    runs, name = arguments.out / "runs", f"{file_name(attention)}-{way}-{seed}"
    if (runs / name / RECORD).is_file() and open_run(runs / name).record.status == "done":
        return open_run(runs / name)
    shutil.rmtree(runs / name, ignore_errors=True)
    request = Finetuning(
        swaps=parse_mix(attention),
        model=settings.model,
        weights=settings.weights if teacher is None else "auto",
        resolution=None if settings.px is None else (settings.px, settings.px),
        patch=settings.patch,
        recipe=_recipe(settings, way, seed),
        device=arguments.device,
        workers=arguments.workers,
        threads=arguments.threads,
        teacher=teacher,
    )
    say(f"\n{name}")
    with progress_bars() as progress:
        return finetune(request, data, out=runs, name=name, listener=TrainingDisplay(progress))


def _result(run: Run, attention: str, way: Way, seed: int) -> Result:
    record, history = run.record, run.history()
    transfer = record.transfer
    assert record.best is not None  # it was finished
    return Result(
        attention=attention,
        way=way,
        seed=seed,
        transfer_epochs=record.recipe.transfer_epochs,
        finetune_epochs=record.recipe.epochs,
        zero_shot_top1=None if transfer is None else transfer.top1_before,
        transferred_top1=None if transfer is None else transfer.top1_after,
        error_before=None if transfer is None else statistics.fmean(transfer.errors_before),
        error_after=None if transfer is None else statistics.fmean(transfer.errors_after),
        top1=record.best.top1,
        last_top1=history[-1].top1,
        train_s=sum(epoch.train_s for epoch in (*history, *(() if transfer is None else transfer.epochs))),
    )


def _write(arguments: argparse.Namespace, exact: Run, settings: Settings, results: Sequence[Result]) -> str:
    """Write the JSON file and the table of what there is so far, and return the table."""
    record = exact.record
    report = Report(
        command=shlex.join(["python", *sys.argv]),
        environment=capture_environment(arguments.threads),
        device=record.device,
        backbone=record.spec.backbone,
        resolution=record.spec.trained,
        train_images=record.data.train_images,
        val_images=record.data.val_images,
        settings=settings,
        results=tuple(results),
    )
    folder: Path = arguments.out
    write_atomically(folder / RESULTS, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    table = _table(report)
    write_atomically(folder / TABLE, table.encode())
    return table


def _table(report: Report) -> str:
    """Return the Markdown table, each cell a mean over seeds, under the line that says how it was made."""
    settings, machine = report.settings, report.environment
    height, width = report.resolution
    gpu = report.device != "cpu" and machine.gpus
    where = machine.gpus[0] if gpu else f"{machine.cpu}, {machine.threads} threads"
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages if name in ("torch", "timm"))
    direct = "fine-tuned directly"
    header = ["attention", "after the swap", "after transfer", "transferred, fine-tuned", direct, "gain"]
    header += [f"{direct} {settings.transfer_epochs + settings.finetune_epochs} epochs"] if settings.longer else []
    header += ["layer error before", "after"]
    exact = _mean(report.results, BASELINE, "teacher", "top1")
    lines = [
        f"{report.backbone} at {height} x {width} px on {settings.data} ({report.train_images} images, "
        f"{report.val_images} held out), softmax {settings.epochs} epochs: top-1 {_percent(exact)}. Transfer "
        f"{settings.transfer_epochs} epochs, fine-tuning {settings.finetune_epochs}, distillation "
        f"{'on' if settings.distill else 'off'} in all, seeds {', '.join(map(str, settings.seeds))}. "
        f"{where}, {versions}. `{report.command}`",
        "",
        f"| {' | '.join(header)} |",
        f"| --- |{' ---: |' * (len(header) - 1)}",
    ]
    for attention in settings.attentions:
        taught, alone = (_mean(report.results, attention, way, "top1") for way in ("transfer", "direct"))
        gain = "" if taught is None or alone is None else f"{100 * (taught - alone):+.1f} points"
        cells = [
            attention,
            _percent(_mean(report.results, attention, "transfer", "zero_shot_top1")),
            _percent(_mean(report.results, attention, "transfer", "transferred_top1")),
            _percent(taught),
            _percent(alone),
            gain,
            *([_percent(_mean(report.results, attention, "longer", "top1"))] if settings.longer else []),
            _decimal(_mean(report.results, attention, "transfer", "error_before")),
            _decimal(_mean(report.results, attention, "transfer", "error_after")),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "Epochs in all beside the softmax model's: " + _epochs(settings) + "."]
    return "\n".join(lines) + "\n"


def _epochs(settings: Settings) -> str:
    total = settings.transfer_epochs + settings.finetune_epochs
    parts = [f"with transfer {total}", f"directly {settings.finetune_epochs}"]
    return ", ".join(parts + ([f"directly and longer {total}"] if settings.longer else []))


def _mean(results: Sequence[Result], attention: str, way: Way, field: str) -> float | None:
    values = [getattr(result, field) for result in results if (result.attention, result.way) == (attention, way)]
    present = [value for value in values if value is not None]
    return statistics.fmean(present) if present else None


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _decimal(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    run_command(_parser(), _run)
