"""`effvit inspect`, and files that are no artifacts."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import graphs
import msgspec
import numpy as np
import onnx
import pytest
from artifacts import ARTIFACT
from command_line import Effvit, refused
from cuda_fakes import FakeRuntime
from tensorrt_fakes import Tensorrt
from untrained_runs import make_run

from effvit.cli.artifacts import is_file
from effvit.export import bindings_device
from effvit.export.base import pick_backend
from effvit.spec import Precision
from effvit.storage import sha256_of

ENGINE = {
    "Layers": [
        {
            "Name": "mm",
            "LayerType": "gemm",
            "Inputs": [{"Name": "a", "Format/Datatype": "Half"}],
            "Outputs": [{"Name": "b", "Format/Datatype": "Half"}],
        }
    ],
    "Bindings": ["images", "logits"],
}
H100 = ("NVIDIA H100, 580.1",)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of runs with one, `soft`, that has an fp32 and an fp16 graph."""
    from effvit.export.base import Source
    from effvit.export.build import verified_artifact
    from effvit.profiling.pixels import PixelStore

    root = tmp_path_factory.mktemp("runs")
    run = make_run(root, "softmax", name="soft")
    with PixelStore() as pixels:
        images = pixels.get(run, 32, 32, 20).path
        for precision in (Precision.FP16, Precision.FP32):
            verified_artifact(Source(run, 32, 32, precision), pick_backend("ort-cpu"), images, 1)
    return root


def test_a_graph_of_another_tool_is_shown(effvit: Effvit, tmp_path: Path) -> None:
    path = graphs.write(tmp_path / "model.onnx", graphs.quantised())
    answer = effvit("inspect", path)
    assert (answer.code, answer.err) == (0, "")
    for words in ("a hand", "images float (batch, 3, 8, 8)", "1 Q, 2 DQ to int8, symmetric; 1 per channel", "95.0%"):
        assert words in answer.out  # 192 * 7 of 192 * 7 + 70 MACs


def test_the_newest_artifact_is_the_default_and_flags_choose_another(effvit: Effvit, exported: Path) -> None:
    newest = effvit("inspect", "--runs", exported, "--json")
    assert newest.code == 0, newest.err
    assert "the newest of 2 artifacts of soft" in newest.err
    shown = json.loads(newest.out)
    assert (shown["precision"], shown["graph"]["products"][0]["type"]) == ("fp32", "fp32")
    half = effvit("inspect", "soft", "--runs", exported, "--precision", "fp16", "--res", "32", "--backend", "ort-cpu")
    assert (half.code, half.err) == (0, "")
    assert "exported as" in half.out
    assert "test_vit, softmax attention" in half.out
    (verdict,) = [line for line in half.out.splitlines() if line.startswith("ort-cpu")]
    assert "of 20" in verdict
    refused(
        effvit("inspect", "soft", "--runs", exported, "--res", "64"),
        2,
        "no such graph, engine or program",
        "effvit export",
    )


def test_every_product_of_an_exported_graph_is_in_its_type(effvit: Effvit, exported: Path) -> None:
    """MACs are those that the model's cost counts, by another route: hooks on its modules."""
    shown = json.loads(effvit("inspect", "soft", "--runs", exported, "--precision", "fp16", "--json").out)
    (products,) = shown["graph"]["products"]
    (sidecar,) = (exported / "soft" / "artifacts").glob("*fp16*.ort-cpu.json")
    assert products["type"] == "fp16"
    assert products["macs"] == json.loads(sidecar.read_bytes())["cost"]["macs"]


def test_a_graph_that_is_not_what_it_says_is_exit_4(effvit: Effvit, tmp_path: Path) -> None:
    made = graphs.classifier()
    made.metadata_props.add(key="effvit.precision", value='"fp16"')
    answer = effvit("inspect", graphs.write(tmp_path / "model.onnx", made))
    assert answer.code == 4
    assert "is said to be fp16, but only 0 of its 3 products with weights are: 3 in fp32" in answer.err


