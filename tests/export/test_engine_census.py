"""What engines compute in, from the JSON of their inspectors: samples of TensorRT 10's and 11's dialects by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from artifacts import ARTIFACT

from effvit.errors import ArtifactError, ExportError
from effvit.export.census import Port
from effvit.export.engine_census import LayerShare, computed_in, engine_census, layer_times, type_from_text
from effvit.export.engine_file import check_engine
from effvit.export.quantisation import DEFAULT_QUANTISATION, Quantised
from effvit.spec import Precision

HALF = "Row major linear FP16 format"
FLOAT = "Row major linear FP32"


def layer(name: str, kind: str, read: str, write: str, nodes: tuple[str, ...] = (), **more: str) -> dict[str, object]:
    """Return a layer as TensorRT 10 writes it."""
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [{"Name": "a", "Location": "Device", "Dimensions": [8, 197, 192], "Format/Datatype": read}],
        "Outputs": [{"Name": "b", "Location": "Device", "Dimensions": [8, 197, 192], "Format/Datatype": write}],
        "TacticName": "",
        "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
        **more,
    }


LAYERS = [
    layer("Reformatting CopyNode for Input Tensor 0 to conv", "Reformat", FLOAT, HALF),
    layer("conv", "CaskConvolution", "Channel major FP16 format where channel % 8 == 0", HALF, ("node_conv2d",)),
    layer("node_MatMul_1_myl0_1", "gemm", HALF, HALF, ("node_MatMul_1",)),
    layer("_gemm_mha_v2_myl0_2", "kgen", HALF, HALF, ("node_MatMul_2", "node_Softmax_3", "node_MatMul_4")),
    layer("node_MatMul_5_myl0_3", "gemm", FLOAT, FLOAT, ("node_MatMul_5",)),
    layer("__myl_MaxSubExp_myl0_4", "kgen", FLOAT, FLOAT, ("node_Softmax_6",)),
]
ENGINE_10 = json.dumps({"Layers": LAYERS, "Bindings": ["images", "logits"]}).encode()


def of_version_11(layers: list[dict[str, object]], key: str) -> bytes:
    """Return the same engine as TensorRT 11 writes it, the type of a tensor under `key`."""
    for one in layers:
        for side in ("Inputs", "Outputs"):
            for tensor in one[side]:  # type: ignore[attr-defined]
                text = tensor.pop("Format/Datatype")
                tensor |= {"Format": "Row major linear format (kLINEAR)", key: "Half" if "FP16" in text else "Float"}
    ports = [
        {
            "Name": name,
            "IOMode": mode,
            key: "Float",
            "Dimensions": shape,
            "Location": "Device",
            "IsShapeInferenceIO": False,
            "ProfileInfo": [{"MinShape": shape, "OptShape": shape, "MaxShape": shape, "Format": FLOAT}],
        }
        for name, mode, shape in (("images", "Input", [-1, 3, 224, 224]), ("logits", "Output", [-1, 10]))
    ]
    return json.dumps({"Layers": layers, "I/O Tensors": ports, "Engine Metadata": {}}).encode()


ENGINES_11 = [of_version_11(json.loads(json.dumps(LAYERS)), key) for key in ("DataType", "Datatype")]


@pytest.mark.parametrize("information", [ENGINE_10, *ENGINES_11])
def test_both_dialects_tell_the_same_of_the_same_layers(information: bytes) -> None:
    census = engine_census(information)
    assert census.detailed
    assert census.layers == 6
    assert census.all_layers == (LayerShare("fp16", 3, None), LayerShare("fp32", 3, None))
    assert census.products == (LayerShare("fp16", 3, None), LayerShare("fp32", 1, None))
    assert census.reformats == LayerShare("any", 1, None)
    assert (census.fused_attentions, census.attentions) == (1, 2)


def test_the_dialects_differ_in_what_they_tell_of_inputs() -> None:
    old, new = engine_census(ENGINE_10), engine_census(ENGINES_11[0])
    assert (old.dialect, new.dialect) == (10, 11)
    assert (old.inputs, old.outputs) == ((Port("images", "unknown", ()),), (Port("logits", "unknown", ()),))
    assert new.inputs == (Port("images", "fp32", ("free", 3, 224, 224)),)
    assert new.outputs == (Port("logits", "fp32", ("free", 10)),)


def test_time_is_shared_out_by_type() -> None:
    rows: list[dict[str, object]] = [{"count": 100}]
    rows += [{"name": one["Name"], "averageMs": index + 1.0, "percentage": 1.0} for index, one in enumerate(LAYERS)]
    census = engine_census(ENGINE_10, layer_times(json.dumps(rows).encode()))
    seconds = {share.type: share.seconds for share in census.all_layers}
    assert seconds == {"fp16": pytest.approx(0.009), "fp32": pytest.approx(0.012)}
    assert [share.type for share in census.all_layers] == ["fp32", "fp16"]
    assert census.reformats.seconds == pytest.approx(0.001)


def test_fp32_products_on_tensor_cores_are_tf32() -> None:
    one = layer("mm", "gemm", FLOAT, FLOAT, TacticName="sm80_xmma_gemm_f32f32_tf32f32_f32_nn_n_tilesize128x128x16")
    assert engine_census(json.dumps({"Layers": [one]}).encode()).products == (LayerShare("tf32", 1, None),)


def test_an_engine_of_names_alone_says_so_and_guesses_no_type() -> None:
    census = engine_census(json.dumps({"Layers": ["conv", "_gemm_mha_v2_myl0_2"], "Bindings": []}).encode())
    assert not census.detailed
    assert census.all_layers == (LayerShare("unknown", 2, None),)
    assert (census.fused_attentions, census.attentions) == (1, None)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Row major linear FP16 format", "fp16"),
        ("Half", "fp16"),
        ("BFloat16", "bf16"),
        ("Row major linear BF16 format", "bf16"),
        ("Float", "fp32"),
        ("Thirty-two wide channel vectorized row major Int8 format.", "int8"),
        ("FP8", "fp8"),
        ("Float8E4M3FN", "fp8"),
        ("Int64", "integers"),
        ("N/A due to dynamic shapes", "unknown"),
        ("", "unknown"),
    ],
)
def test_types_have_many_names(text: str, name: str) -> None:
    assert type_from_text(text) == name


def test_a_mask_does_not_say_what_a_layer_computes_in() -> None:
    one = layer("where", "kgen", "Bool", HALF)
    assert engine_census(json.dumps({"Layers": [one]}).encode()).all_layers == (LayerShare("fp16", 1, None),)


@pytest.mark.parametrize("information", [b"", b"{}", b"[1]", b'{"Layers": 3}', b"\xff\xfe"])
def test_other_json_is_refused(information: bytes) -> None:
    with pytest.raises(ArtifactError, match="not what an engine's inspector writes"):
        engine_census(information)
    with pytest.raises(ArtifactError, match="not a profile of layers"):
        layer_times(b"{" + information)


H100 = ("NVIDIA H100, 580.1",)


@pytest.mark.parametrize(
    ("version", "gpus", "words"),
    [
        ("11.4.0.106", H100, "built with TensorRT 10.16.1.11, and here is 11.4.0.106"),
        ("10.16.1.11", ("NVIDIA L4, 580.1",), "built on NVIDIA H100, 580.1, and here is NVIDIA L4, 580.1"),
        ("10.16.1.11", (), "and here is no GPU"),
    ],
)
def test_an_engine_of_another_version_or_gpu_is_not_loaded(version: str, gpus: tuple[str, ...], words: str) -> None:
    engine = replace(ARTIFACT, built_with=(("tensorrt", "10.16.1.11"),), gpus=H100)
    with pytest.raises(ExportError, match=words) as caught:
        check_engine(engine, version, gpus)
    assert caught.value.exit_code == 4
    check_engine(engine, "10.16.1.11", H100)


@pytest.mark.parametrize(
    ("asked", "types", "found"),
    [
        (Precision.FP16, ("Half", "Half", "Float"), Precision.FP16),
        (Precision.FP16, ("Half", "Float", "Float"), Precision.FP32),
        (Precision.BF16, ("Half", "Half", "BFloat16"), Precision.FP16),
        (Precision.TF32, ("Half", "Float", "Float"), None),  # TensorRT does not tell of all products
        (Precision.TF32, ("Half", "Half", "Float"), Precision.FP16),
        (Precision.FP16, (), None),
        (Precision.FP16, ("N/A due to dynamic shapes",), None),
    ],
)
def test_most_products_say_what_an_engine_computes_in(
    asked: Precision, types: tuple[str, ...], found: Precision | None
) -> None:
    layers = [layer(str(place), "gemm", kind, HALF) for place, kind in enumerate(types)]
    for one in layers:
        one["Outputs"] = []
    assert computed_in(engine_census(json.dumps({"Layers": layers}).encode()), asked) is found


def test_most_is_by_time_where_layers_were_timed() -> None:
    layers = [layer("a", "gemm", HALF, HALF), layer("b", "gemm", HALF, HALF), layer("c", "gemm", FLOAT, FLOAT)]
    information = json.dumps({"Layers": layers}).encode()
    times = {"a": 0.001, "b": 0.001, "c": 0.003}
    assert computed_in(engine_census(information, times), Precision.FP16) is Precision.FP32
    assert computed_in(engine_census(information), Precision.FP16) is Precision.FP16


@pytest.mark.parametrize(("eight_bit", "found"), [(2, Precision.INT8), (1, Precision.FP16)])
def test_a_quantised_engine_has_at_least_half_of_what_its_graph_has_in_8_bits(eight_bit: int, found: Precision) -> None:
    """The graph quantises 4 of 8 products; of the engine's 8, 2 are half of that, and 1 is not."""
    layers = [layer(str(place), "gemm", "Int8" if place < eight_bit else HALF, HALF) for place in range(8)]
    quantised = Quantised(DEFAULT_QUANTISATION, images=128, products=4, of_products=8)
    census = engine_census(json.dumps({"Layers": layers}).encode())
    assert computed_in(census, Precision.INT8, quantised) is found
