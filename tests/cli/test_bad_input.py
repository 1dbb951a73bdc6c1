from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from command_line import Effvit, refused
from outcomes import make_sweep
from pictures import truncate, write_folder

QUICK = ("finetune", "test_vit", "--res", "32", "--epochs", "1", "--batch", "4", "--threads", "1", "--workers", "0")


def digest(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", {"cat": 6, "dog": 6})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--attn", "linfomer"], ["no attention variant named 'linfomer'", "did you mean linformer"]),
        (["--attn", "linformer", "--attn-option", "foo=1"], ["no option of linformer", "'foo'"]),
        (["--attn", "linformer", "--attn-option", "pool"], ["'pool' is not NAME=VALUE"]),
        (["--attn", "linformer", "--attn-option", "pool=many"], ["an option of linformer attention does not fit"]),
        (["--attn", "linformer", "--layers", "99"], ["block 99 does not exist", "0 to 5"]),
        (["--layers", "5-1"], ["'5-1' names no block"]),
        (["--layers", "0-3"], ["blocks hold softmax attention already"]),
        (["--attn", "0-3:linformer,performer"], ["'performer' does not say which blocks"]),
        (["--attn", "0-3:linformer,3-5:performer"], ["block 3 is named twice"]),
        (["--attn", "0-1:linformer,2-3:perfomer"], ["no attention variant named 'perfomer'", "performer"]),
        (["--attn", "0-1:linformer", "--layers", "2"], ["--layers names others"]),
        (["--attn", "0-1:linformer,2:performer", "--attn-option", "pool=2"], ["does not say whose it is"]),
        (["--attn", "tome", "--layers", "0-2"], ["go on to the last block", "--layers 0-5"]),
        (["--res", "abc"], ["'abc' is not an image size"]),
        (["--res", "33"], ["33 px", "16 px patches", "32 or 48"]),
        (["--res", "32,64"], ["trained at one size"]),
        (["--batch", "0"], ["--batch must be"]),
        (["--lr", "-1"], ["learning_rate must be positive, not -1"]),
        (["--lr", "nan"], ["learning_rate must be positive, not nan"]),
        (["--drop-path", "2"], ["drop_path must lie in 0 to 1", "from 0 to 1"]),
        (["--device", "quantum"], ["'quantum' is not a device"]),
        (["--teacher", "nowhere"], ["nowhere is not a run"]),
        (["--attn", "linformer", "--transfer-epochs", "1"], ["random weights have no attention", "--teacher"]),
        (["--transfer-epochs", "1"], ["exact attention has nothing to learn", "--attn"]),
        (["--distill-weight", "0.5"], ["distillation needs a teacher", "--teacher"]),
        (["--transfer-lr", "0"], ["transfer_learning_rate must be positive"]),
        (["--weights", "nowhere.safetensors"], ["no checkpoint at nowhere.safetensors"]),
        (["--name", "a/b"], ["a run cannot be called 'a/b'"]),
        (["--name", ".."], ["a run cannot be called '..'"]),
        (["--data", "digts"], ["'digts' is neither a data set nor a path", "name digits"]),
        (["--data", "no/such/folder"], ["neither a data set nor a path"]),
        (["--data", "torchvision:MNST"], ["no torchvision data set named 'MNST'", "did you mean"]),
        (["--data", "table:nowhere"], ["there are no tables at nowhere"]),
        (["--data", "hf:a b"], ["does not name a data set on the hub"]),
        (["--cache", "disc"], ["'disc' is not one of", "disk"]),
        (["--set", "auto_augment=rand-m9-inc"], ["auto_augment cannot be 'rand-m9-inc'", "rand-m9-mstd0.5-inc1"]),
    ],
)
def test_what_cannot_be_fine_tuned(effvit: Effvit, tmp_path: Path, arguments: list[str], words: list[str]) -> None:
    refused(effvit(*QUICK, "--weights", "none", *arguments), 2, *words)
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_misspelt_model_has_closest_names(effvit: Effvit) -> None:
    refused(effvit("finetune", "vit_tny_patch16_224"), 2, "no timm model named", "vit_tiny_patch16_224")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA GPU")
def test_a_gpu_that_is_not_there(effvit: Effvit) -> None:
    refused(effvit(*QUICK, "--device", "cuda"), 3, "no CUDA GPU", "--device cpu")