def test_files_that_are_no_artifacts(effvit: Effvit, tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "picture.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    graph = graphs.write(tmp_path / "torn.onnx", graphs.classifier())
    graph.write_bytes(graph.read_bytes()[:200])
    bare = graphs.write(tmp_path / "bare.onnx", graphs.classifier(), external=True)
    (tmp_path / "bare.onnx.data").unlink()
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "layers.json").write_text("{}")
    (tmp_path / "empty.engine").touch()
    before = sorted(tmp_path.rglob("*"))
    refused(effvit("inspect", tmp_path / "empty.onnx"), 4, "empty.onnx is empty")
    refused(effvit("inspect", tmp_path / "picture.onnx"), 4, "picture.onnx is not an ONNX graph")
    refused(effvit("inspect", graph), 4, "torn.onnx is damaged: it breaks off")
    refused(effvit("inspect", bare), 4, "the weights of", "bare.onnx.data, which is not there")
    refused(effvit("inspect", tmp_path / "folder.onnx"), 2, "is a folder, not an artifact")
    refused(effvit("inspect", "nowhere.onnx"), 2, "there is no file nowhere.onnx")
    refused(effvit("inspect", "nowhere"), 2, "nowhere is not a run")
    refused(effvit("inspect"), 2, "there is no finished run")
    refused(effvit("inspect", tmp_path / "layers.json"), 2, "not what an engine's inspector writes")
    refused(effvit("inspect", tmp_path / "empty.engine"), 4, "empty.engine is empty")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("command", ["bundle", "evaluate", "profile", "refit"])
