from __future__ import annotations

import onnxruntime
import pytest
import torch
from attention_layers import VARIANTS, geometry_of, layer_of, tokens_of, unsettle

# What TensorRT's ONNX parser cannot take, or takes only within limits that attention need not touch.
REFUSED = {"Resize", "ScatterElements", "ScatterND", "CumSum", "Einsum", "NonZero", "Unique", "ReduceLogSumExp"}


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", VARIANTS)
def test_exported_layer_gives_the_same_at_another_batch_size(name: str, opset: int) -> None:
    geometry = geometry_of((5, 7), 2)  # windows are padded here
    layer = layer_of(name, geometry)
    unsettle(layer)
    program = torch.onnx.export(
        layer,
        (tokens_of(geometry, batch=2),),
        dynamo=True,
        opset_version=opset,
        verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    assert program is not None
    assert not {node.op_type for node in program.model_proto.graph.node} & REFUSED
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = tokens_of(geometry, batch=3, seed=4)
    (out,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        expected = layer(x)
    # Two float32 runtimes add in different orders; the pseudo-inverse amplifies that (see the references).
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=0, atol=1e-4)
