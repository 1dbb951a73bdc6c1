"""Fine-tunings that are killed at random moments, again and again, and end as one that never was."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import training_program
from training_program import request

from effvit.finetune import Finetuning
from effvit.run import LAST, WEIGHTS, open_run
from effvit.state import STATE


@pytest.mark.parametrize(
    ("kills", "images", "asked"),
    [
        (3, 40, request()),
        pytest.param(50, 400, request(epochs=2), marks=[pytest.mark.slow, pytest.mark.timeout(3600)]),
    ],
    ids=["3", "50"],
)
def test_kills_change_no_bit_of_the_weights(kills: int, images: int, asked: Finetuning, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    began = time.monotonic()
    _finish(tmp_path / "whole", asked, images)
    longest_s = time.monotonic() - began
    whole = tmp_path / "whole" / "killed"
    killed = rounds = 0
    while killed < kills:
        root, rounds = tmp_path / str(rounds), rounds + 1
        for _ in range(min(3, kills - killed)):
            killed += _kill(_start(root, asked, images), moments.uniform(0, longest_s))
        _finish(root, asked, images)
        for name in (WEIGHTS, LAST):
            same = (root / "killed" / name).read_bytes() == (whole / name).read_bytes()
            assert same, f"seed {seed}, kill {killed}: {name} differs"
        run = open_run(root / "killed")
        assert run.record.status == "done"
        assert [epoch.epoch for epoch in run.history()] == [epoch.epoch for epoch in open_run(whole).history()]
        assert {path.name for path in run.folder.iterdir()} == {path.name for path in whole.iterdir()}
        shutil.rmtree(root)


def _start(root: Path, asked: Finetuning, images: int) -> BaseProcess:
    # A fork server has imported everything, so that kills fall into the training rather than before it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training_program"])
    process = context.Process(target=training_program.go_on, args=(root, asked, images))
    process.start()
    return process


def _kill(process: BaseProcess, after_s: float) -> bool:
    """Kill a training after `after_s`, and return whether it was still running."""
    process.join(after_s)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def _finish(root: Path, asked: Finetuning, images: int) -> None:
    process = _start(root, asked, images)
    process.join()
    assert process.exitcode == 0
    assert not (root / "killed" / STATE).exists()
