"""What an artifact really is, whatever its name says: a graph, an engine, or the layers of one. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from effvit.environment import engine_gpus, package_version
from effvit.errors import FallbackError
from effvit.export.base import Parity, pick_backend
from effvit.export.census import GraphCensus, graph_census
from effvit.export.device import open_device
from effvit.export.engine_census import EngineCensus, computed_in, engine_census, layer_times
from effvit.export.engine_file import check_engine
from effvit.export.graph_file import AGAIN, read_file
from effvit.export.pins import Pinned
from effvit.export.program_census import ProgramCensus, program_census
from effvit.export.program_file import SUFFIX as PROGRAM
from effvit.export.quantisation import Quantised
from effvit.export.sidecars import Sidecar, intact_sidecars
from effvit.spec import Precision

ENGINES = (".engine", ".plan", ".trt")
LAYERS = ".json"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How far the artifact lies from the PyTorch model where `backend` runs it, and what stays in fp32 in it."""

    backend: str
    precision: Precision
    parity: Parity
    pinned: Pinned | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """One artifact, and what earlier checks said of the file.

    `graph` is that of an ONNX file, `engine` one of TensorRT, `program` one of ExecuTorch; the others are None.
    `precision` is the one that it was made for, and `quantised` how, where that is known.
    """

    path: str
    graph: GraphCensus | None
    engine: EngineCensus | None
    precision: Precision | None
    verdicts: tuple[Verdict, ...]
    quantised: Quantised | None = None
    program: ProgramCensus | None = None


def inspect_artifact(path: Path, times: Path | None = None) -> Inspection:
    """Return what the file `path` holds: a graph, an engine, what an engine's inspector wrote (.json), or a program.

    `times` is what `trtexec --exportProfile` wrote of the same engine.

    Raises:
        ArtifactError: It is not there, or no JSON of an inspector.
        DamagedArtifactError: It is empty, torn, or no graph or program.
        ChangedFileError: It is not the file that was verified.
        BackendUnavailableError: It is an engine or a program, and its runtime is not here.
        ExportError: It is an engine of another TensorRT or GPU.
    """
    timed = None if times is None else layer_times(read_file(times))
    if path.suffix == LAYERS:
        return Inspection(str(path), None, engine_census(read_file(path), timed), None, ())
    if path.suffix in ENGINES:
        plan, known = read_file(path), intact_sidecars(path)
        engine = _census(plan, known, timed)
        artifact = known[0].artifact if known else None
        precision, quantised = (None, None) if artifact is None else (artifact.precision, artifact.quantised)
        return Inspection(str(path), None, engine, precision, _verdicts(known), quantised)
    if path.suffix == PROGRAM:
        return _program(path)
    graph = graph_census(path)
    return Inspection(str(path), graph, None, graph.precision, _verdicts(intact_sidecars(path)))


def _program(path: Path) -> Inspection:
    """Return what the program in the file `path` holds."""
    program, known = program_census(path), intact_sidecars(path)
    quantised = known[0].artifact.quantised if known else None
    precision = None if program.record is None else program.record.precision
    return Inspection(str(path), None, None, precision, _verdicts(known), quantised, program)


def check_types(inspection: Inspection) -> None:
    """Check that products are computed in the type that the artifact is said to have; those with weights, in a graph.

    Raises:
        FallbackError: Most of them are of another type.
    """
    precision = inspection.precision
    if precision is not None and inspection.engine is not None:
        check_engine_types(inspection.path, inspection.engine, precision, inspection.quantised)
    made = inspection.graph or inspection.program
    if precision is None or made is None:
        return
    # A graph cannot say more of TF32: rounding inside products is the runtime's.
    asked = Precision.FP32 if precision is Precision.TF32 else precision
    counts = {share.type: share.weighted for share in made.products}
    if inspection.graph is not None and inspection.graph.pins and asked is not Precision.FP32:
        counts.pop(Precision.FP32, None)  # as it was asked for
    total, kept = sum(counts.values()), counts.get(asked, 0)
    if 2 * kept <= total and total:
        others = ", ".join(f"{count} in {kind}" for kind, count in counts.items() if kind != asked and count)
        raise FallbackError(
            f"{inspection.path} is said to be {precision}, but only {kept} of its {total} products with weights are: "
            f"{others}",
            AGAIN,
        )


def check_engine_types(path: str, engine: EngineCensus, asked: Precision, quantised: Quantised | None) -> None:
    """Check that most products of an engine are computed in the type that was asked for, where it tells.

    Raises:
        FallbackError: They are of another type.
    """
    if computed_in(engine, asked, quantised) in (None, asked):
        return
    shares = ", ".join(f"{share.layers} in {share.type}" for share in engine.products)
    raise FallbackError(f"{path} was to compute in {asked}, but most of its products do not: {shares}", AGAIN)


def _census(plan: bytes, known: Sequence[Sidecar], times: Mapping[str, float] | None) -> EngineCensus:
    """Return what an engine tells of its layers, timed here unless `times` are known; if it is of use here.

    Raises:
        BackendUnavailableError: TensorRT is not here.
        ExportError: It is an engine of another TensorRT or GPU.
    """
    backend = pick_backend("tensorrt")
    for sidecar in known:
        check_engine(sidecar.artifact, package_version("tensorrt"), engine_gpus())
    backend.require()
    device = open_device(0)
    from effvit.export.tensorrt_engine import layer_information, load_engine
    from effvit.export.tensorrt_times import layer_seconds

    # Host code of engines that nobody vouches for is not executed.
    own = [sidecar.artifact.engine for sidecar in known if sidecar.artifact.engine is not None]
    loaded = load_engine(plan, host_code=any(options.version_compatible for options in own))
    information = layer_information(loaded, loaded.typical_context())
    return engine_census(information, layer_seconds(loaded, device) if times is None else times)


def _verdicts(known: Sequence[Sidecar]) -> tuple[Verdict, ...]:
    return tuple(
        Verdict(sidecar.backend, sidecar.artifact.precision, sidecar.artifact.parity, sidecar.artifact.pinned)
        for sidecar in known
        if sidecar.artifact.parity is not None
    )
