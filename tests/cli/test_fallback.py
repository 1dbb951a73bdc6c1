"""`effvit export` and `effvit evaluate` with runtimes that say that they do something else than they were asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import fakes
import pytest
from command_line import Answer, Effvit

from effvit.export.base import backends


@pytest.fixture
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime say that it computes in bf16."""
    honest = backends()["ort-cpu"]
    liar = replace(honest, open=lambda artifact, threads: fakes.Coarse(honest.open(artifact, threads)))
    monkeypatch.setitem(backends(), "ort-cpu", liar)  # type: ignore[arg-type]  # discovery returns a dict


def refused(answer: Answer) -> None:
    assert (answer.code, answer.out) == (4, "")
    assert "error: ort-cpu: asked for fp32, computes in bf16\n\nhint: " in answer.err
    assert "--allow-fallback" in answer.err


@pytest.mark.usefixtures("coarse")
def test_an_artifact_is_verified_by_what_was_asked_for_or_not_at_all(effvit: Effvit, runs: Path) -> None:
    export = ("export", "lin", "--runs", runs, "--threads", "1", "--json")
    for _ in range(2):
        refused(effvit(*export))
    assert list((runs / "lin/artifacts").glob("*-fp32-*.json")) == [], "nothing is said to be verified"
    answer = effvit(*export, "--allow-fallback")
    assert answer.code == 0, answer.err
    assert "warning: ort-cpu: asked for fp32, computes in bf16" in answer.err
    (artifact,) = json.loads(answer.out)
    assert artifact["parity"]["images"] > 0
    refused(effvit(*export))  # that it was allowed once does not make it what was asked for


def test_an_artifact_is_judged_again_where_it_was_verified_before(
    effvit: Effvit, runs: Path, request: pytest.FixtureRequest
) -> None:
    export = ("export", "lin", "--runs", runs, "--threads", "1", "--json")
    first = effvit(*export)
    assert first.code == 0, first.err
    assert effvit(*export).out == first.out
    request.getfixturevalue("coarse")
    refused(effvit(*export))


@pytest.mark.usefixtures("coarse")
def test_accuracy_is_that_of_what_was_asked_for(effvit: Effvit, runs: Path) -> None:
    evaluate = ("evaluate", "lin", "--runs", runs, "--backend", "ort-cpu", "--threads", "1", "--json")
    refused(effvit(*evaluate))
    answer = effvit(*evaluate, "--allow-fallback")
    assert answer.code == 0, answer.err
    assert "warning: ort-cpu: asked for fp32, computes in bf16" in answer.err
    (row,) = json.loads(answer.out)
    assert row["fallback"] == "ort-cpu: asked for fp32, computes in bf16"
    assert row["accuracy"]["images"] > 0


@pytest.mark.parametrize("backend", ["torch", "ort-cpu"])
def test_a_runtime_that_does_what_it_was_asked_for_has_no_fallback(effvit: Effvit, runs: Path, backend: str) -> None:
    answer = effvit("evaluate", "lin", "--runs", runs, "--backend", backend, "--threads", "1", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)[0]["fallback"] is None


def test_graphs_that_engines_are_made_from_are_judged_by_their_logits_alone(effvit: Effvit, runs: Path) -> None:
    """ONNX Runtime has the kernels of an fp16 graph in fp32 alone, on most processors."""
    honest = effvit("export", "lin", "--runs", runs, "--threads", "1", "--onnx", "fp16", "--json")
    if honest.code == 0:
        pytest.skip("this processor computes in fp16")
    assert honest.code == 4
    assert "ort-cpu: asked for fp16, computes in fp32" in honest.err
    engines = effvit("export", "lin", "--runs", runs, "--threads", "1", "--trt", "fp16", "--json")
    assert engines.code in (0, 3), engines.err
    assert json.loads(engines.out)[0]["precision"] == "fp16"
