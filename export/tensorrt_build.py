"""Engines are built from ONNX graphs whose types say the precision: TensorRT 11 has no other way to tell."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.environment import engine_gpus
from effvit.errors import ExportError
from effvit.export.engine_file import build_log
from effvit.export.engine_options import EngineOptions
from effvit.export.tensorrt_log import Messages, messages, refused_nodes
from effvit.storage import user_cache, write_atomically

if TYPE_CHECKING:
    import tensorrt as trt


def build_engine(graph: Path, path: Path, options: EngineOptions, *, size: tuple[int, int], tf32: bool) -> None:
    """Build an engine for images of `size` (height, width) from the file `graph`, and write it to `path`.

    What TensorRT said stays beside it, whether it can be built or not. CUDA is to be asked for a GPU before.

    Raises:
        ExportError: TensorRT cannot read a node of the graph, or cannot build the engine.
        StorageError: The disk is full, or the folder cannot be written.
    """
    import tensorrt as trt

    log = messages()
    log.lines.clear()
    builder = trt.Builder(log.logger)
    # TensorRT 10 needs the flag, 11 accepts and ignores it. Its number differs between the two.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    try:
        _read(graph, network, log)
        if options.attention == "operator":
            _allow_decomposition(network)
        config = _config(builder, network, options, size, tf32)
        cache = _use_timing_cache(config, log)
        plan = builder.build_serialized_network(network, config)
    finally:
        write_atomically(build_log(path), "\n".join([*log.lines, ""]).encode())
    if plan is None:
        raise ExportError("build", f"TensorRT cannot build the engine: {log.error}", f"see {build_log(path)}")
    write_atomically(cache, bytes(config.get_timing_cache().serialize()))
    write_atomically(path, bytes(plan))


def timing_cache_file(tensorrt: str) -> Path:
    """Return where the times of kernels are kept: they are those of one version of TensorRT on one kind of GPU."""
    gpus = "+".join(dict.fromkeys(engine_gpus())) or "unknown GPU"
    return user_cache() / "tensorrt" / f"{re.sub(r'[^A-Za-z0-9.+]+', '-', gpus)}-{tensorrt}.timing"


def _read(graph: Path, network: trt.INetworkDefinition, log: Messages) -> None:
    """Read the graph into the network.

    Raises:
        ExportError: TensorRT's parser refuses some nodes, which are named.
    """
    import tensorrt as trt

    parser = trt.OnnxParser(network, log.logger)
    if parser.parse_from_file(str(graph)):
        return
    raise ExportError(
        "parse", f"TensorRT cannot read {graph.name}: {refused_nodes(parser, log)}", "report this model to effvit"
    )


def _allow_decomposition(network: trt.INetworkDefinition) -> None:
    """Let attention that no fused kernel takes be computed by others: otherwise it cannot be built at all."""
    import tensorrt as trt

    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The bindings return the base class of all layers.
            layer.__class__ = trt.IAttentionInputLayer
            assert isinstance(layer, trt.IAttentionInputLayer)
            layer.attention.decomposable = True


def _config(
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    options: EngineOptions,
    size: tuple[int, int],
    tf32: bool,
) -> trt.IBuilderConfig:
    """Return what the builder is told.

    Raises:
        ExportError: TensorRT refuses the batches.
    """
    import tensorrt as trt

    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    config.builder_optimization_level = options.level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # the inspector tells types with nothing less
    # On by default; strict fp32 is what fp32 says.
    for flag, wanted in (
        (trt.BuilderFlag.TF32, tf32),
        (trt.BuilderFlag.REFIT, options.refittable),
        (trt.BuilderFlag.VERSION_COMPATIBLE, options.version_compatible),
    ):
        (config.set_flag if wanted else config.clear_flag)(flag)
    profile = builder.create_optimization_profile()
    least, tuned, most = ((batch, 3, *size) for batch in options.batches)
    profile.set_shape(network.get_input(0).name, least, tuned, most)
    if config.add_optimization_profile(profile) < 0:
        raise ExportError("build", f"TensorRT refuses batches {options.batches}", "choose another --batch")
    return config


def _use_timing_cache(config: trt.IBuilderConfig, log: Messages) -> Path:
    """Give the builder what it measured before, and return where to keep what it measures now."""
    import tensorrt as trt

    file = timing_cache_file(trt.__version__)
    known = file.read_bytes() if file.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        log.lines.append(f"warning: {file} is not of this TensorRT and GPU, and is made anew")
        empty = config.create_timing_cache(b"")
        assert empty is not None  # only what is damaged makes none
        config.set_timing_cache(empty, False)
    return file
