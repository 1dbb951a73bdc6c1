"""`effvit export`: artifacts, verified against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.engines import (
    AttentionOperatorOption,
    BatchOption,
    LevelOption,
    RefitOption,
    VersionCompatibleOption,
    WorkspaceOption,
    engine_options,
    engine_summary,
)
from effvit.cli.launched import alone
from effvit.cli.options import (
    DEFAULT_RUNS,
    AttentionsOption,
    FallbackOption,
    JsonOption,
    MaxDropOption,
    ResolutionsOption,
    RunArguments,
    RunsOption,
    ThreadsOption,
    VerifyImagesOption,
    attentions_from_text,
    calibration_method_from_text,
    pins_from_text,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, progress_bars, say, show, warn, write_json
from effvit.cli.programs import program_summary
from effvit.errors import BackendUnavailableError
from effvit.export.engine_options import DEFAULT_ENGINE
from effvit.export.pins import PINNABLE
from effvit.export.quantisation import DEFAULT_QUANTISATION, Quantisation, Quantised

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from effvit.export.base import Artifact, Backend, Source
    from effvit.export.build import Limits
    from effvit.export.engine_options import AttentionForm
    from effvit.profiling.pixels import PixelStore
    from effvit.spec import Precision


@alone
def export(
    run: RunArguments = None,
    onnx: Annotated[str | None, typer.Option(metavar="PRECISION,...", help="typed ONNX graphs [default: fp32]")] = None,
    trt: Annotated[
        str | None, typer.Option(metavar="PRECISION,...", help="TensorRT engines, and their ONNX graphs")
    ] = None,
    executorch: Annotated[
        str | None, typer.Option(metavar="PRECISION,...", help="ExecuTorch programs for XNNPACK: fp32, int8")
    ] = None,
    attn: AttentionsOption = None,
    res: ResolutionsOption = None,
    verify_images: VerifyImagesOption = 64,
    allow_fallback: FallbackOption = False,
    max_drop: MaxDropOption = None,
    calibration: Annotated[
        str, typer.Option(metavar="METHOD", help="how int8 takes ranges: minmax, entropy or percentile")
    ] = DEFAULT_QUANTISATION.method,
    calibration_images: Annotated[
        int, typer.Option(metavar="N", help="training images that int8 takes ranges from")
    ] = DEFAULT_QUANTISATION.images,
    quantise_attention: Annotated[
        bool, typer.Option("--quantise-attention", help="int8 in the products around the softmax, too")
    ] = False,
    pin_fp32: Annotated[
        str | None,
        typer.Option(
            metavar="auto|NAME,...",
            help="keep modules in fp32 where the artifact has 16 bits or less: as few as repair one that is refused, "
            "or those named, such as blocks.3.attn, 'blocks.*.norm1', 'block 3'",
        ),
    ] = None,
    batch: BatchOption = "1",
    workspace: WorkspaceOption = None,
    level: LevelOption = DEFAULT_ENGINE.level,
    attention_operator: AttentionOperatorOption = False,
    refit: RefitOption = False,
    version_compatible: VersionCompatibleOption = False,
    threads: ThreadsOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Write artifacts of a run, each compared with the PyTorch model on real held-out images.

    What counts is how they decide: the share of images with the same answer, and what that does to accuracy, each with
    its doubt. There is one graph for every resolution and precision; its batch is free, that of an engine is --batch,
    and that of a program is what --batch says to tune for.
    Artifacts made before are found again. A runtime that does something else than it was asked for, such as computing
    in another type, ends with exit code 4; the graphs that engines are made from are not judged by that, only by what
    they return.

    With --pin-fp32 auto, an artifact that is refused for its decisions is compared with the fp32 graph block by block;
    the fewest blocks, then the fewest modules in them, that make it pass stay in fp32, and what that costs is timed.
    """
    graphs = precisions_from_text(onnx) if onnx is not None else []
    engines = precisions_from_text(trt) if trt is not None else []
    programs = precisions_from_text(executorch) if executorch is not None else []
    if not graphs and not engines and not programs:
        graphs = precisions_from_text("fp32")
    sizes = resolutions_from_text(res) if res is not None else None
    quantisation = Quantisation(
        calibration_images, calibration_method_from_text(calibration), attention=quantise_attention
    )
    engine = engine_options(
        batch,
        workspace,
        level,
        attention_operator=attention_operator,
        refit=refit,
        version_compatible=version_compatible,
    )

    from effvit.environment import usable_cores
    from effvit.export.base import Source, pick_backend
    from effvit.export.build import Limits, refuse
    from effvit.profiling.pixels import PixelStore
    from effvit.runs import resolve_runs

    engine_backend = pick_backend("tensorrt")
    missing = engine_backend.unavailable() if engines else None
    chosen = resolve_runs(runs, run or [], attentions_from_text(attn))
    wanted = _wanted(graphs, engines, programs, engine.attention, missing is None)
    pins = pins_from_text(pin_fp32, [precision for _, precision, _ in wanted])
    made: list[Artifact] = []
    with progress_bars() as progress, PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels:
        for one in chosen:
            for height, width in sizes or [one.record.spec.trained]:
                for backend, precision, judged in wanted:
                    say(f"exporting {one.name} at {height} x {width} px, {precision}, {backend.format}")
                    single = engine.batches[1] if backend.fixed_batch else 1
                    source = Source(one, height, width, precision, quantisation, engine=engine, batch=single)
                    limits = Limits(max_drop, (warn if allow_fallback else refuse) if judged else None)
                    made.append(
                        _export(source, backend, pixels, verify_images, threads or usable_cores(), limits, pins)
                    )
                    for sentence in _summaries(made[-1]):
                        say(sentence)
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


