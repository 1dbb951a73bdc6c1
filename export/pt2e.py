"""ExecuTorch programs in 8 bits: PyTorch's quantiser of exported graphs, as XNNPACK's kernels take what it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export import ExportedProgram

from effvit.errors import UnsupportedError
from effvit.export.base import Source
from effvit.export.calibration import calibration_pixels
from effvit.export.quantisation import Quantised
from effvit.preprocessing import Preprocessing, normalise

_LAYERS = (torch.ops.aten.linear.default, torch.ops.aten.conv2d.default)
# Operators by how many matrix products each is.
_PRODUCTS = dict.fromkeys(_LAYERS, 1) | {
    torch.ops.aten.baddbmm.default: 1,
    torch.ops.aten.bmm.default: 1,
    torch.ops.aten.matmul.default: 1,
    torch.ops.aten.scaled_dot_product_attention.default: 2,
}
# The least scale that XNNPACK's own configuration allows.
_LEAST_SCALE = 2**-12


def quantise(program: ExportedProgram, source: Source) -> tuple[ExportedProgram, Quantised]:
    """Return `program` with its linear layers and convolutions in 8 bits, and what has come of it.

    Activations have one scale and a zero point, on both sides of a product: XNNPACK has no other kernels. Weights have
    a scale for every output.

    Raises:
        UnsupportedError: The ranges are to be taken otherwise, products around a softmax are to be quantised, or there
            are too few training images.
        DataError: The training images are gone, damaged, or not the same any more.
    """
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    asked = source.quantisation
    if asked.method != "minmax":
        raise UnsupportedError(f"ExecuTorch's int8 takes no ranges by {asked.method}", "choose --calibration minmax")
    if asked.attention:
        raise UnsupportedError("XNNPACK multiplies no two activations in int8", "leave --quantise-attention out")
    pixels = calibration_pixels(source)
    prepared = prepare_pt2e(program.module(), _quantiser())
    for images in _batches(pixels, source.run.record.preprocessing, source.batch):
        prepared(images)
    shape = (source.batch, 3, source.height, source.width)
    quantised = torch.export.export(convert_pt2e(prepared), (torch.zeros(shape),), strict=False)
    return quantised, Quantised(asked, len(pixels), *_counted(quantised))


def _quantiser() -> object:
    """Return XNNPACK's quantiser, told to take ranges as they are, and no operators but layers."""
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e import MinMaxObserver
    from torchao.quantization.pt2e.quantizer import QuantizationSpec

    ranges = QuantizationSpec(
        dtype=torch.int8,
        quant_min=-128,
        quant_max=127,
        qscheme=torch.per_tensor_affine,
        observer_or_fake_quant_ctr=MinMaxObserver.with_args(eps=_LEAST_SCALE),
    )
    usual = get_symmetric_quantization_config(is_per_channel=True)
    config = replace(usual, input_activation=ranges, output_activation=ranges)
    quantiser = XNNPACKQuantizer()
    for layer in _LAYERS:
        quantiser.set_operator_type(layer, config)
    return quantiser


def _batches(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, batch: int) -> Iterator[Tensor]:
    """Yield the images as the model takes them, `batch` at a time; the last ones are repeated to make one."""
    for start in range(0, len(pixels), batch):
        some = pixels.take(range(start, start + batch), axis=0, mode="wrap")
        yield torch.from_numpy(normalise(some, preprocessing))


def _counted(program: ExportedProgram) -> tuple[int, int]:
    """Return how many products have two operands of 8 bits, and how many products there are."""
    dequantised = (
        torch.ops.quantized_decomposed.dequantize_per_tensor.default,
        torch.ops.quantized_decomposed.dequantize_per_channel.default,
    )
    nodes = [node for node in program.graph.nodes if node.target in _PRODUCTS]
    integers = [node for node in nodes if all(operand.target in dequantised for operand in node.args[:2])]
    return len(integers), sum(_PRODUCTS[node.target] for node in nodes)
