"""TensorRT without TensorRT: engines that compute on a simulated GPU, and what builds and inspects them.

Where the bindings can be imported, every object is an autospec of its real class; elsewhere it has the names of
`SURFACE` and no others, which are held against the real classes by a test.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cuda_fakes import KERNEL_S, FakeRuntime, SimulatedGpu

from effvit.export import bindings_device
from effvit.export.bindings_device import BindingsDevice

# What of TensorRT is used, class by class.
SURFACE = {
    "Builder": (
        "create_network",
        "create_builder_config",
        "create_optimization_profile",
        "build_serialized_network",
    ),
    "INetworkDefinition": ("num_layers", "get_layer", "get_input"),
    "ITensor": ("name",),
    "ILayer": ("type",),
    "IAttentionInputLayer": ("type", "attention"),
    "IAttention": ("decomposable",),
    "OnnxParser": ("parse_from_file", "num_errors", "get_error"),
    "OnnxParserRefitter": ("refit_from_file", "num_errors", "get_error"),
    "Refitter": ("get_missing_weights", "refit_cuda_engine"),
    "ISerializationConfig": ("set_flag",),
    "ParserError": ("node_name", "node_operator", "desc"),
    "IBuilderConfig": (
        "set_memory_pool_limit",
        "builder_optimization_level",
        "profiling_verbosity",
        "set_flag",
        "clear_flag",
        "add_optimization_profile",
        "create_timing_cache",
        "set_timing_cache",
        "get_timing_cache",
    ),
    "IOptimizationProfile": ("set_shape",),
    "ITimingCache": ("serialize",),
    "Runtime": ("deserialize_cuda_engine", "engine_host_code_allowed"),
    "ICudaEngine": (
        "num_io_tensors",
        "get_tensor_name",
        "get_tensor_mode",
        "get_tensor_dtype",
        "get_tensor_profile_shape",
        "create_execution_context",
        "create_engine_inspector",
        "refittable",
        "create_serialization_config",
        "serialize_with_config",
    ),
    "IExecutionContext": (
        "set_input_shape",
        "infer_shapes",
        "get_tensor_shape",
        "set_tensor_address",
        "execute_async_v3",
        "profiler",
    ),
    "EngineInspector": ("execution_context", "get_engine_information"),
}
# Enumerations, and what of each is used; and classes that are subclassed.
CHOICES = {
    "BuilderFlag": ("TF32", "REFIT", "VERSION_COMPATIBLE"),
    "DataType": ("FLOAT", "HALF"),
    "LayerInformationFormat": ("JSON",),
    "LayerType": ("ATTENTION_INPUT", "SOFTMAX"),
    "MemoryPoolType": ("WORKSPACE",),
    "NetworkDefinitionCreationFlag": ("STRONGLY_TYPED",),
    "ProfilingVerbosity": ("DETAILED",),
    "SerializationFlag": ("INCLUDE_REFIT",),
    "TensorIOMode": ("INPUT", "OUTPUT"),
}
SEVERITIES = ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE")
BASES = {"ILogger": "log", "IProfiler": "report_layer_time"}
CLASSES = 5


def bindings() -> ModuleType | None:
    """Return the real bindings where they can be imported, with TensorRT's libraries or without."""
    try:
        return importlib.import_module("tensorrt_bindings")
    except ImportError:
        return None


REAL = bindings()


def made_up(name: str, /, **values: Any) -> Any:
    """Return an object of TensorRT's class `name`: functions become what its methods do, all else its properties."""
    if REAL is None:
        one: Any = mock.MagicMock(spec_set=SURFACE[name])
    else:
        one = mock.create_autospec(getattr(REAL, name), instance=True, spec_set=True)
    for key, value in values.items():
        if callable(value):
            getattr(one, key).side_effect = value
        else:
            setattr(one, key, value)
    return one


def layer(name: str, kind: str = "gemm", of: str = "Half", tactic: str = "") -> dict[str, object]:
    """Return a layer as the inspector of TensorRT 10 writes it."""
    tensors = [{"Name": "a", "Format/Datatype": of}]
    return {"Name": name, "LayerType": kind, "Inputs": tensors, "Outputs": tensors, "TacticName": tactic}


