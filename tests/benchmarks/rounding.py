"""How the error of a number type grows with depth: `python tests/benchmarks/rounding.py --help`.

Behind every block, the relative error of the numbers that pass on, beside fp32, in units of the type's own rounding:
what `effvit diff` takes for explained. fp16, int8 and fp8 as ONNX Runtime computes the graphs that effvit exports, bf16
as PyTorch does on the processor, tf32 with the factors of every product rounded to 11 bits, fp32 against float64.
"""

from __future__ import annotations

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import kept, run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from torch.overrides import TorchFunctionMode
from untrained_runs import make_run

from effvit.cli.options import names_from_text, precisions_from_text
from effvit.cli.output import say
from effvit.environment import Environment, capture_environment
from effvit.errors import ExportError
from effvit.export.backends.tensorrt import graph_backend
from effvit.export.base import Images, Source, pick_backend
from effvit.export.cache import find, make
from effvit.export.differences import ROUNDING, Side, compare_blocks
from effvit.export.typed import TypedModel
from effvit.preprocessing import normalise
from effvit.profiling.pixels import PixelStore
from effvit.run import Run
from effvit.runs import find_runs
from effvit.spec import Precision
from effvit.surgery import attention_variants

SCHEMA = "effvit.rounding-benchmark/1"
MODELS = "test_vit:64,vit_tiny_patch16_224:224"
IN_ONNX = (Precision.FP16, Precision.INT8, Precision.FP8)
PRODUCTS = (
    torch.nn.functional.linear, torch.nn.functional.conv2d, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Growth:
    """The relative errors behind the embedding, every block, and the head, on real images."""

    model: str
    attention: str
    trained: bool
    precision: Precision
    errors: tuple[float, ...]

    @property
    def units(self) -> tuple[float, ...]:
        """The errors in roundings of the type, over the root of how many parts there were."""
        unit = ROUNDING[self.precision]
        return tuple(error / unit / math.sqrt(index + 1) for index, error in enumerate(self.errors))

    @property
    def exponent(self) -> float:
        """The power of the depth that the errors behind the blocks grow with, by least squares of logarithms."""
        errors = self.errors[1:-1]
        return float(np.polyfit(np.log(np.arange(len(errors)) + 2), np.log(errors), 1)[0])


@dataclass(frozen=True, slots=True)
class Report:
    """What the JSON file holds."""

    command: str
    environment: Environment
    images: int
    growths: tuple[Growth, ...]
    schema: str = SCHEMA


class RoundedFactors(TorchFunctionMode):
    """Rounds the factors of every product to 11 bits, as tensor cores read them in TF32."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            return _plain_attention(*args, **kwargs)
        if func in PRODUCTS:
            args = (_rounded(args[0]), _rounded(args[1]), *args[2:])
        elif func is torch.einsum:
            args = (args[0], *map(_rounded, args[1:]))
        return func(*args, **kwargs)


def _rounded(values: Tensor) -> Tensor:
    if values.dtype != torch.float32:
        return values
    bits = values.contiguous().view(torch.int32)
    return ((bits + 0x1000) & ~0x1FFF).view(torch.float32)


def _plain_attention(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor | None = None, **rest: Any) -> Tensor:
    scale = rest.get("scale") or q.shape[-1] ** -0.5
    scores = _rounded(q) @ _rounded(k.transpose(-2, -1)) * scale
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -math.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return _rounded(scores.softmax(dim=-1)) @ _rounded(v)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure how errors of number types grow with depth, on the CPU.")
    parser.add_argument("--models", default=MODELS, help="timm models with random weights and their px, MODEL:PX")
    parser.add_argument("--attn", default=",".join(attention_variants()), help="variants")
    parser.add_argument("--precision", default="fp32,tf32,fp16,bf16,int8,fp8", help="number types")
    parser.add_argument("--runs", type=Path, help="trained runs in this folder, too")
    parser.add_argument("--images", type=int, default=8, help="held-out images")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--folder", type=Path, help="keep models here")
    parser.add_argument("--out", type=Path, help="write everything to this JSON file")
    parser.add_argument("--show", type=Path, help="measure nothing: show this JSON file")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown to stdout")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    if arguments.show is not None:
        report = read_report(arguments.show, Report)
    else:
        torch.set_num_threads(arguments.threads)
        with kept(arguments.folder) as folder:
            growths = tuple(_growths(arguments, folder))
        command = shlex.join(["python", *sys.argv])
        report = Report(command, capture_environment(arguments.threads), arguments.images, growths)
        if arguments.out is not None:
            write_report(arguments.out, report)
    show_table(_table(report), markdown=arguments.markdown)


def _growths(arguments: argparse.Namespace, folder: Path) -> Iterator[Growth]:
    with PixelStore() as pixels:
        for run, px, trained in _runs(arguments, folder):
            images = normalise(np.load(pixels.get(run, px, px, arguments.images).path), run.record.preprocessing)
            for precision in precisions_from_text(arguments.precision):
                try:
                    errors = tuple(_errors(Source(run, px, px, precision), images, arguments.threads))
                except ExportError as error:  # of a graph with all its blocks' ends as outputs
                    say(f"{run.name}, {precision}: left out: {error.message}")
                    continue
                spec = run.record.spec
                yield (growth := Growth(spec.backbone, spec.attention, trained, precision, errors))
                say(f"{run.name}, {precision}: {max(growth.units):.2f} roundings, power {growth.exponent:.2f}")


def _runs(arguments: argparse.Namespace, folder: Path) -> Iterator[tuple[Run, int, bool]]:
    for text in names_from_text(arguments.models):
        model, _, px = text.partition(":")
        for attention in names_from_text(arguments.attn):
            yield make_run(folder, attention, name=f"{model}-{attention}", backbone=model, px=int(px)), int(px), False
    if arguments.runs is not None:
        for run in find_runs(arguments.runs):
            yield run, run.record.spec.trained[0], True


def _errors(source: Source, images: Images, threads: int) -> Sequence[float]:
    if source.precision in IN_ONNX:
        ort = pick_backend("ort-cpu")
        exact = replace(source, precision=Precision.FP32)
        backend = graph_backend(source.precision) if source.precision is Precision.FP8 else ort
        sides = [Side(find(one, by) or make(one, by), by) for one, by in ((exact, ort), (source, backend))]
        return [part.error for part in compare_blocks(sides[0], sides[1], images, threads).parts]
    exactly = torch.float64 if source.precision is Precision.FP32 else torch.float32
    batch = torch.from_numpy(images)
    wanted = _ends(source.model().to(exactly), lambda model: model(batch.to(exactly)))
    rounding = RoundedFactors() if source.precision is Precision.TF32 else nullcontext()
    with rounding:
        typed = TypedModel(source.model(), source.precision)
        found = _ends(typed.model, lambda _: typed(batch))
    return [
        float(torch.linalg.vector_norm(one - other) / torch.linalg.vector_norm(other))
        for one, other in zip(found, wanted, strict=True)
    ]


def _ends(model: VisionTransformer, run: Callable[[VisionTransformer], Tensor]) -> list[Tensor]:
    """Return what passes between the parts of `model` when it is `run`, in float64."""
    ends: list[Tensor] = []
    model.blocks[0].register_forward_pre_hook(lambda _, given: ends.append(given[0].double()))
    for block in model.blocks:
        block.register_forward_hook(lambda *given: ends.append(given[-1].double()))
    with torch.inference_mode():
        ends.append(run(model).double())
    return ends


def _table(report: Report) -> Table:
    table = Table(title=f"errors on {report.images} images, in roundings of the type", box=SIMPLE_HEAD)
    for head in ("type", "model", "weights"):
        table.add_column(head)
    for head in ("models", "least", "median", "most", "power of depth"):
        table.add_column(head, justify="right")
    for kind in dict.fromkeys((one.precision, one.model, one.trained) for one in report.growths):
        some = [one for one in report.growths if (one.precision, one.model, one.trained) == kind]
        units = [unit for one in some for unit in one.units]
        powers = [one.exponent for one in some]
        table.add_row(
            str(kind[0]),
            kind[1],
            "trained" if kind[2] else "random",
            str(len(some)),
            *(f"{value:.2f}" for value in (min(units), float(np.median(units)), max(units))),
            f"{min(powers):.2f} to {max(powers):.2f}",
        )
    return table


if __name__ == "__main__":
    run_command(_parser(), _run)