def test_a_data_folder_that_is_a_file_empty_or_of_one_class(effvit: Effvit, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    one = write_folder(tmp_path / "one", {"cat": 3})
    hollow = write_folder(tmp_path / "hollow", {"cat": 3, "dog": 0})
    refused(effvit(*QUICK, "--data", tmp_path / "file"), 2, "is a file, not a folder")
    refused(effvit(*QUICK, "--data", tmp_path / "empty"), 2, str(tmp_path / "empty"))
    refused(effvit(*QUICK, "--data", one), 2, "has a single class, cat")
    refused(effvit(*QUICK, "--data", hollow), 2, "dog", "no image files")


def test_held_out_images_of_other_classes(effvit: Effvit, tmp_path: Path) -> None:
    write_folder(tmp_path / "split" / "train", {"cat": 3, "dog": 3})
    write_folder(tmp_path / "split" / "val", {"cat": 3, "fox": 3})
    refused(effvit(*QUICK, "--data", tmp_path / "split"), 2, "val/dog", "different classes")


def test_damaged_images_are_named_and_left_out_only_if_asked(effvit: Effvit, pictures: Path) -> None:
    truncate(pictures / "cat" / "3.png")
    (pictures / "dog" / "1.png").write_bytes(b"no image")
    refused(effvit(*QUICK, "--data", pictures), 2, "cat/3.png", "dog/1.png", "--skip-corrupt")
    answer = effvit(*QUICK, "--weights", "none", "--data", pictures, "--skip-corrupt", "--name", "rest")
    assert answer.code == 0
    assert "warning: left out as damaged: cat/3.png, dog/1.png" in answer.err
    assert json.loads(Path("runs/rest/run.json").read_text())["data"]["skipped"] == ["cat/3.png", "dog/1.png"]


def test_checkpoints_that_are_none(effvit: Effvit, tmp_path: Path, runs: Path, pictures: Path) -> None:
    short, pickled = tmp_path / "short.safetensors", tmp_path / "pickled.pt"
    shutil.copy(runs / "lin" / "model.safetensors", short)
    truncate(short)
    torch.save({"model": Path("/")}, pickled)
    other = tmp_path / "other.pt"
    torch.save({"conv.weight": torch.zeros(3)}, other)
    base = (*QUICK, "--data", pictures, "--name", "new", "--weights")
    refused(effvit(*base, short), 2, str(short), "not a whole safetensors file")
    refused(effvit(*base, pickled), 2, str(pickled), "unpickled")
    refused(effvit(*base, other), 2, str(other), "another architecture")
    refused(effvit(*base, runs / "lin" / "model.safetensors"), 2, "another architecture")  # it is a linformer
    refused(effvit(*base, pictures), 2, "holds no run")
    assert not (runs / "new").exists()


def test_a_name_that_is_taken_keeps_its_run(effvit: Effvit, runs: Path, pictures: Path) -> None:
    before = digest(runs)
    refused(effvit(*QUICK, "--weights", "none", "--data", pictures, "--name", "lin"), 2, "exists already", "--name")
    assert digest(runs) == before


def test_no_run_at_all(effvit: Effvit, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for command in ("evaluate", "export", "profile"):
        refused(effvit(command), 2, "no finished run in runs", "effvit finetune --attn")


def test_runs_that_are_none(effvit: Effvit, runs: Path) -> None:
    refused(effvit("evaluate", "lim"), 2, "no run named 'lim'", "did you mean lin?")
    refused(effvit("evaluate", "--runs", "elsewhere"), 2, "no finished run in elsewhere")
    (runs / "lin" / "run.json").write_text("{")
    refused(effvit("evaluate", "lin"), 2, "is damaged")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["evaluate", "lin", "--precision", "fp15"], 2, ["no precision named 'fp15'", "fp16"]),
        (["evaluate", "lin", "--precision", "fp32,fp16"], 2, ["one precision at a time"]),
        (["evaluate", "lin", "--precision", "int8"], 3, ["torch does not run int8"]),
        (["evaluate", "lin", "--precision", "bf16", "--backend", "ort-cpu"], 3, ["ort-cpu does not run bf16", "fp16"]),
        (["evaluate", "lin", "--precision", "fp16", "--backend", "openvino"], 3, ["openvino does not run fp16"]),
        (["evaluate", "lin", "--pin-fp32", "auto"], 2, ["nothing is pinned to fp32 in fp32"]),
        (["evaluate", "lin", "--precision", "fp16", "--pin-fp32", "blocks.9"], 2, ["no module named 'blocks.9'"]),
        (["export", "lin", "--onnx", "fp8"], 3, ["ort-cpu does not run fp8", "fp16, fp32, int8"]),
        (["evaluate", "lin", "--backend", "tort"], 2, ["no backend named 'tort'", "torch"]),
        (["evaluate", "lin", "--res", "33"], 2, ["33 px"]),
        (["export", "lin", "--onnx", "int8"], 3, ["int8 needs 16 training images", "more images"]),
        (["export", "lin", "--onnx", "bf16"], 3, ["ort-cpu does not run bf16", "fp16, fp32, int8"]),
        (["export", "lin", "--onnx", "int8", "--calibration-images", "15"], 2, ["cannot be taken from 15 images"]),
        (["export", "lin", "--onnx", "int8", "--calibration", "minimax"], 2, ["'minimax'", "did you mean minmax"]),
        (["export", "lin", "--onnx", ","], 2, ["names no precision"]),
        (["export", "lin", "--max-drop", "-1"], 2, ["--max-drop"]),
        (["diff", "no.onnx", "other.onnx"], 2, ["there is no file no.onnx"]),
        (["refit", "no.engine", "lin"], 2, ["there is no file no.engine"]),
        (["profile", "lin", "--precision", "bf16", "--backend", "ort-cpu"], 3, ["ort-cpu does not run bf16", "fp16"]),
        (["profile", "lin", "--precision", "int8,fp8", "--backend", "torch"], 3, ["torch does not run int8 or fp8"]),
        (["profile", "lin", "--precision", "fp8"], 3, ["do not run fp8"]),
        (["profile", "lin", "--pin-fp32", "auto"], 2, ["nothing is pinned to fp32 in fp32"]),
        (["profile", "lin", "--precision", "fp16", "--pin-fp32", "blocks.9"], 2, ["no module named 'blocks.9'"]),
        (
            ["profile", "lin", "--precision", "fp16", "--pin-fp32", "auto", "--max-batch"],
            2,
            ["--pin-fp32 does not go with --max-batch"],
        ),
        (["profile", "lin", "--backend", "tort"], 2, ["no backend named 'tort'"]),
        (["profile", "lin", "--device", "cpu:mem=1GiB"], 2, ["no limit of a device named 'mem'", "memory"]),
        (["profile", "lin", "--device", "cpu:threads=9999"], 2, ["cpu:threads=9999 is more than", "fewer threads"]),
        (["profile", "lin", "--device", "cuda:x"], 2, ["'x' is not the number of a GPU", "cuda:0"]),
        (["profile", "lin", "--device", "cuda:0,memory=1GiB"], 2, ["memory of a GPU cannot be limited"]),
        (["profile", "lin", "--device", "cuda:9999"], 3, ["there is no cuda:9999", "effvit doctor"]),
        (["profile", "lin", "--threads", "9999"], 2, ["cpu:threads=9999 is more than", "fewer threads"]),
        (["profile", "lin", "--batch", "0"], 2, ["batch must be at least 1, not 0"]),
        (["profile", "lin", "--batch", "1:8:1"], 2, ["'1:8:1' is not a range"]),
        (["profile", "lin", "--res", "32,33"], 2, ["33 px"]),
        (["profile", "lin", "lin"], 2, ["named twice"]),
        (["profile", "lin", "--timeout-s", "0"], 2, ["timeout_s must be positive"]),
        (["profile", "lin", "--max-noise", "0"], 2, ["max_noise must be positive"]),
        (["profile", "lin", "--least-s", "inf"], 2, ["least_s must be 0 or more"]),
        (["profile", "lin", "--attn", "softmax"], 2, ["no finished run with softmax attention", "--attn softmax"]),
    ],
)
def test_what_cannot_be_asked_of_a_run(
    effvit: Effvit, runs: Path, arguments: list[str], code: int, words: list[str]
) -> None:
    before = digest(runs)
    refused(effvit(*arguments), code, *words)
    assert digest(runs) == before