@dataclass
class Tensorrt:
    """One TensorRT and one GPU.

    Its engines take images of `size` in `batches`, and return products with `weight`; their inspector tells of
    `layers`, of which each takes as many milliseconds as it is old. What was asked of it is in `asked`.
    """

    batches: tuple[int, int, int] = (2, 2, 2)
    size: tuple[int, int] = (4, 4)
    layers: Sequence[dict[str, object]] = (layer("mm"),)
    classes: int = CLASSES
    version: str = "10.16.1.11"
    gpu: SimulatedGpu = field(default_factory=SimulatedGpu)
    network_layers: Sequence[object] = ()
    parser_errors: Sequence[tuple[str, str, str]] = ()
    says: Sequence[tuple[str, str]] = ()
    buildable: bool = True
    loadable: bool = True
    runnable: bool = True
    contexts: bool = True
    takes_timing_cache: bool = True
    image_type: str = "FLOAT"
    refittable: bool = True
    refits: bool = True
    missing_weights: Sequence[str] = ()
    model: Callable[[np.ndarray], np.ndarray] | None = None
    asked: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.module = ModuleType("tensorrt")
        self.module.__dict__.update(self._names())
        numbers = 3 * self.size[0] * self.size[1]
        self.weight = np.random.default_rng(0).standard_normal((numbers, self.classes), dtype=np.float32)
        self.device = BindingsDevice(0, FakeRuntime(self.gpu))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this be the TensorRT, and the GPU, of this machine."""
        monkeypatch.setitem(sys.modules, "tensorrt", self.module)
        monkeypatch.setitem(sys.modules, "pycuda", None)
        monkeypatch.setattr(bindings_device, "missing", lambda: None)
        monkeypatch.setattr(bindings_device, "_installed", lambda: FakeRuntime(self.gpu))
        monkeypatch.setattr(
            "effvit.export.backends.tensorrt.package_version", lambda name: {"tensorrt": self.version}.get(name)
        )

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Return what an engine computes."""
        if self.model is not None:
            return self.model(images)
        return images.reshape(len(images), -1) @ self.weight

    def _names(self) -> dict[str, Any]:
        names: dict[str, Any] = {"__version__": self.version}
        if REAL is None:
            names |= {name: IntEnum(name, choices) for name, choices in CHOICES.items()}
            severity = IntEnum("Severity", SEVERITIES)
            names |= {
                name: type(name, (), {"Severity": severity, method: lambda *_: None}) for name, method in BASES.items()
            }
        else:
            names |= {name: getattr(REAL, name) for name in (*CHOICES, *BASES)}
        made = {"Builder": self._builder, "OnnxParser": self._parser, "Runtime": self._runtime}
        return names | made | {"Refitter": self._refitter, "OnnxParserRefitter": self._parser_of_weights}

    def _choice(self, kind: str, name: str) -> Any:
        return getattr(getattr(self.module, kind), name)

    def _speak(self, logger: Any) -> None:
        for severity, text in self.says:
            logger.log(getattr(self.module.ILogger.Severity, severity), text)

    def _builder(self, logger: Any) -> Any:
        def network(flags: int) -> Any:
            self.asked["network"] = flags
            image = made_up("ITensor", name="images")
            return made_up(
                "INetworkDefinition",
                num_layers=len(self.network_layers),
                get_layer=lambda index: self.network_layers[index],
                get_input=lambda _: image,
            )

        def build(network: Any, config: Any) -> bytes | None:
            self._speak(logger)
            self.asked |= {"level": config.builder_optimization_level, "verbosity": config.profiling_verbosity}
            return b"a plan" if self.buildable else None

        return made_up(
            "Builder",
            create_network=network,
            create_builder_config=self._config,
            create_optimization_profile=lambda: made_up(
                "IOptimizationProfile", set_shape=lambda *shapes: self.asked.update(profile=shapes)
            ),
            build_serialized_network=build,
        )

    def _config(self) -> Any:
        flags: dict[Any, bool] = self.asked.setdefault("flags", {})

        def create(blob: bytes) -> Any:
            self.asked["timing_cache"] = blob
            return None if blob == b"damaged" else made_up("ITimingCache")

        def use(cache: Any, ignore_mismatch: bool) -> bool:
            assert cache is not None
            assert not ignore_mismatch
            return self.takes_timing_cache or not self.asked["timing_cache"]

        return made_up(
            "IBuilderConfig",
            set_flag=lambda flag: flags.update({flag.name: True}),
            clear_flag=lambda flag: flags.update({flag.name: False}),
            set_memory_pool_limit=lambda pool, size: self.asked.update(workspace=(pool.name, size)),
            add_optimization_profile=lambda _: 0,
            create_timing_cache=create,
            set_timing_cache=use,
            get_timing_cache=lambda: made_up("ITimingCache", serialize=lambda: b"times"),
        )

    def _parser(self, network: Any, logger: Any) -> Any:
        def parse(file: str) -> bool:
            self.asked["parsed"] = file
            return not self.parser_errors

        errors = {"num_errors": len(self.parser_errors), "get_error": self._error}
        return made_up("OnnxParser", parse_from_file=parse, **errors)

    def _error(self, index: int) -> Any:
        name, kind, text = self.parser_errors[index]
        if REAL is None:
            return SimpleNamespace(node_name=lambda: name, node_operator=lambda: kind, desc=lambda: text)
        return made_up("ParserError", node_name=lambda: name, node_operator=lambda: kind, desc=lambda: text)

    def _refitter(self, engine: Any, logger: Any) -> Any:
        def refit() -> bool:
            self._speak(logger)
            assert self.asked["weights"], "weights are given before they are put in"
            self.asked["refitted"] = self.refits
            return self.refits

        return made_up("Refitter", get_missing_weights=lambda: list(self.missing_weights), refit_cuda_engine=refit)

    def _parser_of_weights(self, refitter: Any, logger: Any) -> Any:
        def take(file: str) -> bool:
            self.asked["weights"] = file
            return not self.parser_errors

        errors = {"num_errors": len(self.parser_errors), "get_error": self._error}
        return made_up("OnnxParserRefitter", refit_from_file=take, **errors)

    def _serialized(self, config: Any) -> bytes:
        (call,) = config.set_flag.call_args_list
        self.asked["serialized"] = call.args[0].name
        return b"a plan with other weights" if self.asked.get("refitted") else b"a plan"

    def _runtime(self, logger: Any) -> Any:
        def load(plan: bytes) -> Any:
            self._speak(logger)
            self.asked |= {"host_code": runtime.engine_host_code_allowed, "plan": plan}
            return self._engine() if self.loadable else None

        runtime = made_up("Runtime", deserialize_cuda_engine=load)
        return runtime

    def _engine(self) -> Any:
        modes = {"images": "INPUT", "logits": "OUTPUT"}
        types = {"images": self.image_type, "logits": "FLOAT"}
        inspector = made_up(
            "EngineInspector",
            get_engine_information=lambda _: json.dumps(
                {"Layers": list(self.layers), "Bindings": ["images", "logits"]}
            ),
        )
        return made_up(
            "ICudaEngine",
            num_io_tensors=2,
            get_tensor_name=lambda index: ("images", "logits")[index],
            get_tensor_mode=lambda name: self._choice("TensorIOMode", modes[name]),
            get_tensor_dtype=lambda name: self._choice("DataType", types[name]),
            get_tensor_profile_shape=lambda *_: [(batch, 3, *self.size) for batch in self.batches],
            create_execution_context=lambda: self._context() if self.contexts else None,
            create_engine_inspector=lambda: inspector,
            refittable=self.refittable,
            create_serialization_config=lambda: made_up("ISerializationConfig"),
            serialize_with_config=self._serialized,
        )

    def _context(self) -> Any:
        state: dict[str, Any] = {}

        def shape(name: str) -> tuple[int, ...]:
            return state["shape"] if name == "images" else (state["shape"][0], self.classes)

        def set_shape(name: str, wanted: Sequence[int]) -> bool:
            state["shape"] = tuple(wanted)
            self.asked.setdefault("shapes", []).append(tuple(wanted))
            return tuple(wanted[1:]) == (3, *self.size)

        def compute() -> None:
            images, logits = (self.gpu.array(state[name], shape(name)) for name in ("images", "logits"))
            logits[:] = self.logits(images)

        def enqueue(stream: int) -> bool:
            self.asked["enqueued"] = self.asked.get("enqueued", 0) + 1
            self.gpu.enqueue(compute, KERNEL_S)
            if isinstance(context.profiler, self.module.IProfiler):
                for age, one in enumerate(self.layers, start=1):
                    context.profiler.report_layer_time(one["Name"], float(age))
            return self.runnable

        context = made_up(
            "IExecutionContext",
            set_input_shape=set_shape,
            infer_shapes=list,
            get_tensor_shape=shape,
            set_tensor_address=lambda name, address: state.update({name: address}) is None,
            execute_async_v3=enqueue,
        )
        return context
