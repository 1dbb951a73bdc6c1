"""Bundles: what lies in them, what runs them, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from artifacts import ARTIFACT
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from onnx import TensorProto, helper, numpy_helper
from pictures import noise
from PIL import Image

from effvit.decoding import decode
from effvit.errors import (
    ArtifactError,
    ChangedFileError,
    DamagedArtifactError,
    DataError,
    StorageError,
    UnsupportedError,
)
from effvit.export.base import Artifact
from effvit.export.bundle import EXAMPLE, MANIFEST, Bundle, open_bundle, write_bundle
from effvit.export.bundled_predict import model_input, read_rgb
from effvit.export.classify import classify
from effvit.export.sidecars import Sidecar
from effvit.export.triton import config_text
from effvit.preprocessing import CropMode, Preprocessing, evaluation_transform, normalise
from effvit.storage import sha256_of

NASTY = "$(touch pwned); `touch pwned` & \"x\" 'y'"
CLASSES = (NASTY, "two\nlines", "ordinary", "fourth", "fifth", "sixth")


def graph(path: Path, px: int = 8, batch: str | int = "batch") -> Path:
    """Write a graph whose logits are weighted sums of the pixels."""
    weights = np.random.default_rng(0).standard_normal((3 * px * px, len(CLASSES))).astype(np.float32)
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"], "product"),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, px, px])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, len(CLASSES)])
    made = helper.make_graph(nodes, "g", [image], [logits], [numpy_helper.from_array(weights, "weights")])
    onnx.save_model(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


def sidecar(folder: Path, backend: str = "ort-cpu", **changes: Any) -> Sidecar:
    path = graph(folder / "model graph;.onnx")
    facts: dict[str, Any] = {
        "path": str(path), "sha256": sha256_of(path), "size_bytes": path.stat().st_size,
        "height": 8, "width": 8, "classes": CLASSES,
    }  # fmt: skip
    return Sidecar(backend, replace(ARTIFACT, **(facts | changes)))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(sidecar(tmp_path), tmp_path / "out")


def images(folder: Path) -> list[Path]:
    paths = [folder / f"{NASTY.replace('/', '')}{index}.png" for index in range(3)]
    for index, path in enumerate(paths):
        noise(30 + index, 20, seed=index).save(path)
    return paths


def run_example(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the example of a bundle where what it must not need cannot be imported."""
    blocked = ("torch", "timm", "effvit", "torchvision", "msgspec", "onnx", "rich", "typer", "scipy")
    code = (
        f"import sys, runpy; sys.modules.update(dict.fromkeys({blocked!r})); "
        f"sys.argv = ['predict.py', *sys.argv[2:]]; runpy.run_path({str(folder / EXAMPLE)!r}, run_name='__main__')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, "predict.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd="/")


@pytest.mark.parametrize("triton", [False, True])
@pytest.mark.parametrize("runtime", ["ort-cpu", "openvino"])
def test_the_example_says_what_predict_says_and_needs_nothing_of_ours(
    tmp_path: Path, runtime: str, triton: bool
) -> None:
    pytest.importorskip("onnxruntime" if runtime == "ort-cpu" else "openvino")
    write_bundle(sidecar(tmp_path, runtime), tmp_path / "out", triton=triton)
    found = classify(open_bundle(tmp_path / "out"), images(tmp_path), threads=1, top=5)
    ended = run_example(tmp_path / "out", *(one.image for one in found))
    assert ended.returncode == 0, ended.stderr
    expected = []
    for one in found:
        assert len(one.guesses) == 5
        expected.append(one.image)
        expected += [f"  {100 * guess.probability:5.1f} %  {guess.name}" for guess in one.guesses]
    assert ended.stdout == "\n".join(expected) + "\n"
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 80)])
@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("size", [(97, 61), (61, 97), (8, 9)])
def test_the_example_prepares_images_as_timm_does(
    height: int, width: int, mode: CropMode, size: tuple[int, int]
) -> None:
    image = noise(*size)
    for fraction, filter_ in ((0.875, "bicubic"), (1.0, "bilinear"), (0.9, "lanczos")):
        preprocessing = Preprocessing((0.4, 0.5, 0.6), (0.2, 0.3, 0.4), fraction, filter_, mode)
        pixels = evaluation_transform(preprocessing, height, width)(image)
        settings = {
            "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "crop_fraction": fraction, "interpolation": filter_,
            "crop_mode": mode, "height": height, "width": width,
        }  # fmt: skip
        np.testing.assert_array_equal(model_input(image, settings), normalise(pixels[None], preprocessing)[0])