@pytest.mark.parametrize("command", ["profile", "evaluate"])
def test_a_runtime_that_is_not_here_is_exit_3_when_named(effvit: Effvit, runs: Path, command: str) -> None:
    from effvit.export.base import pick_backend

    if pick_backend("tensorrt").unavailable() is None:
        pytest.skip("TensorRT is here")
    refused(effvit(command, "lin", "--backend", "tensorrt"), 3, "tensorrt cannot run here", "pip install")


@pytest.mark.parametrize("command", ["study", "profile", "evaluate", "export"])
def test_measuring_in_several_processes(effvit: Effvit, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    refused(effvit(command), 2, f"`effvit {command}` works in one process, and was started in 4", "without torchrun")


@pytest.mark.parametrize("change", ["gone", "changed"])
def test_images_that_are_not_those_of_the_training(effvit: Effvit, trained: Path, runs: Path, change: str) -> None:
    record = runs / "lin" / "run.json"
    content = json.loads(record.read_text())
    if change == "gone":
        content["data"]["name"] = str(trained / "vanished")
    else:
        content["data"]["fingerprint"] = "0" * 64
    record.write_text(json.dumps(content))
    answer = effvit("evaluate", "lin")
    refused(answer, 2, "vanished" if change == "gone" else "not those that the run lin was trained on")
    profiled = effvit("profile", "lin", "--backend", "ort-cpu", "--batch", "1", "--threads", "1")
    assert profiled.code == answer.code
    assert "Traceback" not in profiled.err


@pytest.mark.parametrize("left", ["nothing", "one class"])
def test_int8_whose_training_images_are_gone_leaves_nothing_behind(
    effvit: Effvit, trained: Path, runs: Path, tmp_path: Path, left: str
) -> None:
    pictures = Path(shutil.copytree(trained / "pictures", tmp_path / "pictures"))
    record = runs / "lin" / "run.json"
    content = json.loads(record.read_text())
    content["data"]["name"] = str(pictures)
    record.write_text(json.dumps(content))
    for folder in pictures.rglob("cat" if left == "one class" else "*"):
        if folder.is_dir():
            for picture in folder.glob("*.png"):
                picture.unlink()
    before = digest(runs)
    refused(effvit("export", "lin", "--onnx", "int8"), 2, str(pictures))
    assert digest(runs) == before


def test_weights_that_are_truncated_or_exchanged(effvit: Effvit, runs: Path) -> None:
    truncate(runs / "lin" / "model.safetensors")
    refused(effvit("evaluate", "lin"), 2, "model.safetensors")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no result file"),
        (b"", "holds no outcomes"),
        (b"{torn", "holds no outcomes"),
        (b"a,b\n1,2\n", "not a line"),
    ],
)
def test_result_files_that_are_none(effvit: Effvit, tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "results.jsonl").write_bytes(content)
    refused(effvit("report", "results.jsonl"), 2, words)
    assert not (tmp_path / "report").exists()


