"""Which attention to ship, asked of a model that was pre-trained with the exact one.

`python tests/benchmarks/pretrained_study.py DATA --out FOLDER`: the model is trained from random weights with softmax;
then, once for each seed, `effvit study` swaps and fine-tunes every variant from these weights with the same budget and
measures them. The folder then holds all of it, a table (table.md) and a figure (figure.svg) over the seeds. On a GPU
everything happens there. Stopped and started again, it goes on where it was, within a training, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import altair as alt
import torch
import vl_convert
from command import run_command
from results import markdown_of, show_table, write_report
from rich.table import Table

from effvit.cli.output import say
from effvit.environment import Environment, capture_environment
from effvit.errors import CellsFailedError, CheckFailedError
from effvit.profiling.report.quantities import ABSENT, count, si, size
from effvit.profiling.report.rows import Row, make_rows
from effvit.profiling.results import read
from effvit.run import RECORD, open_run
from effvit.spec import BASELINE
from effvit.storage import make_folder, write_atomically

PRETRAINED, RESULTS, TABLE, FIGURE = "pretrained", "results.json", "table.md", "figure.svg"
WIDTH_PX, HEIGHT_PX = 480, 320


@dataclass(frozen=True, slots=True)
class Result:
    """One variant fine-tuned with one seed, and measured at one batch; None is what is not known.

    `top1` and `top5` are shares of the held-out images, `epoch_s` the mean epoch of fine-tuning, `training_bytes` the
    most memory in it: of the GPU where it was one, else of the process.
    """

    attention: str
    seed: int
    batch: int
    status: str
    top1: float | None
    top5: float | None
    macs: float | None
    latency_s: float | None
    epoch_s: float | None
    training_bytes: int | None


@dataclass(frozen=True, slots=True)
class Report:
    """All results, and what they were measured on; `pretrained_top1` is that of the weights all start from."""

    environment: Environment
    device: str
    model: str
    px: int
    patch: int
    data: str
    pretrain_epochs: int
    pretrained_top1: float
    epochs: int
    results: tuple[Result, ...]
    schema: str = "effvit.bench.pretrained_study/1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="ImageFolder or another data set, such as tinyimagenet100")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, the studies and the results")
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    parser.add_argument("--px", type=int, default=64)
    parser.add_argument("--patch", type=int, default=8)
    parser.add_argument("--pretrain-epochs", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=20, help="of fine-tuning, for every variant")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--attn", help="variants [default: those of `effvit study`]")
    parser.add_argument("--batch", default="1,64", help="images a call that are measured")
    parser.add_argument("--precision", default="fp32", help="types to measure in")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--set", nargs="*", default=[], metavar="FIELD=VALUE", help="of the recipe of pre-training")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    run_command(parser, run)


def run(arguments: argparse.Namespace) -> None:
    out = make_folder(arguments.out)
    pretrain(arguments, out)
    for seed in arguments.seeds:
        study(arguments, out, seed)
    results = tuple(one for seed in arguments.seeds for one in results_of(out / f"seed-{seed}" / "results.jsonl", seed))
    record = open_run(out / PRETRAINED).record
    assert record.best is not None  # it is done
    report = Report(
        environment=capture_environment(),
        device=arguments.device,
        model=arguments.model,
        px=arguments.px,
        patch=arguments.patch,
        data=Path(record.data.name).name,
        pretrain_epochs=arguments.pretrain_epochs,
        pretrained_top1=record.best.top1,
        epochs=arguments.epochs,
        results=results,
    )
    write_report(out / RESULTS, report)
    table = table_of(report)
    write_atomically(out / TABLE, markdown_of(table).encode())
    write_atomically(out / FIGURE, figure_of(report).encode())
    show_table(table, markdown=arguments.markdown)


def pretrain(arguments: argparse.Namespace, out: Path) -> None:
    """Train the model with exact attention, or what is left of it."""
    known = (out / PRETRAINED / RECORD).is_file()
    if known and open_run(out / PRETRAINED).record.status == "done":
        say("pre-trained before")
        return
    if known:
        effvit("finetune", "--resume", PRETRAINED, "--runs", out)
        return
    changed = [word for field in arguments.set for word in ("--set", field)]
    effvit(
        *("finetune", arguments.model, "--data", arguments.data, "--weights", "none", "--recipe", "standard"),
        *("--res", arguments.px, "--patch", arguments.patch, "--epochs", arguments.pretrain_epochs, *changed),
        *("--device", arguments.device, "--runs", out, "--name", PRETRAINED),
    )


def study(arguments: argparse.Namespace, out: Path, seed: int) -> None:
    """Fine-tune and measure every variant from the same weights; the study itself knows what is left of it."""
    say(f"\nseed {seed}")
    effvit(
        *("study", arguments.model, "--data", arguments.data, "--weights", out / PRETRAINED, "--seed", seed),
        *("--train-res", arguments.px, "--res", arguments.px, "--epochs", arguments.epochs),
        *(() if arguments.attn is None else ("--attn", arguments.attn)),
        *("--batch", arguments.batch, "--precision", arguments.precision, "--eval-images", 0),
        *("--backend", "torch", "--device", arguments.device, "--out", out / f"seed-{seed}"),
    )


def effvit(*words: object) -> None:
    """Run a command of effvit, which shows how it goes.

    Raises:
        CheckFailedError: It failed, but for cells that could not be measured: the table says which.
    """
    command = [sys.executable, "-m", "effvit.cli.main", *map(str, words)]
    code = subprocess.run(command, check=False).returncode
    if code not in (0, CellsFailedError.exit_code):
        raise CheckFailedError(f"{' '.join(command[3:])} ended with {code}", "mend that, and start this again")


def results_of(path: Path, seed: int) -> list[Result]:
    return [result_of(row, seed) for row in make_rows(read(path))]


def result_of(row: Row, seed: int) -> Result:
    outcome, training = row.outcome, row.outcome.training
    return Result(
        attention=outcome.cell.model.attention,
        seed=seed,
        batch=outcome.cell.workload.batch,
        status=outcome.status,
        top1=row.reading("accuracy.top1").value,
        top5=row.reading("accuracy.top5").value,
        macs=row.reading("cost.macs").value,
        latency_s=row.reading("latency_s.p50").value,
        epoch_s=None if training is None else training.seconds / training.epochs,
        training_bytes=None if training is None else training.device_peak_bytes or training.host_peak_bytes,
    )


def table_of(report: Report) -> Table:
    """Return a row for each variant and batch: the mean over seeds, and the range of its top-1."""
    title = (
        f"{report.model}, patches of {report.patch} px, at {report.px} px on {report.data}: {report.pretrain_epochs} "
        f"epochs with {BASELINE} to a top-1 of {report.pretrained_top1:.1%}, then {report.epochs} for each variant; "
        f"{report.device}"
    )
    table = Table(box=None, title=title)
    table.add_column("attention")
    for head in ("batch", "top-1", "lowest to highest", "top-5", "MACs", "latency p50", "an epoch", "training memory"):
        table.add_column(head, justify="right")
    for attention, batch in variants(report):
        own = [one for one in report.results if (one.attention, one.batch) == (attention, batch)]
        top1 = [one.top1 for one in own if one.top1 is not None]
        failed = sorted({one.status for one in own if one.status != "ok"})
        table.add_row(
            attention + (f" ({', '.join(failed)})" if failed else ""),
            str(batch),
            mean_of([one.top1 for one in own], lambda share: f"{share:.1%}"),
            f"{min(top1):.1%} to {max(top1):.1%}" if top1 else ABSENT,
            mean_of([one.top5 for one in own], lambda share: f"{share:.1%}"),
            mean_of([one.macs for one in own], count),
            mean_of([one.latency_s for one in own], lambda seconds: si(seconds, "s")),
            mean_of([one.epoch_s for one in own], lambda seconds: si(seconds, "s")),
            mean_of([one.training_bytes for one in own], size),
        )
    return table


def variants(report: Report) -> list[tuple[str, int]]:
    """Return attention and batch of all results, batch by batch, softmax first."""
    found = {(one.attention, one.batch) for one in report.results}
    return sorted(found, key=lambda one: (one[1], one[0] != BASELINE, one[0]))


def mean_of(values: Sequence[float | None], written: Callable[[float], str]) -> str:
    """Return the mean over the seeds that have a value, written out."""
    known = [value for value in values if value is not None]
    return written(fmean(known)) if known else ABSENT


def figure_of(report: Report) -> str:
    """Return an SVG: top-1 against latency, a point each seed, a panel each batch."""
    points = [
        {"attention": one.attention, "batch": f"batch {one.batch}", "ms": 1e3 * one.latency_s, "top1": 100 * one.top1}
        for one in report.results
        if one.latency_s is not None and one.top1 is not None
    ]
    chart = (
        alt.Chart(alt.Data(values=points))
        .mark_point(filled=True, size=60, opacity=0.8)
        .encode(
            x=alt.X("ms:Q", title="latency p50 (ms)", scale=alt.Scale(type="log", nice=False, padding=20)),
            y=alt.Y("top1:Q", title="top-1 (%)", scale=alt.Scale(zero=False)),
            color=alt.Color("attention:N", title="attention"),
            shape=alt.Shape("attention:N"),
            column=alt.Column("batch:N", title=None),
        )
        .resolve_scale(x="independent")
        .properties(width=WIDTH_PX, height=HEIGHT_PX, title="a point is one seed")
    )
    svg: str = vl_convert.vegalite_to_svg(chart.to_dict())
    return svg


if __name__ == "__main__":
    main()