def test_graphs_that_are_none_are_exit_4_whoever_takes_them(
    effvit: Effvit, exported: Path, tmp_path: Path, command: str
) -> None:
    (full,) = (exported / "soft" / "artifacts").glob("*-fp32-*.onnx")
    (tmp_path / "picture.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "torn.onnx").write_bytes(full.read_bytes()[:5000])
    bare = graphs.write(tmp_path / "bare.onnx", onnx.load(full), external=True)
    (tmp_path / "bare.onnx.data").unlink()
    whole = Path(shutil.copy(full, tmp_path / "whole.onnx"))
    before = sorted(tmp_path.rglob("*"))
    refused(effvit(command, tmp_path / "picture.onnx"), 4, "picture.onnx is not an ONNX graph")
    refused(effvit(command, tmp_path / "torn.onnx"), 4, "torn.onnx is damaged: it breaks off")
    refused(effvit(command, bare), 4, "bare.onnx.data, which is not there")
    refused(effvit(command, "nowhere.onnx"), 2, "there is no file nowhere.onnx")
    refused(effvit(command, whole), 2, "whole.onnx was never verified")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_artifact_is_evaluated_by_its_file_through_whatever_verified_it(effvit: Effvit, exported: Path) -> None:
    (full,) = (exported / "soft" / "artifacts").glob("*-fp32-*.onnx")
    few = ("--eval-images", "20", "--threads", "1", "--json")
    answer = effvit("evaluate", full, *few)
    assert answer.code == 0, answer.err
    (row,) = json.loads(answer.out)
    assert (row["run"], row["artifact"], row["backend"], row["precision"]) == ("soft", full.name, "ort-cpu", "fp32")
    of_run = effvit("evaluate", "soft", "--runs", exported, "--backend", "ort-cpu", *few)
    assert json.loads(of_run.out) == [row]
    elsewhere = effvit("evaluate", full, "--threads", "1", "--eval-images", "20")
    assert "ort-cpu" in elsewhere.out


def test_an_artifact_is_no_run_and_an_engine_no_graph(effvit: Effvit, exported: Path) -> None:
    (full,) = (exported / "soft" / "artifacts").glob("*-fp32-*.onnx")
    refused(effvit("profile", full), 2, "is an artifact, and cells are made of runs", "name the run")
    refused(effvit("refit", full), 2, "is no TensorRT engine")
    refused(effvit("evaluate", full, "--precision", "fp32"), 2, "leave them away")
    refused(effvit("evaluate", full, "--backend", "openvino"), 2, "was verified by ort-cpu, not by openvino")


def test_a_run_may_have_a_name_with_a_dot(tmp_path: Path) -> None:
    (tmp_path / "vit_tiny.augreg").mkdir()
    assert is_file("vit_tiny.augreg", tmp_path)
    (tmp_path / "vit_tiny.augreg" / "run.json").touch()
    assert not is_file("vit_tiny.augreg", tmp_path)


def test_an_artifact_that_changed_since_it_was_verified_is_refused(effvit: Effvit, exported: Path) -> None:
    (path,) = (exported / "soft" / "artifacts").glob("*fp16*.onnx")
    content = path.read_bytes()
    model = onnx.load(path)
    model.metadata_props.add(key="more", value="bytes")
    try:
        onnx.save_model(model, path)
        refused(effvit("inspect", path), 4, "is not the file that was verified")
        values = np.frombuffer(content, dtype=np.uint8).copy()
        values[content.index(b"effvit.model") - 40] ^= 1
        path.write_bytes(values.tobytes())
        refused(effvit("inspect", path), 4, str(path))
    finally:
        path.write_bytes(content)


def engine_of(folder: Path, **changes: object) -> Path:
    """Write an engine that is none, with a sidecar."""
    folder.mkdir()
    path = folder / "soft-32px-fp16-0.engine"
    path.write_bytes(b"a plan")
    known = replace(
        ARTIFACT, format="tensorrt", path=f"{folder.name}/{path.name}", sha256=sha256_of(path), size_bytes=6
    )
    known = replace(known, precision=Precision.FP16, **changes)
    (folder / "soft-32px-fp16-0.tensorrt.json").write_bytes(msgspec.json.encode(known))
    return path


@pytest.mark.skipif(pick_backend("tensorrt").unavailable() is None, reason="TensorRT is here")
def test_an_engine_where_there_is_no_tensorrt_is_exit_3(effvit: Effvit, tmp_path: Path) -> None:
    refused(effvit("inspect", engine_of(tmp_path / "artifacts")), 3, "tensorrt cannot run here", "pip install")


def test_an_engine_of_another_version_or_gpu_is_exit_4(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("effvit.export.inspection.package_version", lambda _: "11.4.0")
    old = engine_of(tmp_path / "old", built_with=(("tensorrt", "10.13.2"),))
    refused(effvit("inspect", old), 4, "built with TensorRT 10.13.2, and here is 11.4.0")
    other = engine_of(tmp_path / "other", built_with=(("tensorrt", "11.4.0"),), gpus=("NVIDIA H9, 1.0",))
    refused(effvit("inspect", other), 4, "built on NVIDIA H9, 1.0, and here is")


@pytest.mark.parametrize(("precision", "code"), [(Precision.FP16, 0), (Precision.BF16, 4)])
def test_an_engine_is_timed_layer_by_layer_and_held_to_its_precision(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: Precision, code: int
) -> None:
    made = Tensorrt(batches=(1, 8, 64), layers=ENGINE["Layers"])
    made.install(monkeypatch)
    path = engine_of(tmp_path / "artifacts")
    sidecar = path.with_name("soft-32px-fp16-0.tensorrt.json")
    known = msgspec.json.decode(sidecar.read_bytes(), type=type(ARTIFACT))
    sidecar.write_bytes(msgspec.json.encode(replace(known, precision=precision)))
    answer = effvit("inspect", path, "--json")
    assert answer.code == code, answer.err
    assert set(made.asked["shapes"]) == {(8, 3, 4, 4)}
    assert made.asked["host_code"] is False
    shown = json.loads(answer.out)
    (products,) = shown["engine"]["products"]
    assert (products["type"], products["layers"]) == ("fp16", 1)
    assert products["seconds"] == pytest.approx(0.001)
    if code:
        assert "was to compute in bf16, but most of its products do not: 1 in fp16" in answer.err


def test_an_engine_is_not_loaded_where_there_is_no_gpu(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT would end the process."""
    made = Tensorrt()
    made.install(monkeypatch)
    monkeypatch.setattr(bindings_device, "_installed", lambda: FakeRuntime(made.gpu, 0))
    refused(effvit("inspect", engine_of(tmp_path / "artifacts")), 3, "there is no CUDA GPU (CUDA driver version is")
    assert "plan" not in made.asked


def test_an_engine_that_tensorrt_cannot_load_is_one_sentence(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Tensorrt(loadable=False, says=[("ERROR", "the magic tag is wrong")]).install(monkeypatch)
    path = tmp_path / "of-others.engine"
    path.write_bytes(b"no plan")
    refused(effvit("inspect", path), 4, "TensorRT cannot load the engine", "the magic tag is wrong")


def test_the_layers_of_an_engine_are_shown_without_tensorrt(effvit: Effvit, tmp_path: Path) -> None:
    (tmp_path / "layers.json").write_text(json.dumps(ENGINE))
    (tmp_path / "times.json").write_text(json.dumps([{"count": 1}, {"name": "mm", "averageMs": 2.0}]))
    answer = effvit("inspect", tmp_path / "layers.json", "--times", tmp_path / "times.json")
    assert (answer.code, answer.err) == (0, "")
    assert "TensorRT engine, 1 layers" in answer.out
    assert "100.0%" in answer.out


def test_graphs_are_compared_block_by_block(effvit: Effvit, exported: Path) -> None:
    (full,), (half,) = ((exported / "soft" / "artifacts").glob(f"*-{kind}-*.onnx") for kind in ("fp32", "fp16"))
    answer = effvit("diff", full, half, "--images", "4", "--threads", "1")
    assert answer.code == 0, answer.err
    assert [line.split("  ")[0] for line in answer.out.splitlines()][1:] == [
        "embedding",
        *(f"block {index}" for index in range(6)),
        "logits",
    ]
    shown = json.loads(effvit("diff", full, half, "--images", "4", "--threads", "1", "--json").out)
    assert (shown["images"], shown["parted"]) == (4, None)


def test_graphs_that_cannot_be_compared(effvit: Effvit, exported: Path, tmp_path: Path) -> None:
    (full,) = (exported / "soft" / "artifacts").glob("*-fp32-*.onnx")
    other = graphs.write(tmp_path / "other.onnx", graphs.classifier())
    refused(effvit("diff", other, full), 2, "lies in no run's folder", "--run")
    refused(effvit("diff", full, other), 2, "was not exported from the run soft")
    refused(effvit("diff", full, "nowhere.onnx"), 2, "there is no file nowhere.onnx")
    (tmp_path / "picture.onnx").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    (tmp_path / "torn.onnx").write_bytes(full.read_bytes()[:5000])
    bare = graphs.write(tmp_path / "bare.onnx", onnx.load(full), external=True)
    (tmp_path / "bare.onnx.data").unlink()
    refused(effvit("diff", full, tmp_path / "picture.onnx"), 4, "picture.onnx is not an ONNX graph")
    refused(effvit("diff", full, tmp_path / "torn.onnx"), 4, "torn.onnx is damaged: it breaks off")
    refused(effvit("diff", full, bare), 4, "bare.onnx.data, which is not there")
    refused(effvit("diff", full, full, "--backend", "ort-cpu,openvino,torch"), 2, "names 3 runtimes")
    refused(effvit("diff", full, full, "--backend", "ort"), 2, "no backend named 'ort'")
