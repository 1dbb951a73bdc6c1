"""Batches that are not the one a runtime compiled for."""

from __future__ import annotations

import numpy as np

from effvit.export.base import Images, Logits
from effvit.export.pieces import FixedBatchSession


class Doubling:
    """A session whose logits are twice its images, of one batch alone."""

    def __init__(self, images: Images, launched: list[int]) -> None:
        self.batch, self.launched = len(images), launched
        self.images = self.out = images

    def bind(self, images: Images) -> None:
        assert len(images) == self.batch
        self.images = images

    def launch(self) -> None:
        self.launched.append(len(self.images))
        self.out = 2 * self.images

    def synchronize(self) -> None:
        return

    def logits(self) -> Logits:
        return self.out


def images(*values: float) -> Images:
    return np.array(values, dtype=np.float32)[:, None]


class Compiler:
    """Remembers the batches it compiled for, and what was launched."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.launched: list[int] = []

    def __call__(self, batch: Images) -> Doubling:
        self.batches.append(len(batch))
        return Doubling(batch, self.launched)


def run(session: FixedBatchSession, batch: Images) -> list[float]:
    session.bind(batch)
    session.launch()
    session.synchronize()
    return session.logits()[:, 0].tolist()


def test_every_batch_runs_through_the_program_of_the_first() -> None:
    compiler = Compiler()
    session = FixedBatchSession(compiler)
    assert run(session, images(1, 2, 3)) == [2, 4, 6]
    assert run(session, images(1, 2, 3, 4, 5, 6, 7)) == [2, 4, 6, 8, 10, 12, 14]
    assert run(session, images(9)) == [18]
    assert compiler.batches == [3]
    assert set(compiler.launched) == {3}


def test_the_first_batch_is_one_launch_also_after_others() -> None:
    compiler = Compiler()
    session = FixedBatchSession(compiler)
    run(session, images(1, 2))
    run(session, images(1, 2, 3, 4, 5))
    compiler.launched.clear()
    assert run(session, images(3, 4)) == [6, 8]
    assert compiler.launched == [2]


def test_nothing_runs_when_a_batch_is_bound() -> None:
    compiler = Compiler()
    session = FixedBatchSession(compiler)
    session.bind(images(1, 2))
    session.bind(images(1, 2, 3))
    assert compiler.launched == []


def test_a_batch_that_is_given_is_compiled_for_whatever_is_bound_first() -> None:
    compiler = Compiler()
    session = FixedBatchSession(compiler, 2)
    assert run(session, images(1, 2, 3)) == [2, 4, 6]
    assert run(session, images(4)) == [8]
    assert run(session, images(5, 6)) == [10, 12]
    assert compiler.batches == [2]
