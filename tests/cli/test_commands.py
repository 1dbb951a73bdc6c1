"""The commands one after the other, as a user would: in processes of their own, on the digits."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from effvit.interruption import same_command
from effvit.storage import sha256_of

Effvit = Callable[..., "subprocess.CompletedProcess[str]"]
TRAINING = ("--weights", "none", "--epochs", "1", "--threads", "1")
SWEEP = ("profile", "lin", "soft", "--res", "32", "--batch", "1,2,4", "--backend", "ort-cpu", "--threads", "1")
ROUNDS = ("--samples", "4", "--least-s", "0", "--rounds", "2", "--warmup-ms", "1", "--max-noise", "inf")
EFFORT = (*ROUNDS, "--eval-images", "50")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "effvit.cli.main", *arguments]


def killed_once(path: Path, lines: int, folder: Path, *arguments: str) -> None:
    """Start a command and kill it as soon as the result file holds `lines` lines."""
    with subprocess.Popen(
        command(*arguments), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 120
        while not (path.exists() and path.read_bytes().count(b"\n") >= lines):
            assert process.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two runs in runs/."""
    path = tmp_path_factory.mktemp("work")
    for name, attention in (("soft", "softmax"), ("lin", "linformer")):
        arguments = ("finetune", "--attn", attention, "--res", "32", "--name", name, *TRAINING)
        ended = subprocess.run(command(*arguments), cwd=path, capture_output=True, text=True, check=False)
        assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
        assert f"runs/{name}: top-1" in ended.stderr
    return path


