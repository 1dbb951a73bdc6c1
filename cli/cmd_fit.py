"""`effvit fit`: what a device can hold and how fast, before anything is copied to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.hosts import split_devices
from effvit.cli.options import (
    DevicesOption,
    JsonOption,
    ThreadsOption,
    attentions_from_text,
    batches_from_text,
    bytes_from_text,
    devices_from_texts,
    names_from_text,
    precisions_from_text,
    resolutions_from_text,
    seconds_from_text,
)
from effvit.cli.output import show, write_json
from effvit.errors import ConstraintError, UsageError

if TYPE_CHECKING:
    from effvit.profiling.fit import PlaceFit
    from effvit.profiling.recommend import Constraints


def fit(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="timm model, see `effvit list models`")
    ] = "vit_small_patch16_224",
    attn: Annotated[
        str | None,
        typer.Option(metavar="NAME,...", help="variants, or mixes such as 0-3:atrous+4-11:linformer [default: all]"),
    ] = None,
    res: Annotated[str, typer.Option(metavar="PX,...", help="image sizes: 224,384 or HEIGHTxWIDTH")] = "224,384",
    batch: Annotated[str, typer.Option(metavar="N,...", help="images a call: 1,8,32 or FIRST:LAST:FACTOR")] = "1",
    precision: Annotated[str, typer.Option(metavar="NAME,...", help="types to compute in")] = "fp32",
    backend: Annotated[str, typer.Option(metavar="NAME,...", help="runtimes: ort-cpu, openvino")] = "ort-cpu",
    device: DevicesOption = None,
    threads: ThreadsOption = None,
    max_latency_p50: Annotated[
        str | None, typer.Option("--max-latency-p50", metavar="TIME", help="median time of a call, at most: 10ms")
    ] = None,
    max_memory: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="peak memory of the process, at most: 512MiB [default: that of the device, if limited]"
        ),
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="result file whose cells improve and test the predictions; may be given several times"
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say which variant, size, batch and precision fit a device, before anything is made for it or copied there.

    Latency and memory are predicted from what the model demands on paper and from the rates of the device, which are
    measured there in seconds; behind ssh by the agent, the only file that is copied. What a result file has of the
    same cell decides instead, and the error of its prediction stands beside it. Ends with exit code 4 where nothing
    fits by its best estimate.
    """
    hosts, here = split_devices(device, threads)
    devices = devices_from_texts(here, threads) if here or not hosts else []
    sizes, batches, precisions = resolutions_from_text(res), batches_from_text(batch), precisions_from_text(precision)
    latency_s = None if max_latency_p50 is None else seconds_from_text(max_latency_p50, "--max-latency-p50")
    memory_bytes = None if max_memory is None else bytes_from_text(max_memory, "--max-memory")
    every = [*devices, *(host.device for host in hosts)]
    if latency_s is None and memory_bytes is None and any(one.memory_bytes is None for one in every):
        raise UsageError(
            "nothing is limited", "add --max-latency-p50 50ms or --max-memory 512MiB, or --device cpu:memory=512MiB"
        )

    from effvit.cli.fitting import history, surveyed
    from effvit.demand import demands_of
    from effvit.mix import parse_mix
    from effvit.profiling.fit import Axes, fit_place
    from effvit.profiling.prediction import check_predictable
    from effvit.profiling.recommend import Constraints
    from effvit.surgery import attention_variants

    backends = names_from_text(backend)
    check_predictable(backends, precisions, every)
    known = history(results or [])
    names = attentions_from_text(attn) or list(attention_variants())
    demands = [demand for name in names for demand in demands_of(parse_mix(name), model, sizes)]
    axes = Axes(tuple(demands), tuple(batches), tuple(precisions), tuple(backends))
    limits = Constraints(latency_s, memory_bytes)
    found = [fit_place(axes, place, limits, known) for place in surveyed(devices, hosts, backends)]
    _write(found, limits, json=json)
    if not any(cell.met for one in found for cell in one.cells):
        raise _nothing(found)


def _write(found: Sequence[PlaceFit], limits: Constraints, *, json: bool) -> None:
    if json:
        import msgspec

        write_json(msgspec.json.encode(found))
        return
    from effvit.cli.fitting import parts

    for one in found:
        for part in parts(one):
            show(part)


def _nothing(found: Sequence[PlaceFit]) -> ConstraintError:
    from effvit.profiling.report.advice import missed, named

    count = sum(len(one.cells) for one in found)
    known = [(one.place.name, one.nearest) for one in found if one.nearest is not None]
    near = ""
    if known:
        place, best = min(known, key=lambda pair: pair[1].excess)
        where = f" on {place}" if len(found) > 1 else ""
        near = f"; the nearest is {named(best)}{where}: {missed(best)}"
    return ConstraintError(
        f"none of {count} cells fits{near}", "allow more, or ask about smaller models, sizes or batches"
    )
