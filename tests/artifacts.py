"""An artifact that lies nowhere, to be changed as a test needs it."""

from __future__ import annotations

from effvit.export.base import Artifact
from effvit.preprocessing import Preprocessing
from effvit.spec import Cost, ModelSpec, Precision, Swap

ARTIFACT = Artifact(
    format="onnx",
    path="/nowhere",
    sha256="",
    size_bytes=0,
    model=ModelSpec("test_vit", (Swap("linformer"),), 3, (64, 64)),
    precision=Precision.FP32,
    height=64,
    width=64,
    preprocessing=Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, "bicubic"),
    classes=("a", "b", "c"),
    cost=Cost(1, 1, 1, 1),
    built_with=(),
    build_s=0.0,
)