def test_the_example_reads_files_as_training_did(tmp_path: Path) -> None:
    rgb = noise(20, 12)
    turned = rgb.getexif()
    turned[0x0112] = 6  # rotate by 90 degrees to view
    rgb.save(tmp_path / "turned.jpg", exif=turned)
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg")
    rgb.convert("LA").save(tmp_path / "grey.png")
    rgb.quantize(16).save(tmp_path / "palette.png", transparency=3)
    Image.fromarray(np.arange(0, 240 * 256, 256, dtype=np.uint16).reshape(12, 20)).save(tmp_path / "deep.png")
    for path in sorted(tmp_path.iterdir()):
        np.testing.assert_array_equal(np.asarray(read_rgb(str(path))), np.asarray(decode(path)), err_msg=path.name)
    assert read_rgb(str(tmp_path / "turned.jpg")).size == (12, 20)


def test_every_file_but_the_manifest_is_recorded(bundle: Bundle) -> None:
    there = {path.name for path in bundle.folder.iterdir()} - {MANIFEST}
    assert {file.name for file in bundle.manifest.files} == there == {
        "model.onnx", "labels.json", "preprocessing.json", "predict.py"
    }  # fmt: skip
    assert json.loads((bundle.folder / "labels.json").read_text()) == list(CLASSES)
    assert json.loads((bundle.folder / MANIFEST).read_text())["artifact"]["path"] == "model.onnx"
    assert open_bundle(bundle.folder).manifest == bundle.manifest


@pytest.mark.parametrize("name", ["model.onnx", "labels.json", "preprocessing.json", "predict.py"])
def test_a_changed_or_missing_file_is_refused(bundle: Bundle, name: str) -> None:
    file = bundle.folder / name
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ChangedFileError, match=f"{name} is not the file that was recorded"):
        open_bundle(bundle.folder)
    file.unlink()
    with pytest.raises(ChangedFileError, match="no such file"):
        open_bundle(bundle.folder)


def test_files_outside_of_the_bundle_are_not_even_looked_at(bundle: Bundle) -> None:
    manifest = json.loads((bundle.folder / MANIFEST).read_text())
    for name in ("../secret", "/etc/passwd"):
        manifest["files"][0]["name"] = name
        (bundle.folder / MANIFEST).write_text(json.dumps(manifest))
        with pytest.raises(DamagedArtifactError, match="lies outside of the bundle"):
            open_bundle(bundle.folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "effvit.bundle/9"}'])
def test_a_damaged_manifest_is_a_sentence(bundle: Bundle, content: bytes) -> None:
    (bundle.folder / MANIFEST).write_bytes(content)
    with pytest.raises(DamagedArtifactError, match="damaged or of another effvit"):
        open_bundle(bundle.folder)


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a bundle"):
        open_bundle(tmp_path)


def test_nothing_is_left_where_a_bundle_cannot_be_written(tmp_path: Path) -> None:
    known = sidecar(tmp_path)
    (tmp_path / "out").mkdir()
    with pytest.raises(StorageError, match="exists already"):
        write_bundle(known, tmp_path / "out")
    Path(known.artifact.path).write_bytes(b"another")
    with pytest.raises(ChangedFileError):
        write_bundle(known, tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "model graph;.onnx"}


@pytest.mark.parametrize(("backend", "format_"), [("tensorrt", "tensorrt"), ("torch", "checkpoint")])
def test_what_the_example_cannot_run_is_not_bundled(tmp_path: Path, backend: str, format_: str) -> None:
    with pytest.raises(UnsupportedError, match="a bundle holds an ONNX graph"):
        write_bundle(sidecar(tmp_path, backend, format=format_), tmp_path / "out")


