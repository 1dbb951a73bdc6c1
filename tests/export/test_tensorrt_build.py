"""What TensorRT is told when an engine is built, and what becomes of builds that fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
from artifacts import ARTIFACT
from tensorrt_fakes import Tensorrt
from untrained_runs import make_run

from effvit.errors import ExportError, UnsupportedError, UsageError
from effvit.export.backends.tensorrt import graph_backend
from effvit.export.base import Source
from effvit.export.engine_file import build_log, check_engine, skipped_tactics
from effvit.export.engine_options import AttentionForm, EngineOptions, engine_for
from effvit.export.tensorrt_build import build_engine, timing_cache_file
from effvit.run import Run
from effvit.spec import Precision

DYNAMIC = EngineOptions(batches=(1, 4, 8), workspace_bytes=2**20, level=5)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("runs"), "softmax")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EFFVIT_CACHE", str(tmp_path / "cache"))


def build(made: Tensorrt, folder: Path, options: EngineOptions = DYNAMIC, *, tf32: bool = False) -> Path:
    path = folder / "soft.engine"
    build_engine(folder / "soft.onnx", path, options, size=made.size, tf32=tf32)
    return path


def installed(monkeypatch: pytest.MonkeyPatch, **changes: object) -> Tensorrt:
    made = Tensorrt(**changes)  # type: ignore[arg-type]
    made.install(monkeypatch)
    return made


def test_everything_that_tensorrt_would_choose_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = installed(monkeypatch, size=(16, 24))
    path = build(made, tmp_path)
    assert made.asked["profile"] == ("images", (1, 3, 16, 24), (4, 3, 16, 24), (8, 3, 16, 24))
    assert made.asked["flags"] == {"TF32": False, "REFIT": False, "VERSION_COMPATIBLE": False}
    assert made.asked["workspace"] == ("WORKSPACE", 2**20)
    assert made.asked["level"] == 5
    assert made.asked["verbosity"].name == "DETAILED"
    assert made.asked["network"] == 1 << int(made.module.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    assert path.read_bytes() == b"a plan"


def test_options_that_are_asked_for_are_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = installed(monkeypatch)
    build(made, tmp_path, EngineOptions(refittable=True, version_compatible=True), tf32=True)
    assert made.asked["flags"] == {"TF32": True, "REFIT": True, "VERSION_COMPATIBLE": True}


def test_times_of_kernels_are_kept_for_each_version_and_used_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = installed(monkeypatch)
    build(made, tmp_path)
    assert made.asked["timing_cache"] == b""
    build(made, tmp_path)
    assert made.asked["timing_cache"] == b"times"
    newer = installed(monkeypatch, version="11.4.0.106")
    build(newer, tmp_path)
    assert newer.asked["timing_cache"] == b""
    assert len(list((tmp_path / "cache" / "tensorrt").iterdir())) == 2


def test_the_file_of_times_names_the_gpu_its_driver_and_its_capability(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$1" in *=name,driver_version,compute_cap) echo "Some GPU, 1.2, 9.0" ;; esac\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert timing_cache_file("11.4").name == "Some-GPU-1.2-9.0-11.4.timing"


def test_times_of_another_tensorrt_are_no_obstacle(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    build(installed(monkeypatch), tmp_path)
    made = installed(monkeypatch, takes_timing_cache=False)
    path = build(made, tmp_path)
    assert made.asked["timing_cache"] == b""
    assert "is not of this TensorRT and GPU" in build_log(path).read_text()
    timing_cache_file(made.version).write_bytes(b"damaged")
    build(made, tmp_path)
    assert made.asked["timing_cache"] == b""


SAID = (
    ("VERBOSE", "=============== Computing costs for conv"),
    ("WARNING", "Skipping tactic 0x3ea due to insufficient memory on requested size of 8388608"),
    ("WARNING", "Tactic Device request: 8MB Available: 4MB. Device memory is insufficient: tactic 3 skipped"),
    ("INFO", "Engine generation completed in 3 seconds"),
)


def test_what_tensorrt_says_is_kept_and_tactics_that_it_skips_are_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = build_log(build(installed(monkeypatch, says=SAID), tmp_path)).read_text()
    assert log.splitlines()[0].startswith("warning: Skipping tactic")
    assert skipped_tactics(log) == 2
    assert "Computing costs" not in log
    assert capfd.readouterr() == ("", "")


def test_a_build_that_fails_says_why_and_leaves_its_log_and_no_engine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    says = (("ERROR", "no implementation for node attn"), ("ERROR", "build failed"))
    made = installed(monkeypatch, buildable=False, says=says)
    with pytest.raises(ExportError, match="cannot build the engine: no implementation for node attn") as caught:
        build(made, tmp_path)
    assert caught.value.exit_code == 4
    assert "soft-build.log" in caught.value.hint
    assert [path.name for path in tmp_path.iterdir()] == ["soft-build.log"]


def test_nodes_that_the_parser_refuses_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    errors = [(f"/blocks.{index}/sort", "TopK", "K exceeds 3840") for index in range(5)]
    with pytest.raises(ExportError, match=r"TopK node /blocks\.0/sort: K exceeds 3840") as caught:
        build(installed(monkeypatch, parser_errors=errors), tmp_path)
    assert "blocks.2" in caught.value.message
    assert "blocks.3" not in caught.value.message
    assert caught.value.message.endswith("; and 2 more")


class Layer:
    """A layer as the bindings return it: of the base class, whatever it is."""

    def __init__(self, kind: object) -> None:
        self.type, self.of_subclass = kind, SimpleNamespace(decomposable=False)


class AttentionLayer(Layer):
    @property
    def attention(self) -> SimpleNamespace:
        return self.of_subclass


@pytest.mark.parametrize(("form", "decomposable"), [("operator", True), ("products", False)])
def test_attention_as_an_operator_may_be_decomposed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, form: AttentionForm, decomposable: bool
) -> None:
    made = installed(monkeypatch)
    kinds = made.module.LayerType
    made.module.IAttentionInputLayer = AttentionLayer  # type: ignore[attr-defined]
    made.network_layers = softmax, attention = Layer(kinds.SOFTMAX), Layer(kinds.ATTENTION_INPUT)
    build(made, tmp_path, EngineOptions(attention=form))
    assert attention.of_subclass.decomposable is decomposable
    assert not softmax.of_subclass.decomposable


def test_attention_is_one_operator_where_it_is_asked_for(run: Run, tmp_path: Path) -> None:
    options = EngineOptions(attention="operator")
    backend = graph_backend(Precision.FP16, "operator")
    path = backend.export(Source(run, 32, 32, Precision.FP16, engine=options), tmp_path / "a.onnx")
    graph = onnx.load(path)
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("Attention") == 6  # of test_vit's blocks
    assert "Softmax" not in kinds
    (version,) = (entry.version for entry in graph.opset_import if not entry.domain)
    assert version == 23
    with pytest.raises(UnsupportedError, match="cannot be quantised to int8"):
        backend.export(Source(run, 32, 32, Precision.INT8, engine=options), tmp_path / "b.onnx")


@pytest.mark.slow  # exporting takes most of ten seconds
def test_attention_that_is_no_operator_is_refused(tmp_path: Path) -> None:
    other = make_run(tmp_path, "performer")
    options = EngineOptions(attention="operator")
    with pytest.raises(UnsupportedError, match="performer attention is no operator of ONNX"):
        graph_backend(Precision.FP16, "operator").export(
            Source(other, 32, 32, Precision.FP16, engine=options), tmp_path / "a.onnx"
        )
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batches": (8, 4, 64)}, "batches 8:4:64"),
        ({"batches": (0, 1, 1)}, "batches 0:1:1"),
        ({"workspace_bytes": 0}, "0 bytes"),
        ({"level": 6}, "no optimisation level 6"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        EngineOptions(**options)  # type: ignore[arg-type]


def test_an_engine_is_static_unless_a_range_is_asked_for() -> None:
    assert engine_for(8).batches == (8, 8, 8)
    assert engine_for(8).static
    assert not DYNAMIC.static


@pytest.mark.parametrize(
    ("here", "loads"), [("10.13.2", False), ("10.13.3", True), ("10.16.1", True), ("11.4.0", True)]
)
def test_a_version_compatible_engine_loads_in_later_versions_alone(here: str, loads: bool) -> None:
    engine = replace(ARTIFACT, built_with=(("tensorrt", "10.13.3"),), engine=EngineOptions(version_compatible=True))
    if loads:
        check_engine(engine, here, ())
    else:
        with pytest.raises(ExportError, match=f"here is {here}"):
            check_engine(engine, here, ())
