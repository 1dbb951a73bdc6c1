"""What a TensorRT engine computes in, read from the JSON of its inspector: TensorRT 10's and 11's dialects.

TensorRT 10 writes `"Bindings": [names]` and one field `Format/Datatype` for each tensor of a layer, TensorRT 11
`"I/O Tensors": [objects]` and the fields `Format` and `DataType`; builds differ in the capitals of the latter.
https://docs.nvidia.com/deeplearning/tensorrt/11.3.0/api/migration/tensorrt-10x-to-11x-IEngineInspector.html
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from effvit.errors import ArtifactError
from effvit.export.census import Port
from effvit.export.products import UNKNOWN
from effvit.export.quantisation import Quantised
from effvit.spec import Precision

INTEGERS = "integers"
# What names of types contain, first to last: "bfloat16" contains "float16", and both contain "float".
_TYPES = (
    (("bf16", "bfloat16"), "bf16"),
    (("fp8", "e4m3", "e5m2"), "fp8"),
    (("fp4", "e2m1"), "fp4"),
    (("fp16", "half", "float16"), "fp16"),
    (("int8", "uint8"), "int8"),
    (("int4",), "int4"),
    (("int32", "int64", "bool"), INTEGERS),
    (("fp32", "float"), "fp32"),
)
_PRODUCT_LAYERS = ("gemm", "convolution", "matrixmultiply", "matmul", "fullyconnected", "attention")
# Kernels of fused attention, as TensorRT calls them: `_gemm_mha_v2_myl0_4`, `fmha_v2_fp16_...`.
_ATTENTION_KERNEL = re.compile(r"fmha|gemm_mha|gemv_mha|flash_attention", re.IGNORECASE)
_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]+)\]")


class _Tensor(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name", default="")
    joint: str = msgspec.field(name="Format/Datatype", default="")
    format: str = msgspec.field(name="Format", default="")
    data_type: str = msgspec.field(name="DataType", default="")
    datatype: str = msgspec.field(name="Datatype", default="")

    @property
    def type(self) -> str:
        """The element type; that of the format where nothing else says it."""
        return type_from_text(self.data_type or self.datatype or self.joint or self.format)


class _Port(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name")
    mode: str = msgspec.field(name="IOMode", default="")
    data_type: str = msgspec.field(name="DataType", default="")
    datatype: str = msgspec.field(name="Datatype", default="")
    dimensions: tuple[int, ...] = msgspec.field(name="Dimensions", default=())


class _Layer(msgspec.Struct, frozen=True):
    name: str = msgspec.field(name="Name", default="")
    kind: str = msgspec.field(name="LayerType", default="")
    inputs: tuple[_Tensor, ...] = msgspec.field(name="Inputs", default=())
    outputs: tuple[_Tensor, ...] = msgspec.field(name="Outputs", default=())
    tactic: str = msgspec.field(name="TacticName", default="")
    metadata: str = msgspec.field(name="Metadata", default="")

    @property
    def type(self) -> str:
        """The type a layer reads: that is what its kernel computes in, whatever it writes."""
        types = [tensor.type for tensor in (*self.inputs, *self.outputs) if tensor.type != UNKNOWN]
        # Masks and indices may come first.
        kind = next((name for name in types if name != INTEGERS), types[0] if types else UNKNOWN)
        return "tf32" if kind == "fp32" and "tf32" in self.tactic.lower() else kind

    @property
    def reformats(self) -> bool:
        return self.kind == "Reformat" or self.name.startswith("Reformatting CopyNode")

    @property
    def softmaxes(self) -> frozenset[str]:
        """The softmax nodes of the ONNX graph that this layer does the work of."""
        return frozenset(node for node in _ONNX_NODE.findall(self.metadata) if "softmax" in node.lower())

    @property
    def fuses_attention(self) -> bool:
        """Whether two products and the softmax between them are this one kernel."""
        if any(_ATTENTION_KERNEL.search(text) for text in (self.name, self.tactic)):
            return True
        products = [node for node in _ONNX_NODE.findall(self.metadata) if "matmul" in node.lower()]
        return bool(self.softmaxes) and len(products) >= 2

    @property
    def multiplies(self) -> bool:
        return self.fuses_attention or any(word in self.kind.lower() for word in _PRODUCT_LAYERS)


class _Engine(msgspec.Struct, frozen=True):
    layers: tuple[str | _Layer, ...] = msgspec.field(name="Layers")
    bindings: tuple[str, ...] = msgspec.field(name="Bindings", default=())
    ports: tuple[_Port, ...] = msgspec.field(name="I/O Tensors", default=())


class _Time(msgspec.Struct, frozen=True):
    name: str = ""
    average_ms: float = msgspec.field(name="averageMs", default=0.0)


@dataclass(frozen=True, slots=True)
class LayerShare:
    """The layers that compute in one type; `seconds` of one launch, None where layers were not timed."""

    type: str
    layers: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class EngineCensus:
    """A TensorRT engine in numbers.

    `all_layers` are by type, `products` those of them that multiply matrices. Of `attentions` softmaxes of the graph,
    `fused_attentions` are part of one kernel with their products; `attentions` is None where layers do not name the
    nodes that they come from. `detailed` is False for an engine that was built to tell names alone. Types and shapes of
    inputs and outputs are known since TensorRT 11.
    """

    dialect: Literal[10, 11]
    detailed: bool
    all_layers: tuple[LayerShare, ...]
    products: tuple[LayerShare, ...]
    reformats: LayerShare
    fused_attentions: int
    attentions: int | None
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]

    @property
    def layers(self) -> int:
        return sum(share.layers for share in self.all_layers)


def engine_census(information: bytes, times: Mapping[str, float] | None = None) -> EngineCensus:
    """Return what the inspector's JSON says; `times` are seconds of one launch by the name of a layer.

    Raises:
        ArtifactError: It is not the JSON of an engine's inspector.
    """
    try:
        engine = msgspec.json.decode(information, type=_Engine, strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"this is not what an engine's inspector writes: {error}",
            "write it with `trtexec --loadEngine=FILE --profilingVerbosity=detailed --exportLayerInfo=FILE`",
        ) from error
    layers = [_Layer(name=layer) if isinstance(layer, str) else layer for layer in engine.layers]
    fused = [layer for layer in layers if layer.fuses_attention]
    softmaxes = {name for layer in layers for name in layer.softmaxes}
    fused_softmaxes = {name for layer in fused for name in layer.softmaxes}
    reformats = [layer for layer in layers if layer.reformats]
    ports = [(port.mode.lower(), Port(port.name, *_typed(port))) for port in engine.ports]
    return EngineCensus(
        dialect=11 if engine.ports else 10,
        detailed=any(layer.inputs or layer.outputs for layer in layers),
        all_layers=_shares(layers, times),
        products=_shares([layer for layer in layers if layer.multiplies], times),
        reformats=LayerShare("any", len(reformats), _seconds(reformats, times)),
        fused_attentions=len(fused_softmaxes or fused),
        attentions=len(softmaxes) or None,
        # TensorRT 10 does not tell which are inputs, but lists them first.
        inputs=tuple(port for mode, port in ports if mode == "input")
        or tuple(Port(name, UNKNOWN, ()) for name in engine.bindings[:1]),
        outputs=tuple(port for mode, port in ports if mode == "output")
        or tuple(Port(name, UNKNOWN, ()) for name in engine.bindings[1:]),
    )


def computed_in(census: EngineCensus, asked: Precision, quantised: Quantised | None = None) -> Precision | None:
    """Return the type of most products of an engine that was asked to compute in one; None where it does not tell.

    Most by time, where layers were timed. Of an engine that is quantised it is the asked type if at least half of what
    the graph has in 8 bits is: products of activations stay in half precision. Which fp32 products round to TF32,
    TensorRT does not tell of all of them.
    """
    weights = {share.type: share.layers if share.seconds is None else share.seconds for share in census.products}
    known = {kind: weight for kind, weight in weights.items() if kind != UNKNOWN}
    if not known:
        return None
    if quantised is not None:
        share = quantised.products / quantised.of_products
        if 2 * known.get(asked, 0) >= share * sum(known.values()):
            return asked
    most = max(known, key=lambda kind: known[kind])
    if asked is Precision.TF32 and most == Precision.FP32:
        return None
    return Precision(most) if most in list(Precision) else None


def layer_times(profile: bytes) -> dict[str, float]:
    """Return seconds by layer from the JSON that `trtexec --exportProfile` writes.

    Raises:
        ArtifactError: It is not such a file.
    """
    try:
        rows = msgspec.json.decode(profile, type=tuple[_Time, ...], strict=False)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"this is not a profile of layers: {error}",
            "write it with `trtexec --loadEngine=FILE --separateProfileRun --exportProfile=FILE`",
        ) from error
    # The first row counts the launches.
    return {row.name: row.average_ms / 1e3 for row in rows if row.name}


def type_from_text(text: str) -> str:
    """Return the type that an inspector's words name: `Row major linear FP16 format`, `Half`, `BFloat16`."""
    lower = text.lower()
    return next((name for words, name in _TYPES if any(word in lower for word in words)), UNKNOWN)


def _typed(port: _Port) -> tuple[str, tuple[int | str, ...]]:
    shape = tuple("free" if size < 0 else size for size in port.dimensions)
    return type_from_text(port.data_type or port.datatype), shape


def _shares(layers: Sequence[_Layer], times: Mapping[str, float] | None) -> tuple[LayerShare, ...]:
    """Return `layers` by type, those that take most of the time (or are most) first."""
    by_type: defaultdict[str, list[_Layer]] = defaultdict(list)
    for layer in layers:
        by_type[layer.type].append(layer)
    shares = [LayerShare(kind, len(some), _seconds(some, times)) for kind, some in by_type.items()]
    return tuple(sorted(shares, key=lambda share: (-(share.seconds or 0.0), -share.layers, share.type)))


def _seconds(layers: Sequence[_Layer], times: Mapping[str, float] | None) -> float | None:
    return None if times is None else sum(times.get(layer.name, 0.0) for layer in layers)
