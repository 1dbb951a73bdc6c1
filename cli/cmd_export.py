"""`effvit export`: artifacts, verified against PyTorch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.options import (
    DEFAULT_RUNS,
    AttentionsOption,
    FallbackOption,
    JsonOption,
    ResolutionsOption,
    RunArguments,
    RunsOption,
    ThreadsOption,
    attentions_from_text,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, progress_bars, say, show, warn, write_json
from effvit.errors import BackendUnavailableError, UsageError

if TYPE_CHECKING:
    from effvit.export.base import Artifact, Backend, Source
    from effvit.export.build import Fallback, Limits
    from effvit.profiling.pixels import PixelStore
    from effvit.spec import Precision


def export(
    run: RunArguments = None,
    onnx: Annotated[str | None, typer.Option(metavar="PRECISION,...", help="typed ONNX graphs [default: fp32]")] = None,
    trt: Annotated[
        str | None, typer.Option(metavar="PRECISION,...", help="TensorRT engines, and their ONNX graphs")
    ] = None,
    attn: AttentionsOption = None,
    res: ResolutionsOption = None,
    verify_images: Annotated[
        int, typer.Option(metavar="N", min=1, help="held-out images to compare with PyTorch on")
    ] = 64,
    allow_fallback: FallbackOption = False,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="POINTS", min=0, help="refuse an artifact that loses more percentage points of top-1"),
    ] = None,
    threads: ThreadsOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Write artifacts of a run, each compared with the PyTorch model on real held-out images.

    What counts is how they decide: the share of images with the same answer, and what that does to accuracy, each with
    its doubt. There is one graph for every resolution and precision; the batch is free. Artifacts made before are found
    again. A runtime that does something else than it was asked for, such as computing in another type, ends with exit
    code 4; the graphs that engines are made from are not judged by that, only by what they return.
    """
    graphs = precisions_from_text(onnx) if onnx is not None else []
    engines = precisions_from_text(trt) if trt is not None else []
    if not graphs and not engines:
        graphs = precisions_from_text("fp32")
    sizes = resolutions_from_text(res) if res is not None else None

    from effvit.environment import usable_cores
    from effvit.export.base import Source, pick_backend
    from effvit.export.build import Limits, refuse
    from effvit.profiling.pixels import PixelStore
    from effvit.run import resolve_runs

    graph_backend, engine_backend = pick_backend("ort-cpu"), pick_backend("tensorrt")
    missing = engine_backend.unavailable() if engines else None
    chosen = resolve_runs(runs, run or [], attentions_from_text(attn))
    fallback = warn if allow_fallback else refuse
    wanted: list[tuple[Backend, Precision, Fallback | None]] = [
        (graph_backend, precision, fallback if precision in graphs else None)
        for precision in dict.fromkeys([*graphs, *engines])
    ]
    wanted += [(engine_backend, precision, fallback) for precision in engines if missing is None]
    made: list[Artifact] = []
    with progress_bars() as progress, PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels:
        for one in chosen:
            for height, width in sizes or [one.record.spec.trained]:
                for backend, precision, judge in wanted:
                    say(f"exporting {one.name} at {height} x {width} px, {precision}, {backend.format}")
                    source = Source(one, height, width, precision)
                    limits = Limits(max_drop, judge)
                    made.append(_export(source, backend, pixels, verify_images, threads or usable_cores(), limits))
    if json:
        import msgspec

        write_json(msgspec.json.encode(made))
    else:
        from effvit.cli.render import artifacts_table, flips_table

        show(artifacts_table(made))
        if any(artifact.parity and artifact.parity.flips for artifact in made):
            show(flips_table(made))
    if missing is not None:
        raise BackendUnavailableError(
            f"the typed ONNX graphs are written, but no TensorRT engine: {missing}", engine_backend.install
        )


def _export(
    source: Source,
    backend: Backend,
    pixels: PixelStore,
    verify_images: int,
    threads: int,
    limits: Limits,
) -> Artifact:
    from effvit.backbone import check_resolution
    from effvit.export.build import verified_artifact

    spec, resolution, precision = source.run.record.spec, (source.height, source.width), source.precision
    check_resolution(spec.backbone, resolution, spec.patch or 1)
    if backend.unavailable() is None and precision not in backend.precisions:
        raise UsageError(
            f"a {precision} artifact cannot be verified here: {backend.name} does not run {precision}",
            f"choose one of: {', '.join(sorted(backend.precisions))}",
        )
    backend.require(precision)
    images = pixels.get(source.run, *resolution, verify_images)
    return verified_artifact(source, backend, images.path, threads, images.truth, limits)
