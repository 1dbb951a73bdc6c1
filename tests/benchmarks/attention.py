"""Our attention layers beside those of public packages: `python tests/benchmarks/attention.py --help`.

All contenders of one width, number of tokens and pass take turns in interleaved rounds of random order; ratios are
taken within rounds. Peers are set up alike: as many keys, features and landmarks, no dropout, no local heads, no
convolution of the values. Linformer's, Nyström's and vit-pytorch's packages have no bias on q, k and v, which timm's
ViTs have: that is in their favour. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import msgspec
import torch
from command import run_command
from comparison import PARTS, Cell, Comparison, Mean, Part, Side, comparisons_of, means_of
from contenders import (
    MODULES,
    Setting,
    core_contenders,
    geometry_of,
    layer_contenders,
    product_contender,
    require_peers,
)
from results import markdown_of, read_report
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from turns import Pace, Pass, measure

from effvit.attention.base import Geometry
from effvit.cli.options import names_from_text
from effvit.cli.output import progress_bars
from effvit.environment import Environment, capture_environment, package_version, usable_cores
from effvit.errors import UnavailableError, UsageError
from effvit.profiling.report.quantities import ABSENT, ratio, si, size, spread
from effvit.profiling.stats import Estimate
from effvit.storage import write_atomically

SCHEMA = "effvit.attention-benchmark/1"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WIDTH_WITHOUT_TERMINAL = 160


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds; `threads` of the environment is what PyTorch was told to use."""

    command: str
    environment: Environment
    peers: tuple[tuple[str, str | None], ...]
    device: str
    dtype: str
    autocast: bool
    batch: int
    pace: Pace
    comparisons: tuple[Comparison, ...]
    means: tuple[Mean, ...]
    cells: tuple[Cell, ...]
    schema: str = SCHEMA


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time our attention layers beside those of public packages.")
    parser.add_argument("--dims", default="192,384,768", help="widths; heads are of 64")
    parser.add_argument("--tokens", default="197,577,1025,4097", help="numbers of tokens: a square plus 1")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--autocast", action="store_true", help="keep fp32 weights and let PyTorch choose the type")
    parser.add_argument("--passes", default="forward,train", help="forward, train (forward and backward) or both")
    parser.add_argument("--batch", type=int, default=1, help="images a launch")
    parser.add_argument("--rounds", type=int, default=15, help="interleaved rounds")
    parser.add_argument("--seconds-per-cell", type=float, default=1.0, help="timed seconds a contender and cell")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="CPU threads")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file, after every cell")
    parser.add_argument("--show", type=Path, help="measure nothing: show the --dims and --passes of this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print tables as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    geometries = _geometries(arguments)
    passes = _passes(arguments.passes)
    if arguments.show is not None:
        report = read_report(arguments.show, Report)
        _show(_part_of(report, {geometry.dim for geometry in geometries}, passes), markdown=arguments.markdown)
        return
    setting = _setting(arguments)
    require_peers()
    torch.set_num_threads(arguments.threads)
    torch.set_float32_matmul_precision("highest")
    pace = Pace(arguments.rounds, arguments.seconds_per_cell)
    cells: list[Cell] = []
    todo = list(product(PARTS, passes, geometries))
    with progress_bars() as progress:
        task = progress.add_task("cells", total=len(todo), detail="")
        for part, one, geometry in todo:
            progress.update(task, detail=f"{part}, {one}, width {geometry.dim}, {geometry.tokens} tokens")
            cells.append(_measure(part, one, geometry, setting, pace))
            if arguments.out is not None:
                _write(arguments.out, _report(cells, setting, arguments.dtype, pace))
            progress.advance(task)
    _show(_report(cells, setting, arguments.dtype, pace), markdown=arguments.markdown)


def _geometries(arguments: argparse.Namespace) -> list[Geometry]:
    dims, tokens = _counts("--dims", arguments.dims), _counts("--tokens", arguments.tokens)
    return [geometry_of(dim, count) for dim in dims for count in tokens]


def _counts(option: str, text: str) -> list[int]:
    try:
        counts = [int(part) for part in names_from_text(text)]
    except ValueError:
        raise UsageError(f"{option} {text} is not a list of numbers", f"write {option} 192,384") from None
    if not counts:
        raise UsageError(f"{option} names nothing", f"write {option} 192,384")
    return counts


def _passes(text: str) -> list[Pass]:
    names = names_from_text(text)
    unknown = [name for name in names if name not in tuple(Pass)]
    if unknown or not names:
        raise UsageError(f"there is no pass named {text!r}", f"choose from: {', '.join(Pass)}")
    return [Pass(name) for name in names]


def _setting(arguments: argparse.Namespace) -> Setting:
    """Return where and how modules run.

    Raises:
        UsageError: A count or a duration that cannot be, or autocast to single precision.
        UnavailableError: There is no such device here.
    """
    for option in ("batch", "rounds", "threads", "seconds_per_cell"):
        if not getattr(arguments, option) > 0:
            name = f"--{option.replace('_', '-')}"
            raise UsageError(f"{name} must be positive, not {getattr(arguments, option)}", f"choose another {name}")
    if arguments.autocast and arguments.dtype == "fp32":
        raise UsageError("--autocast has nothing to cast to in fp32", "add --dtype fp16 or --dtype bf16")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("PyTorch finds no CUDA GPU here", "use --device cpu")
    return Setting(torch.device(arguments.device), DTYPES[arguments.dtype], arguments.batch, arguments.autocast)


def _measure(part: Part, passes: Pass, geometry: Geometry, setting: Setting, pace: Pace) -> Cell:
    torch.manual_seed(0)
    contenders = layer_contenders(geometry, setting) if part == "whole layer" else core_contenders(geometry, setting)
    timed = measure([product_contender(setting), *contenders], passes, setting, pace)
    return Cell(part, passes, geometry.dim, geometry.tokens, tuple(timed))


def _report(cells: Sequence[Cell], setting: Setting, dtype: str, pace: Pace) -> Report:
    cuda = setting.device.type == "cuda"
    return Report(
        command=shlex.join(["python", *sys.argv]),
        environment=capture_environment(torch.get_num_threads()),
        peers=tuple((name, package_version(name)) for name in MODULES),
        device=torch.cuda.get_device_name() if cuda else "cpu",
        dtype=dtype,
        autocast=setting.autocast,
        batch=setting.batch,
        pace=pace,
        comparisons=tuple(comparisons_of(cells)),
        means=tuple(means_of(cells)),
        cells=tuple(cells),
    )


def _write(path: Path, report: Report) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")


def _part_of(report: Report, dims: set[int], passes: Sequence[Pass]) -> Report:
    return replace(
        report,
        comparisons=tuple(one for one in report.comparisons if one.dim in dims and one.passes in passes),
        means=tuple(one for one in report.means if one.dim in {None, *dims} and one.passes in passes),
    )


def _show(report: Report, *, markdown: bool) -> None:
    """Print the tables to stderr, or as Markdown to stdout."""
    tables = [_table(part, chosen) for part in PARTS if (chosen := [c for c in report.comparisons if c.part == part])]
    tables.append(_means_table(report.means))
    if markdown:
        print("\n".join(map(markdown_of, tables)))
        return
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal:
        console.width = WIDTH_WITHOUT_TERMINAL
    machine = report.environment
    dtype = f"{report.dtype} by autocast" if report.autocast else report.dtype
    console.print(f"{machine.cpu}, {machine.threads} threads, {report.device}, {dtype}, batch {report.batch}")
    for table in tables:
        console.print(table)
    console.print("ratios are medians over rounds, ± half the width of the 95 % interval; above 1x ours is faster")
    console.print("over bound: our time over that of our MACs at the rate of a large matrix product, same rounds")
    for one in _refused(report.comparisons):
        console.print(f"not measured: {one}")


def _table(part: Part, comparisons: Sequence[Comparison]) -> Table:
    table = Table(title=part, box=SIMPLE_HEAD)
    for title in ("pass", "width", "tokens", "attention"):
        table.add_column(title, justify="left" if title in ("pass", "attention") else "right")
    for title in ("ours", "peer", "peer / ours", "softmax / ours", "over bound", "memory", "peer's"):
        table.add_column(title, justify="right")
    place = None
    for one in comparisons:
        if place not in (None, (one.passes, one.dim, one.tokens)):
            table.add_row()
        place = (one.passes, one.dim, one.tokens)
        table.add_row(
            one.passes,
            str(one.dim),
            str(one.tokens),
            one.mechanism,
            _time(one.ours),
            _time(one.peer),
            _ratio(one.peer_ratio),
            _ratio(one.softmax_ratio),
            _ratio(one.bound_ratio),
            _memory(one.ours),
            _memory(one.peer),
        )
    return table


def _means_table(means: Sequence[Mean]) -> Table:
    table = Table(title="peer / ours, geometric mean over tokens", box=SIMPLE_HEAD)
    for title in ("part", "pass", "width", "peer", "cells", "ratio"):
        table.add_column(title, justify="right" if title in ("width", "cells", "ratio") else "left")
    for one in means:
        width = "all" if one.dim is None else str(one.dim)
        table.add_row(one.part, one.passes, width, one.peer, str(one.cells), _ratio(one.ratio))
    return table


def _time(side: Side | None) -> str:
    return ABSENT if side is None or side.median_s is None else si(side.median_s, "s")


def _memory(side: Side | None) -> str:
    return ABSENT if side is None or side.peak_bytes is None else size(side.peak_bytes)


def _ratio(estimate: Estimate | None) -> str:
    if estimate is None:
        return ABSENT
    value, low, high = estimate.value, estimate.low, estimate.high
    return f"{ratio(value, low, high)} {spread(value, low, high)}".rstrip()


def _refused(comparisons: Sequence[Comparison]) -> list[str]:
    """Return one line for everything that could not run."""
    return [
        f"{one.part}, {one.passes}, width {one.dim}, {one.tokens} tokens: {side.name}: {side.refusal}"
        for one in comparisons
        for side in (one.ours, one.peer)
        if side is not None and side.refusal
    ]


if __name__ == "__main__":
    # PyTorch's profiler, which reads memory on the CPU, would narrate every start and stop to stderr.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    run_command(_parser(), _run)
