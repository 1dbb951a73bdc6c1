"""How long a call takes and how much memory, expected from what a model demands and what a machine can do.

A call's time is a sum: its products at the machine's rate of matrix products, every byte that its operators move at
the machine's bandwidth, and a cost of each operator. The memory that a model adds to a runtime with nothing opened is
that of its weights and of what its operators keep at once. How far this is off, the priors say (docs/devices.md).

Source:
    Williams, Waterman and Patterson 2009, https://doi.org/10.1145/1498765.1498785, of rates; times are added here,
    since a runtime works off one operator after the other
"""

from __future__ import annotations

from collections.abc import Sequence

from effvit.demand import Demand
from effvit.errors import UnsupportedError
from effvit.export.base import pick_backend
from effvit.profiling.devices import Device
from effvit.profiling.kinship import Prior
from effvit.profiling.records import Calibration, Cell
from effvit.spec import Precision

# Everything below was chosen on one machine, an Intel Xeon with AVX-512. Of 72 cells in ONNX Runtime and fp32 (two
# models, 9 mechanisms, 4 sizes: docs/results/end-to-end-xeon.json) it leaves standard deviations of about 10 % in
# latency and 12 % in memory beside a common factor. Means of int8 and of OpenVINO are those of 9 mechanisms at one size
# (docs/precision.md). How much machines differ, one machine cannot tell: those widths are a judgement.
_OPERATOR_S = 1e-6
_GRAPH_BYTES = {"ort-cpu": 15 * 2**20, "openvino": 46 * 2**20}
_WEIGHTS, _PEAK, _OF_A_BLOCK = 1.45, 0.75, 0.8
LATENCY_PRIORS = {
    "ort-cpu": Prior({Precision.FP32: 0.12, Precision.INT8: 0.2}, 0.3, 0.4, 0.08, 0.06, 0.1),
    "openvino": Prior({Precision.FP32: 0.0, Precision.INT8: -0.5}, 0.3, 0.4, 0.08, 0.06, 0.1),
}
MEMORY_PRIORS = {
    "ort-cpu": Prior({Precision.FP32: 0.0, Precision.INT8: 0.0}, 0.1, 0.2, 0.08, 0.06, 0.1),
    "openvino": Prior({Precision.FP32: 0.0, Precision.INT8: 0.0}, 0.3, 0.2, 0.08, 0.06, 0.1),
}
_FLOAT_BYTES = Precision.FP32.size_bytes


def check_predictable(backends: Sequence[str], precisions: Sequence[Precision], devices: Sequence[Device]) -> None:
    """Check that there are priors for these runtimes and types, on these devices.

    Raises:
        UnknownNameError: There is no such backend.
        UnsupportedError: There are none.
    """
    for name in backends:
        backend = pick_backend(name)
        if name not in LATENCY_PRIORS:
            raise UnsupportedError(f"nothing is predicted of {name}", f"choose --backend {' or '.join(LATENCY_PRIORS)}")
        known = [one for one in LATENCY_PRIORS[name].means if one in backend.precisions]
        for precision in precisions:
            if precision not in known:
                types = " or ".join(known)
                raise UnsupportedError(f"nothing is predicted of {precision} in {name}", f"choose --precision {types}")
    for device in devices:
        if device.kind != "cpu":
            raise UnsupportedError(f"nothing is predicted of {device.name}", "measure it with `effvit profile`")


def predictable(cell: Cell) -> bool:
    """Return whether there are priors for what a cell was measured with."""
    known = LATENCY_PRIORS.get(cell.backend)
    return known is not None and cell.precision in known.means and cell.device.kind == "cpu"


def expected_latency_s(demand: Demand, batch: int, precision: Precision, calibration: Calibration) -> float:
    """Return the seconds of one call of `batch` images; products count as of fp32, whose rate alone is known."""
    products_s = batch * demand.cost.macs / calibration.macs_per_s
    moved_bytes = batch * demand.moved_bytes + _stored_bytes(demand, precision)
    return products_s + moved_bytes / calibration.bytes_per_s + _OPERATOR_S * demand.operators


def expected_model_bytes(demand: Demand, batch: int, precision: Precision, backend: str) -> float:
    """Return what a process takes beyond its runtime: for the graph, weights, images and intermediate results.

    Runtimes use buffers again from block to block, and hardly within one: they keep more than operators need at once.
    """
    images_bytes = _FLOAT_BYTES * 3 * batch * demand.height * demand.width
    kept_bytes = batch * (_PEAK * demand.peak_bytes + _OF_A_BLOCK * demand.moved_bytes / demand.blocks)
    return _GRAPH_BYTES[backend] + _WEIGHTS * _stored_bytes(demand, precision) + kept_bytes + images_bytes


def _stored_bytes(demand: Demand, precision: Precision) -> float:
    """Return what weights take in this type."""
    return demand.weight_bytes * precision.size_bytes / _FLOAT_BYTES
