"""Sweeps that are killed, or interrupted, at random moments, again and again.

Nothing finished is lost, nothing is there twice.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil
import pytest
import sweep_program
from untrained_runs import make_run

from effvit.cli.main import INTERRUPTED
from effvit.profiling.records import Outcome
from effvit.profiling.results import read_finished

WORKLOADS = 4
# Some seconds of life are a cell or two: a sweep is killed many times before it is through.
LONGEST_S = 5.0
# What a killed sweep may leave behind for a moment: workers see their pipe close and end.
PATIENCE_S = 20.0
Start = Callable[..., BaseProcess]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Start:
    """Return a function that starts a sweep over two runs; it forks a process that has imported everything."""
    root = tmp_path_factory.mktemp("runs")
    folders = [make_run(root, attention).folder for attention in ("softmax", "linformer")]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["sweep_program"])

    def started(results: Path, names: tuple[str, ...], sweep: Callable[..., None] = sweep_program.sweep) -> BaseProcess:
        process = context.Process(target=sweep, args=(results, folders, names))
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


@pytest.mark.parametrize("interruptions", [2, pytest.param(40, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_interruptions_leave_whole_groups_and_nothing_else(start: Start, tmp_path: Path, interruptions: int) -> None:
    """Ctrl-C drops the running group at once, its workers and its pixels with it; what was finished stays."""
    (tmp_path / "temporary").mkdir()
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    names = ("ort-cpu", "hanging")
    interrupted = sweeps = 0
    while interrupted < interruptions:
        results, sweeps = tmp_path / f"{sweeps}.jsonl", sweeps + 1
        before: list[Outcome] = []
        while interrupted < interruptions and len(before) < 4:  # then the sweep hangs
            process = start(results, names, sweep_program.interruptible_sweep)
            while process.is_alive() and not list((tmp_path / "temporary").iterdir()):
                time.sleep(0.01)  # its modules are being imported
            interrupted += _interrupt(process, moments.uniform(0, LONGEST_S))
            after = read_finished(results)
            assert after[: len(before)] == before, f"seed {seed}: an outcome was lost or changed"
            assert len(results.read_bytes().splitlines() if results.exists() else []) == len(after), f"seed {seed}"
            by_comparison = Counter(one.evidence.comparison for one in after if one.evidence is not None)
            assert set(by_comparison.values()) <= {2}, f"seed {seed}: half of a group was kept"
            assert list((tmp_path / "temporary").iterdir()) == []
            before = after


def _interrupt(process: BaseProcess, after_s: float) -> bool:
    """Press Ctrl-C after `after_s`, see the sweep and its workers end, and return whether it was still running."""
    process.join(after_s)
    assert process.pid is not None
    alive = process.is_alive()
    family = psutil.Process(process.pid).children(recursive=True) if alive else []
    if alive:
        os.kill(process.pid, signal.SIGINT)
    process.join(PATIENCE_S)
    assert process.exitcode == (INTERRUPTED if alive else 0)
    _, left = psutil.wait_procs(family, PATIENCE_S)
    assert not left, f"workers outlived their sweep: {left}"
    return alive


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