def test_a_damaged_image_is_named(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        classify(bundle, [tmp_path / "broken.png"], threads=1, top=1)


def triton_config(text: str) -> Any:
    """Parse a config.pbtxt with protocol buffers' own parser, by the fields of Triton's ModelConfig that are used.

    Source:
        https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
    """
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="config.proto", package="t", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for number, name in ((0, "TYPE_INVALID"), (2, "TYPE_UINT8"), (10, "TYPE_FP16"), (11, "TYPE_FP32")):
        types.value.add(name=name, number=number)

    def message(name: str, *fields: tuple[str, int, int, int, str]) -> None:
        added = file.message_type.add(name=name)
        for field, number, kind, label, of in fields:
            added.field.add(name=field, number=number, type=kind, label=label, type_name=of or None)

    one, many = kinds.LABEL_OPTIONAL, kinds.LABEL_REPEATED
    tensor = (
        ("name", 1, kinds.TYPE_STRING, one, ""),
        ("data_type", 2, kinds.TYPE_ENUM, one, ".t.DataType"),
        ("dims", 3, kinds.TYPE_INT64, many, ""),
    )
    message("Input", *tensor)
    message("Output", *tensor, ("label_filename", 4, kinds.TYPE_STRING, one, ""))
    message("Batching")
    message(
        "Config",
        ("name", 1, kinds.TYPE_STRING, one, ""),
        ("max_batch_size", 4, kinds.TYPE_INT32, one, ""),
        ("input", 5, kinds.TYPE_MESSAGE, many, ".t.Input"),
        ("output", 6, kinds.TYPE_MESSAGE, many, ".t.Output"),
        ("dynamic_batching", 11, kinds.TYPE_MESSAGE, one, ".t.Batching"),
        ("backend", 17, kinds.TYPE_STRING, one, ""),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Config"))
    return text_format.Parse(text, kind())


def test_triton_is_told_names_types_and_sizes_of_a_graph_with_a_free_batch(tmp_path: Path) -> None:
    write_bundle(sidecar(tmp_path), tmp_path / "out", triton=True)
    (folder,) = (tmp_path / "out" / "model_repository").iterdir()
    assert folder.name == "model_graph_"
    assert sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()) == [
        "1/model.onnx", "config.pbtxt", "labels.txt"
    ]  # fmt: skip
    config = triton_config((folder / "config.pbtxt").read_text())
    assert (config.name, config.backend, config.max_batch_size) == ("model_graph_", "onnxruntime", 64)
    assert [(one.name, one.data_type, list(one.dims)) for one in config.input] == [("images", 11, [3, 8, 8])]
    (output,) = config.output
    assert (output.name, output.data_type, list(output.dims), output.label_filename) == (
        "logits",
        11,
        [6],
        "labels.txt",
    )
    assert config.HasField("dynamic_batching")
    assert (folder / "labels.txt").read_text().splitlines() == [NASTY, "two lines", *CLASSES[2:]]


def test_triton_gathers_no_requests_for_a_graph_with_a_fixed_batch(tmp_path: Path) -> None:
    config = triton_config(config_text(onnx.load(graph(tmp_path / "fixed.onnx", batch=2)), 'a"b', "onnxruntime"))
    assert (config.name, config.max_batch_size) == ('a"b', 0)
    assert list(config.input[0].dims) == [2, 3, 8, 8]
    assert not config.HasField("dynamic_batching")


def test_triton_runs_openvino_with_its_own_backend(tmp_path: Path) -> None:
    write_bundle(sidecar(tmp_path, "openvino"), tmp_path / "out", triton=True)
    (text,) = (tmp_path / "out").rglob("config.pbtxt")
    assert triton_config(text.read_text()).backend == "openvino"


def test_local_file_names_stay_here(tmp_path: Path) -> None:
    from effvit.export.base import Flip, Parity

    parity = Parity(1, 0.0, 1.0, 1.0, 1.0, flips=(Flip("/home/me/private.jpg", 0, 0, 1, 0.1, 0.1),))
    artifact: Artifact = write_bundle(sidecar(tmp_path, parity=parity), tmp_path / "out").manifest.artifact
    assert artifact.parity == replace(parity, flips=())
    assert b"private" not in (tmp_path / "out" / MANIFEST).read_bytes()
