"""Weights of another checkpoint in an engine that was built for that: no kernel is chosen anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.environment import engine_gpus, package_version
from effvit.errors import ExportError, UnsupportedError
from effvit.export.base import Artifact, Source
from effvit.export.engine_file import build_log, check_engine
from effvit.export.tensorrt_engine import load_engine
from effvit.export.tensorrt_log import Messages, refused_nodes
from effvit.storage import write_atomically

if TYPE_CHECKING:
    import tensorrt as trt

    from effvit.run import Run

REFITTABLE = "build one with `effvit export --trt fp16 --refit`"


def source_for(engine: Artifact, run: Run) -> Source:
    """Return what the engine is made from that has the weights of `run` and is like `engine` in all else.

    Raises:
        UnsupportedError: It is not refittable, or quantised, or another model than that of the run.
        ExportError: It is of another TensorRT, GPU or driver than is here.
    """
    if engine.engine is None or not engine.engine.refittable:
        raise UnsupportedError(f"the weights of {engine.path} cannot be exchanged", REFITTABLE)
    if engine.precision.quantised:
        # Scales are what kernels were fused with; those of other weights are others.
        raise UnsupportedError(
            f"{engine.path} is quantised by the ranges of its own weights and images", "export the run to a new engine"
        )
    if replace(engine.model, weights=None) != replace(run.record.spec, weights=None):
        raise UnsupportedError(
            f"{engine.path} is another model than {run.name}: "
            f"{engine.model.backbone}, {engine.model.attention}, {engine.model.classes} classes",
            "name a run of the same model, attention and classes",
        )
    check_engine(engine, package_version("tensorrt"), engine_gpus())
    pins = () if engine.pinned is None else engine.pinned.modules
    return Source(run, engine.height, engine.width, engine.precision, pins=pins, engine=engine.engine)


def refit_engine(plan: bytes, graph: Path, path: Path, *, host_code: bool) -> None:
    """Put the weights of the file `graph` into the engine `plan`, and write what comes of it to `path`.

    It stays refittable. What TensorRT said stays beside it, as of a build. CUDA is to be asked for a GPU before.

    Raises:
        ExportError: TensorRT refuses the engine or the weights, or some are missing.
        StorageError: The disk is full, or the folder cannot be written.
    """
    loaded = load_engine(plan, host_code=host_code)
    log = loaded.messages
    try:
        refitted = _refitted(loaded.engine, graph, log)
    finally:
        write_atomically(build_log(path), "\n".join([*log.lines, ""]).encode())
    write_atomically(path, refitted)


def _refitted(engine: trt.ICudaEngine, graph: Path, log: Messages) -> bytes:
    import tensorrt as trt

    if not engine.refittable:
        raise ExportError("refit", "TensorRT says that the weights of the engine cannot be exchanged", REFITTABLE)
    refitter = trt.Refitter(engine, log.logger)
    parser = trt.OnnxParserRefitter(refitter, log.logger)
    if not parser.refit_from_file(str(graph)):
        raise ExportError(
            "refit", f"TensorRT does not take the weights of {graph.name}: {refused_nodes(parser, log)}", REFITTABLE
        )
    missing = refitter.get_missing_weights()
    if missing:
        raise ExportError(
            "refit", f"{graph.name} lacks {len(missing)} weights of the engine, such as {missing[0]}", REFITTABLE
        )
    if not refitter.refit_cuda_engine():
        raise ExportError("refit", f"TensorRT cannot exchange the weights: {log.error}", REFITTABLE)
    config = engine.create_serialization_config()
    config.set_flag(trt.SerializationFlag.INCLUDE_REFIT)
    return bytes(engine.serialize_with_config(config))
