"""Sweeps that are killed at random moments, again and again: nothing finished is lost, nothing is there twice."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import sweep_program
from untrained_runs import make_run

from effvit.profiling.records import Outcome
from effvit.profiling.results import read_finished

WORKLOADS = 4
# Some seconds of life are a cell or two: a sweep is killed many times before it is through.
LONGEST_S = 5.0
# What a killed sweep may leave behind for a moment: workers see their pipe close and end.
PATIENCE_S = 20.0
Start = Callable[[Path, tuple[str, ...]], BaseProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return a function that starts a sweep over two runs; it forks a process that has imported everything."""
    root = tmp_path_factory.mktemp("runs")
    folders = [make_run(root, attention).folder for attention in ("softmax", "linformer")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweep_program"])

    def started(results: Path, names: tuple[str, ...]) -> BaseProcess:
        process = context.Process(target=sweep_program.sweep, args=(results, folders, names))
        process.start()
        return process

    return started


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    ("kills", "names"),
    [(200, ("ort-cpu", "crashing", "hungry", "lying", "not-finite", "dying", "chatty")), (20, ("ort-cpu",))],
    ids=["fakes", "real"],
)
def test_kills_lose_nothing_and_double_nothing(
    start: Start, tmp_path: Path, kills: int, names: tuple[str, ...]
) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    cells = 2 * WORKLOADS * len(names)
    killed = sweeps = 0
    while killed < kills:
        results, sweeps = tmp_path / f"{sweeps}.jsonl", sweeps + 1
        before: list[Outcome] = []
        while killed < kills and len(before) < cells:
            killed += _kill(start(results, names), moments.uniform(0, LONGEST_S))
            after = read_finished(results)
            assert after[: len(before)] == before, f"seed {seed}, kill {killed}: an outcome was lost or changed"
            before = after
        _finish(start, results, names, cells)
        assert read_finished(results)[: len(before)] == before, f"seed {seed}"


def _kill(process: BaseProcess, after_s: float) -> bool:
    """Kill a sweep after `after_s`, wait until its workers are gone, and return whether it was still running."""
    process.join(after_s)
    family = psutil.Process(process.pid).children(recursive=True) if process.is_alive() else []
    alive = process.is_alive()
    process.kill()
    process.join()
    _, left = psutil.wait_procs(family, PATIENCE_S)
    assert not left, f"workers outlived their sweep: {left}"
    return alive


def _finish(start: Start, results: Path, names: tuple[str, ...], cells: int) -> None:
    """Let a sweep go on to its end, check that every cell is in the file exactly once."""
    process = start(results, names)
    process.join()
    assert process.exitcode == 0
    lines = results.read_bytes().splitlines()
    assert len(lines) == len(read_finished(results)) == cells
