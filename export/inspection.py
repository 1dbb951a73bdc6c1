"""What an artifact really is, whatever its name says: a graph, an engine, or the layers of one. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effvit.environment import package_version
from effvit.errors import ArtifactError, FallbackError
from effvit.export.base import Parity, pick_backend
from effvit.export.census import GraphCensus, graph_census
from effvit.export.engine_census import EngineCensus, engine_census, layer_times
from effvit.export.engine_file import check_engine
from effvit.export.graph_file import AGAIN, read_file
from effvit.export.pins import Pinned
from effvit.export.sidecars import Sidecar, sidecars_of
from effvit.spec import Precision
from effvit.storage import sha256_of

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
    """One artifact: `graph` of an ONNX file, `engine` of one of TensorRT, and what earlier checks said of the file."""

    path: str
    graph: GraphCensus | None
    engine: EngineCensus | None
    precision: Precision | None
    verdicts: tuple[Verdict, ...]


def inspect_artifact(path: Path, times: Path | None = None) -> Inspection:
    """Return what the file `path` holds: an ONNX graph, an engine, or what an engine's inspector wrote (.json).

    `times` is what `trtexec --exportProfile` wrote of the same engine.

    Raises:
        ArtifactError: It is none of these, empty, torn, or not the file that was verified.
        BackendUnavailableError: It is an engine, and TensorRT is not here.
        ExportError: It is an engine of another TensorRT or GPU.
    """
    timed = None if times is None else layer_times(read_file(times))
    if path.suffix == LAYERS:
        return Inspection(str(path), None, engine_census(read_file(path), timed), None, ())
    if path.suffix in ENGINES:
        plan, known = read_file(path), _checked(path)
        engine = engine_census(_layer_information(plan, known), timed)
        return Inspection(str(path), None, engine, known[0].artifact.precision if known else None, _verdicts(known))
    graph = graph_census(path)
    return Inspection(str(path), graph, None, graph.precision, _verdicts(_checked(path)))


def check_types(inspection: Inspection) -> None:
    """Check that products with weights are computed in the type that the artifact is said to have.

    Raises:
        FallbackError: Most of them are of another type.
    """
    precision = inspection.precision
    if precision is None:
        return
    asked: Precision = precision
    if inspection.graph is not None:
        counts = {share.type: share.weighted for share in inspection.graph.products}
        if precision is Precision.TF32:
            asked = Precision.FP32  # a graph cannot say more: rounding inside products is the runtime's
        elif inspection.graph.pins:
            counts.pop(Precision.FP32, None)  # as it was asked for
    elif inspection.engine is not None:
        counts = {share.type: share.layers for share in inspection.engine.products}
    total, kept = sum(counts.values()), counts.get(asked, 0)
    if 2 * kept <= total and total:
        others = ", ".join(f"{count} in {kind}" for kind, count in counts.items() if kind != asked and count)
        raise FallbackError(
            f"{inspection.path} is said to be {precision}, but only {kept} of its {total} products with weights are: "
            f"{others}",
            AGAIN,
        )


def _checked(path: Path) -> list[Sidecar]:
    """Return what is known of the file `path`.

    Raises:
        ArtifactError: It is not the file that was verified.
    """
    known = sidecars_of(path)
    if not known:
        return []
    size_bytes = path.stat().st_size
    for sidecar in known:
        if sidecar.artifact.size_bytes != size_bytes:
            raise ArtifactError(
                f"{path} is not the file that was verified: it has {size_bytes} bytes, not "
                f"{sidecar.artifact.size_bytes}",
                AGAIN,
            )
    digest = sha256_of(path)
    if any(sidecar.artifact.sha256 != digest for sidecar in known):
        raise ArtifactError(f"{path} is not the file that was verified: its content has changed", AGAIN)
    return known


def _layer_information(plan: bytes, known: Sequence[Sidecar]) -> bytes:
    """Return the inspector's JSON of an engine, if it is of use here."""
    from effvit.environment import capture_environment

    backend = pick_backend("tensorrt")
    for sidecar in known:
        check_engine(sidecar.artifact, package_version("tensorrt"), capture_environment().gpus)
    backend.require()
    from effvit.export.backends.tensorrt import layer_information

    return layer_information(plan)


def _verdicts(known: Sequence[Sidecar]) -> tuple[Verdict, ...]:
    return tuple(
        Verdict(sidecar.backend, sidecar.artifact.precision, sidecar.artifact.parity, sidecar.artifact.pinned)
        for sidecar in known
        if sidecar.artifact.parity is not None
    )