def test_a_torn_last_line_loses_nothing_else(effvit: Effvit, tmp_path: Path) -> None:
    from effvit.profiling.results import append, encode

    path = tmp_path / "results.jsonl"
    first, second = make_sweep()[:2]
    append(path, first)
    with path.open("ab") as file:
        file.write(encode(second)[:50])
    answer = effvit("report", path, "--json")
    assert answer.code == 0
    assert [outcome["run"] for outcome in json.loads(answer.out)] == [first.run]


def test_a_folder_that_may_not_be_written(effvit: Effvit, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Who runs tests as root may write anywhere, so the answer of the operating system is replaced.
    monkeypatch.setattr("effvit.storage.os.access", lambda *_: False)
    answer = effvit(*QUICK, "--weights", "none", "--data", pictures)
    refused(answer, 2, "cannot be written: permission denied", "may write to")


def test_a_disk_that_fills_up_keeps_the_finished_epochs(
    effvit: Effvit, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) > 6:  # run.json, then two checkpoints and run.json for the first epoch
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(handle)

    monkeypatch.setattr("effvit.storage.os.fsync", full)
    answer = effvit(*QUICK, "--weights", "none", "--data", pictures, "--name", "full", "--epochs", "9")
    refused(answer, 2, "no space left on device", "free some space")
    monkeypatch.undo()
    record = json.loads((pictures.parent / "runs" / "full" / "run.json").read_text())
    history = (pictures.parent / "runs" / "full" / "history.jsonl").read_text().splitlines()
    assert record["best"]["epoch"] == 1
    assert len(history) >= 1
