"""How `effvit export` is told to build TensorRT engines, and what it says of those it built."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import bytes_from_text
from effvit.errors import UsageError
from effvit.export.engine_options import DEFAULT_ENGINE, EngineOptions

BATCH_EXAMPLE = "write --batch SMALLEST:TUNED:LARGEST, such as 1:8:64, or --batch 8 for that batch alone"

BatchOption = Annotated[
    str,
    typer.Option(
        "--batch", metavar="N or MIN:OPT:MAX", help="the batch of engines and programs, or a range and what to tune for"
    ),
]
WorkspaceOption = Annotated[
    str | None, typer.Option("--workspace", metavar="SIZE", help="memory for a layer of an engine [default: 4GiB]")
]
LevelOption = Annotated[
    int,
    typer.Option("--optimisation-level", metavar="0-5", help="how long engines look for kernels"),
]
AttentionOperatorOption = Annotated[
    bool,
    typer.Option("--attention-operator", help="give TensorRT softmax attention as one operator (ONNX operator set 23)"),
]
RefitOption = Annotated[bool, typer.Option("--refit", help="engines whose weights can be exchanged")]
VersionCompatibleOption = Annotated[
    bool, typer.Option("--version-compatible", help="engines that load in later versions of TensorRT, too")
]


def engine_options(
    batch: str,
    workspace: str | None,
    level: int,
    *,
    attention_operator: bool,
    refit: bool,
    version_compatible: bool,
) -> EngineOptions:
    """Return the options as they were written.

    Raises:
        UsageError: A batch or a size that is none, batches out of order, or a level that there is not.
    """
    return EngineOptions(
        batches=batches_from_text(batch),
        workspace_bytes=DEFAULT_ENGINE.workspace_bytes
        if workspace is None
        else int(bytes_from_text(workspace, "--workspace")),
        level=level,
        attention="operator" if attention_operator else "products",
        refittable=refit,
        version_compatible=version_compatible,
    )


def batches_from_text(text: str) -> tuple[int, int, int]:
    """Return the smallest, the tuned-for and the largest batch of `1:8:64`, or of `8`, which is all three.

    Raises:
        UsageError: Not a number, or not one or three of them.
    """
    try:
        numbers = [int(part) for part in text.split(":")]
    except ValueError:
        raise UsageError(f"{text!r} is not a batch", BATCH_EXAMPLE) from None
    if len(numbers) == 1:
        return numbers[0], numbers[0], numbers[0]
    if len(numbers) != 3:
        raise UsageError(f"{text!r} is not a range of batches", BATCH_EXAMPLE)
    least, tuned, most = numbers
    return least, tuned, most


def engine_summary(engine: Path) -> str:
    """Return in a sentence what an engine's layers compute in, and what its build skipped."""
    from effvit.export.engine_census import engine_census
    from effvit.export.engine_file import build_log, layers_file, skipped_tactics

    if not (layers_file(engine).is_file() and build_log(engine).is_file()):
        return f"what was found of {engine.name} when it was built is gone; `effvit inspect` asks it again"
    census = engine_census(layers_file(engine).read_bytes())
    products = ", ".join(f"{share.layers} in {share.type}" for share in census.products) or "none that it tells of"
    of = "" if census.attentions is None else f"/{census.attentions}"
    skipped = skipped_tactics(build_log(engine).read_text())
    return (
        f"{census.layers} layers; products: {products}; fused attention {census.fused_attentions}{of}; "
        f"{census.reformats.layers} reformats; {skipped} kernels not tried (see {build_log(engine).name})"
    )
