"""`effvit fit` on this machine, whose rates are made up."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Effvit, refused
from outcomes import CALIBRATION, ENVIRONMENT, make_outcome

from effvit.cli import fitting
from effvit.profiling.results import append
from effvit.profiling.survey import BareRuntime, Survey
from effvit.spec import Swap

ASKED = ("fit", "vit_tiny_patch16_224", "--attn", "softmax,linformer", "--res", "224,384")


@pytest.fixture(autouse=True)
def rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every machine be the one of the made-up outcomes."""
    found = Survey(ENVIRONMENT, CALIBRATION, (BareRuntime("ort-cpu", 60 * 2**20),))
    monkeypatch.setattr(fitting, "survey", lambda *_: found)


def test_every_cell_has_its_prediction_and_its_answer(effvit: Effvit) -> None:
    answer = effvit(*ASKED, "--batch", "1,8", "--max-latency-p50", "60ms", "--device", "cpu:memory=1GiB")
    assert answer.code == 0, answer.err
    heading, *lines = answer.out.splitlines()
    assert heading == "cpu:memory=1GiB: Example CPU 9000, 4 threads, 200 GMACs/s, 20 Gbytes/s"
    rows = [line.split() for line in lines if line.startswith(("softmax", "linformer"))]
    assert [row[:5] for row in rows[:2]] == [
        ["softmax", "224", "1", "fp32", "ort-cpu"],
        ["linformer", "224", "1", "fp32", "ort-cpu"],
    ]
    assert len(rows) == 2 * 2 * 2
    assert rows[0][-2:] == ["yes,", "predicted"]
    assert rows[-2][-2] == "no,"  # softmax, 384 px, batch 8: 40 times the work
    assert "Of 8 cells " in answer.out


def test_where_nothing_fits_it_says_how_near_the_nearest_is(effvit: Effvit) -> None:
    answer = effvit(*ASKED, "--max-latency-p50", "100us")
    assert answer.code == 4
    assert "none of 4 cells fits; the nearest is linformer in vit_tiny_patch16_224, ort-cpu, fp32, 224 px" in answer.err
    assert "% too much" in answer.err
    assert "The nearest is linformer" in answer.out


def test_what_a_result_file_has_stands_beside_its_prediction(effvit: Effvit, tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    for name, swap in (("softmax", Swap("softmax")), ("linformer", Swap("linformer", (("pool", 7),)))):
        outcome = make_outcome(name, backend="ort-cpu")
        model = replace(outcome.cell.model, swaps=(swap,))
        append(results, replace(outcome, cell=replace(outcome.cell, model=model)))
    asked = (
        "fit",
        "vit_tiny_patch16_224",
        "--attn",
        "softmax",
        "--res",
        "224",
        "--batch",
        "1,2",
        "--max-memory",
        "2GiB",
    )
    answer = effvit(*asked, "--results", results)
    assert answer.code == 0, answer.err
    rows = [line.split() for line in answer.out.splitlines() if line.startswith("softmax")]
    assert [row[-1] for row in rows] == ["measured", "predicted"]
    assert "latency p50: predictions of 1 measured cell, each from all others, were off by" in answer.out
    assert "peak memory: predictions of 1 measured cell" in answer.out
    (found,) = json.loads(effvit(*asked, "--results", results, "--json").out)
    softmax = found["cells"][0]
    assert softmax["latency_s"]["measured"]["value"] > 0
    assert softmax["checks"][0]["value"] == softmax["memory_bytes"]["measured"]
    assert [one["cells"] for one in found["errors"]] == [1, 1]


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ((), 2, "nothing is limited"),
        (("--device", "cpu", "--device", "cpu:memory=1GiB"), 2, "nothing is limited"),
        (("--max-memory", "2"), 2, "'2' is not a size of memory"),
        (("--max-memory", "1GiB", "--res", "100"), 2, "100 px cannot be cut"),
        (("--max-memory", "1GiB", "--precision", "bf16"), 2, "nothing is predicted of bf16"),
        (("--max-memory", "1GiB", "--backend", "torch-compile"), 2, "nothing is predicted of torch-compile"),
        (("--max-memory", "1GiB", "--device", "cuda:0"), 2, "nothing is predicted of cuda:0"),
        (("--max-memory", "1GiB", "--attn", "softmaks"), 2, "did you mean softmax?"),
        (("--max-memory", "1GiB", "--results", "none.jsonl"), 2, "there is no result file none.jsonl"),
    ],
)
def test_what_cannot_be_asked(effvit: Effvit, arguments: tuple[str, ...], code: int, words: str) -> None:
    refused(effvit("fit", *arguments), code, words)
