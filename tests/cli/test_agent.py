"""`effvit agent`: what the agent and a kit are made with."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest
from agents import bare_environment, bare_python, run_agent, stand_in
from command_line import Effvit, refused


@pytest.mark.slow
def test_what_is_made_here_is_measured_there_and_reported_here(effvit: Effvit, trained: Path, tmp_path: Path) -> None:
    built = effvit("agent", "build", "--out", "a.pyz")
    assert (built.code, built.out) == (0, "a.pyz\n")
    effort = ("--samples", 2, "--least-s", 0, "--rounds", 2, "--warmup-ms", 1, "--max-noise", "inf")
    cells = ("lin", "--batch", 1, "--eval-images", 2, *effort)
    packed = effvit("agent", "pack", *cells, "--out", "the kit;", "--runs", trained / "runs")
    assert (packed.code, packed.out) == (0, "the kit;\n"), packed.err
    measured = run_agent(tmp_path / "a.pyz", bare_environment(tmp_path / "bare"), "run", tmp_path / "the kit;")
    assert measured.returncode == 0, measured.stderr
    reported = effvit("report", "the kit;/results.jsonl", "--json")
    assert reported.code == 0, reported.err
    (outcome,) = json.loads(reported.out)
    assert (outcome["run"], outcome["status"] in ("ok", "unstable")) == ("lin", True)
    assert outcome["environment"]["python"] == sys.version.split()[0]
    refused(effvit("agent", "pack", "lin", "--out", "the kit;", "--runs", trained / "runs"), 2, "exists already")


def test_what_an_agent_cannot_measure_is_a_sentence(effvit: Effvit, trained: Path) -> None:
    answer = effvit("agent", "pack", "lin", "--backend", "torch", "--runs", trained / "runs")
    refused(answer, 2, "torch needs PyTorch or a GPU")
    refused(effvit("agent", "pack", "lin", "--res", 33, "--runs", trained / "runs"), 2, "33 px")


@pytest.mark.slow
def test_a_device_behind_ssh_is_measured_beside_this_machine(
    effvit: Effvit, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, bare_python(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    effort = ("--samples", 2, "--least-s", 0, "--rounds", 2, "--warmup-ms", 1, "--max-noise", "inf", "--eval-images", 2)
    cells = ("lin", "--batch", 1, "--backend", "ort-cpu", *effort, "--runs", trained / "runs", "--out", "results.jsonl")
    devices = ("--device", "cpu:threads=1", "--device", "kitchen=ssh://pi@board:2222/cpu:threads=2")
    measured = effvit("profile", *cells, *devices, "--json")
    assert measured.code == 0, measured.err
    outcomes = json.loads(measured.out)
    assert [one["cell"]["device"]["threads"] for one in outcomes] == [1, 2]
    assert [one["environment"]["hardware"]["name"] for one in outcomes] == ["", "kitchen"]
    again = effvit("profile", *cells, *devices)
    assert again.code == 0, again.err
    assert again.err.count("1 cells were in the result file already") == 2
    assert len((tmp_path / "results.jsonl").read_bytes().splitlines()) == 2
    assert effvit("agent", "clean", "ssh://pi@board:2222").code == 0
    assert not (tmp_path / "home/.cache/effvit-agent").exists()


def test_the_doctor_asks_a_device_behind_ssh(effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, bare_python(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    told = effvit("doctor", "--device", "kitchen=ssh://pi@board", "--json")
    assert told.code == 0, told.err
    assert set(json.loads(told.out)) == {"environment", "board"}
    shown = effvit("doctor", "--device", "ssh://pi@board")
    assert shown.code == 0, shown.err
    assert all(word in shown.out for word in ("pi@board", "governor", "temperature", "slowed down by"))
    refused(effvit("doctor", "--device", "cpu"), 2, "names no host")


def test_what_cannot_be_measured_over_ssh_is_a_sentence(effvit: Effvit, trained: Path) -> None:
    refused(effvit("profile", "--device", "ssh://a;b"), 2, "is not the name of a host")
    refused(effvit("profile", "--device", "ssh://-oProxyCommand=x"), 2, "is not the name of a host")
    refused(effvit("profile", "--device", "a b=ssh://pi"), 2, "is no name for a machine")
    refused(effvit("profile", "--device", "ssh://pi", "--max-batch"), 2, "--max-batch does not go with --device ssh://")
    refused(effvit("agent", "clean", "pi"), 2, "names no host")
