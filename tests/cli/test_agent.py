"""`effvit agent`: what the agent and a kit are made with."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from agents import bare_environment, run_agent
from command_line import Effvit, refused


def test_what_is_made_here_is_measured_there_and_reported_here(effvit: Effvit, trained: Path, tmp_path: Path) -> None:
    built = effvit("agent", "build", "--out", "a.pyz")
    assert (built.code, built.out) == (0, "a.pyz\n")
    effort = ("--samples", 2, "--least-s", 0, "--rounds", 2, "--warmup-ms", 1, "--max-noise", "inf")
    packed = effvit(
        "agent",
        "pack",
        "lin",
        "--batch",
        1,
        "--eval-images",
        2,
        *effort,
        "--out",
        "the kit;",
        "--runs",
        trained / "runs",
    )
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
