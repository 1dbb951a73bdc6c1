"""The files that docs/extending.md shows are put into place, and do what it says."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from outcomes import make_cell, make_evidence, make_samples
from timm.layers.attention import Attention
from untrained_runs import make_run

from effvit.attention.base import AttentionVariant, Geometry
from effvit.errors import UsageError
from effvit.export.base import Backend, Source, pick_backend, predict
from effvit.export.cache import make
from effvit.profiling.metrics.base import Metric
from effvit.registry import discover
from effvit.spec import Precision
from effvit.surgery import parse_options

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL))
PACKAGES = {
    "effvit/attention": "effvit.attention",
    "export/backends": "effvit.export.backends",
    "profiling/metrics": "effvit.profiling.metrics",
}


@pytest.fixture
def dropped_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the packages hold the files as well, as if they lay in their folders."""
    modules = []
    for name, code in FILES.items():
        folder, _, file = name.rpartition("/")
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / name).write_text(code)
        package = importlib.import_module(PACKAGES[folder])
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / folder)])
        modules.append(f"{package.__name__}.{file.removesuffix('.py')}")
    importlib.invalidate_caches()
    yield
    for module in modules:
        sys.modules.pop(module, None)


def test_there_is_a_file_of_each_kind() -> None:
    assert sorted(name.rpartition("/")[0] for name in FILES) == sorted(PACKAGES)


@pytest.mark.usefixtures("dropped_in")
def test_the_variant_is_found_built_and_counted() -> None:
    variant = discover("effvit.attention", "VARIANT", AttentionVariant)["blend"]
    geometry = Geometry(dim=32, heads=2, head_dim=16, prefix_tokens=1, grid=(3, 4))
    options = parse_options(variant, [("own", "0")])
    layer = variant.build(geometry, options, Attention(32, num_heads=2, qkv_bias=True)).eval()
    with torch.no_grad():
        out = layer(torch.randn(2, geometry.tokens, 32))
    assert out.shape == (2, geometry.tokens, 32)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))  # without anything of its own, all tokens are alike
    assert variant.macs(geometry, options).total == 4 * 32 * 32 * 13
    with pytest.raises(UsageError, match="own must lie in 0 to 1"):
        parse_options(variant, [("own", "2")])


@pytest.mark.usefixtures("dropped_in")
def test_the_backend_answers_as_onnx_runtime_does(tmp_path: Path) -> None:
    backend = discover("effvit.export.backends", "BACKEND", Backend)["onnx-reference"]
    backend.require(Precision.FP32)
    artifact = make(Source(make_run(tmp_path, "softmax"), 32, 32, Precision.FP32), pick_backend("ort-cpu"))
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), dtype=np.float32)
    session = backend.open(artifact, 1)
    ours = predict(session, images, 2)
    theirs = predict(pick_backend("ort-cpu").open(artifact, 1), images, 2)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert session.settings().departures(Precision.FP32, 1, backend.providers) == []


@pytest.mark.usefixtures("dropped_in")
def test_the_metric_has_a_value_for_any_evidence() -> None:
    metric = discover("effvit.profiling.metrics", "METRIC", Metric)["evenness"]
    evidence = replace(make_evidence(make_cell()), samples=make_samples((1.0, 1.0), (3.0, 3.0), (2.0,)))
    assert metric.measure(evidence)[0].value == 3.0
    assert metric.measure(replace(evidence, samples=make_samples((1.0,))))[0].value is None
