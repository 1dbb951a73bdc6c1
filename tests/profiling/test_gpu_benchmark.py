"""The command that measures GPUs, on a processor: whether it would run, not what it would find."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "benchmarks" / "gpu.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests")))
    return subprocess.run(
        [sys.executable, str(PROGRAM), *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_one_command_measures_all_cells_and_writes_one_file(tmp_path: Path) -> None:
    folder, out = tmp_path / "kept", tmp_path / "gpu.json"
    cells = ("--model", "test_vit", "--attn", "softmax,linformer", "--res", "32", "--batch", "1,2")
    effort = ("--precision", "fp32,tf32", "--seconds-per-cell", "0.05", "--most-s", "1", "--rounds", "2")
    done = run("--device", "cpu", *cells, *effort, "--backend", "torch,ort-cuda", "--folder", folder, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "ort-cuda is not among these: it computes on cuda" in done.stderr
    report = json.loads(out.read_text())
    assert len(report["results"]) == len(report["outcomes"]) == 2 * 2 * 2
    (rate,) = report["rates"]
    assert (rate["precision"], rate["side"]) == ("fp32", 512)
    by_precision = {kind: [one for one in report["results"] if one["precision"] == kind] for kind in ("fp32", "tf32")}
    for one in by_precision["fp32"]:
        assert one["latency_s"]["value"] > 0
        assert one["host_peak_bytes"] > 2**20
        assert one["parts_s"] is None  # nothing is copied to a processor
        # MACs a second over the best of 512^3 products: no small model reaches more on a few cores.
        assert 0 < one["share"] < 1.5
    assert {one["status"] for one in by_precision["tf32"]} == {"unsupported"}
    shown = run("--show", out, "--markdown")
    assert shown.stdout.count("| softmax | torch | fp32 | 32 | 1 |") == 1


def test_a_gpu_that_is_not_there_is_one_sentence() -> None:
    done = run("--device", "cuda:999")
    assert done.returncode == 3
    assert "error: there is no cuda:999" in done.stderr
    assert "Traceback" not in done.stderr