def _summaries(artifact: Artifact) -> Iterator[str]:
    """Yield what is to be said of an artifact beside its numbers."""
    if artifact.quantised is not None:
        yield _summary(artifact.quantised)
    if artifact.engine is not None:
        yield engine_summary(Path(artifact.path))
    if artifact.format == "executorch":
        yield program_summary(Path(artifact.path))


def _summary(quantised: Quantised) -> str:
    return (
        f"{quantised.products} of {quantised.of_products} products have 8-bit operands; ranges by "
        f"{quantised.asked.method} from {quantised.images} training images, seed {quantised.asked.seed}"
    )


def _wanted(
    graphs: Sequence[Precision],
    engines: Sequence[Precision],
    programs: Sequence[Precision],
    attention: AttentionForm,
    buildable: bool,
) -> list[tuple[Backend, Precision, bool]]:
    """Return what is exported: graphs for ONNX Runtime and of engines, programs, and engines where `buildable`.

    The third says whether the runtime is to do what it is asked for: not with a graph that an engine is made from.
    """
    from effvit.export.backends.tensorrt import graph_backend
    from effvit.export.base import pick_backend

    wanted = {(pick_backend("ort-cpu"), precision): True for precision in graphs}
    for precision in engines:
        backend = graph_backend(precision, attention)
        # A graph that ONNX Runtime cannot run is written beside its engine alone, which is verified.
        if precision in backend.precisions or not buildable:
            wanted.setdefault((backend, precision), False)
    if buildable:
        wanted |= {(pick_backend("tensorrt"), precision): True for precision in engines}
    wanted |= {(pick_backend("executorch"), precision): True for precision in programs}
    return [(backend, precision, judged) for (backend, precision), judged in wanted.items()]


def _export(
    source: Source,
    backend: Backend,
    pixels: PixelStore,
    verify_images: int,
    threads: int,
    limits: Limits,
    pins: Sequence[str],
) -> Artifact:
    from effvit.cli.pinning import pinned
    from effvit.export.build import verified_artifact
    from effvit.spec import check_resolution

    spec, precision = source.run.record.spec, source.precision
    check_resolution(spec.backbone, (source.height, source.width), spec.patch or 1)
    backend.require(precision)
    images = pixels.get(source.run, source.height, source.width, verify_images)
    if pins and precision in PINNABLE:
        return pinned(source, backend, images, threads, limits, pins)
    return verified_artifact(source, backend, images.path, threads, images.truth, limits)