@pytest.fixture
def effvit(folder: Path) -> Effvit:
    """Return a function that runs `effvit ARGUMENTS` among the runs."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command(*arguments), cwd=folder, capture_output=True, text=True, check=False)

    return run


def test_evaluate_counts_the_images_that_the_last_epoch_counted(effvit: Effvit, folder: Path) -> None:
    ended = effvit("evaluate", "lin", "--threads", "1", "--json")
    (row,) = json.loads(ended.stdout)
    recorded = json.loads((folder / "runs/lin/run.json").read_text())["best"]["top1"]
    assert row["accuracy"]["top1_correct"] / row["accuracy"]["images"] == pytest.approx(recorded)


def test_a_variant_learns_from_the_exact_run(effvit: Effvit, folder: Path) -> None:
    arguments = ("finetune", "--attn", "linformer", "--teacher", "soft", "--transfer-epochs", "2", "--name", "taught")
    ended = effvit(*arguments, "--epochs", "1", "--threads", "1")
    assert ended.returncode == 0, ended.stderr
    assert "teacher: soft; 2 epochs of attention transfer and distillation with weight 0.5" in ended.stderr
    assert "transfer epoch 1: each layer alone, error" in ended.stderr
    assert "transfer epoch 2: final features and layers together, error" in ended.stderr
    assert "transferred: error of a layer on held-out images" in ended.stderr
    taught, soft = (json.loads((folder / "runs" / name / "run.json").read_text()) for name in ("taught", "soft"))
    assert taught["teacher"] == {"name": "soft", "weights": soft["spec"]["weights"]}
    shutil.rmtree(folder / "runs/taught")  # the runs of the other tests are two


def test_export_writes_graphs_and_says_that_there_is_no_tensorrt(effvit: Effvit, folder: Path) -> None:
    from effvit.export.base import pick_backend

    ended = effvit("export", "lin", "--onnx", "fp32", "--trt", "fp16", "--threads", "1", "--json")
    artifacts = json.loads(ended.stdout)
    assert {artifact["precision"] for artifact in artifacts} == {"fp32", "fp16"}
    assert all(Path(artifact["path"]).is_file() for artifact in artifacts)
    if pick_backend("tensorrt").unavailable() is None:
        assert ended.returncode == 0
    else:
        assert ended.returncode == 3
        assert "error: the typed ONNX graphs are written, but no TensorRT engine" in ended.stderr
        assert "\n\nhint: pip install" in ended.stderr


def test_int8_is_exported_and_measured_beside_fp32(effvit: Effvit) -> None:
    exported = effvit("export", "lin", "--onnx", "int8", "--calibration-images", "64", "--threads", "1", "--json")
    (artifact,) = json.loads(exported.stdout)
    assert artifact["quantised"]["asked"] == {"images": 64, "method": "minmax", "seed": 0, "attention": False}
    assert "products have 8-bit operands; ranges by minmax from 64 training images, seed 0" in exported.stderr
    sweep = ("profile", "lin", "--precision", "fp32,int8", "--batch", "1", "--backend", "ort-cpu", "--threads", "1")
    measured = effvit(*sweep, *EFFORT, "--out", "int8.jsonl", "--json")
    assert measured.returncode == 0, measured.stderr
    settings = [outcome["evidence"]["settings"]["precision"] for outcome in json.loads(measured.stdout)]
    assert settings == ["fp32", "int8"]


def test_a_killed_sweep_goes_on_and_measures_nothing_twice(effvit: Effvit, folder: Path) -> None:
    results = folder / "runs/results.jsonl"
    killed_once(results, 2, folder, *SWEEP, *EFFORT)
    survived = results.read_bytes().splitlines()[:2]
    ended = effvit(*SWEEP, *EFFORT, "--json")
    assert ended.returncode == 0, ended.stderr
    outcomes, lines = json.loads(ended.stdout), results.read_bytes().splitlines()
    assert lines[:2] == survived
    assert len(lines) == len(outcomes) == 6
    # Whoever runs the tests may do other things beside them: the command succeeds, and says so.
    assert {outcome["status"] for outcome in outcomes} <= {"ok", "unstable"}

    again = effvit(*SWEEP, *EFFORT)
    assert results.read_bytes().splitlines() == lines
    assert "6 cells were in the result file already" in again.stderr
    assert "softmax" in again.stdout

    reported = effvit("report")
    assert reported.returncode == 0
    assert (folder / "runs/report/report.html").is_file()


def test_the_hint_names_a_softmax_run(effvit: Effvit) -> None:
    ended = effvit(
        "profile", "lin", "--batch", "1", "--backend", "ort-cpu", "--threads", "1", *EFFORT, "--out", "one.jsonl"
    )
    assert ended.returncode == 0
    assert "`effvit profile lin soft ...`" in ended.stderr


def test_a_device_too_small_is_a_row_and_a_type_that_is_not_computed_in_is_exit_4(effvit: Effvit) -> None:
    """ONNX Runtime has the kernels of an fp16 graph in fp32 alone, on most processors."""
    small = ("--device", "cpu:threads=1,memory=48MiB", "--device", "cpu:threads=1")
    common = ("profile", "lin", "--batch", "1", "--backend", "ort-cpu", *EFFORT, "--json")
    ended = effvit(*common, *small, "--out", "devices.jsonl")
    assert ended.returncode == 5
    assert [outcome["status"] for outcome in json.loads(ended.stdout)] == ["oom", "ok"]

    fp16 = (*common, "--precision", "fp16", "--out", "fp16.jsonl")
    refused = effvit(*fp16)
    (outcome,) = json.loads(refused.stdout)
    if outcome["status"] == "ok":
        pytest.skip("this processor computes in fp16")
    assert refused.returncode == 4
    assert "error: 1 of 1 cells are not what was asked for; ort-cpu: asked for fp16, computes in fp32" in refused.stderr
    allowed = effvit(*fp16, "--allow-fallback")
    assert allowed.returncode == 0, allowed.stderr
    (outcome,) = json.loads(allowed.stdout)
    assert (outcome["status"], outcome["evidence"]["settings"]["precision"]) == ("fallback", "fp32")


def test_ctrl_c_ends_a_sweep_in_one_line_and_leaves_no_process(folder: Path) -> None:
    with subprocess.Popen(
        command(*SWEEP, "--least-s", "60", "--most-s", "60", "--out", "interrupted.jsonl"),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # Who runs tests in parallel ignores Ctrl-C in its processes, and what they start would inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        children: list[int] = []
        while len(children) < 2:  # a worker for each run
            assert process.poll() is None
            time.sleep(0.05)
            text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
            children = [int(child) for child in text.split()]
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip() == f"interrupted; {same_command()}"
    assert not any(Path(f"/proc/{child}").exists() for child in children)


@pytest.mark.parametrize(
    ("arguments", "run", "how"),
    [
        (
            ("finetune", "--name", "cut"),
            "runs/cut",
            ["go on with `effvit finetune --resume cut`", "interrupted; what was finished is on disk"],
        ),
        (
            ("study", "--attn", "softmax", "--out", "cut-study"),
            "cut-study/runs/softmax",
            [f"interrupted; {same_command()}"],
        ),
    ],
    ids=["finetune", "study"],
)
def test_ctrl_c_in_training_keeps_the_finished_epochs_and_says_how_to_go_on(
    folder: Path, arguments: tuple[str, ...], run: str, how: list[str]
) -> None:
    size = "--train-res" if arguments[0] == "study" else "--res"
    with subprocess.Popen(
        command(*arguments, size, "32", "--weights", "none", "--epochs", "500", "--threads", "1"),
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        history = folder / run / "history.jsonl"
        while not (history.exists() and history.read_bytes().count(b"\n")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-len(how) :] == how
    record = json.loads((folder / run / "run.json").read_text())
    assert record["status"] == "interrupted"
    assert record["spec"]["weights"] == sha256_of(folder / run / "model.safetensors")
    shutil.rmtree(folder / run)  # the runs of the other tests are two


def test_a_killed_study_goes_on_with_the_next_variant(folder: Path) -> None:
    study = ("study", "--attn", "softmax,linformer", "--epochs", "1", "--weights", "none", "--train-res", "32")
    axes = ("--res", "32", "--batch", "1", "--backend", "ort-cpu", "--device", "cpu:threads=1")
    effort = ("--eval-images", "50", "--max-noise", "inf")
    history = folder / "studies/digits/runs/softmax/history.jsonl"
    with subprocess.Popen(
        command(*study, *axes, *effort), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        record = history.with_name("run.json")
        while not (record.exists() and json.loads(record.read_bytes())["status"] == "done"):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    before = record.read_bytes()
    ended = subprocess.run(command(*study, *axes, *effort), cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert "softmax: fine-tuned before" in ended.stderr
    assert record.read_bytes() == before
    lines = (folder / "studies/digits/results.jsonl").read_bytes().splitlines()
    cells = [json.loads(line)["cell"] for line in lines]
    assert [(cell["model"]["swaps"][0]["attention"], cell["device"]["threads"]) for cell in cells] == [
        ("softmax", 1),
        ("linformer", 1),
    ]
    assert (folder / "studies/digits/report/report.html").is_file()
