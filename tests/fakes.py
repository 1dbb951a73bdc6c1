"""Backends that misbehave, for real: each is ONNX Runtime with one thing wrong.

Run as a program this is a measuring worker that knows them.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np

from effvit.export.base import Artifact, Backend, Images, Logits, Session, backends, pick_backend
from effvit.export.settings import RuntimeSettings
from effvit.profiling.isolate import IsolatedWorker
from effvit.spec import Precision

WORKED_BYTES, LOADED_BYTES, GREED_BYTES, HELD_BYTES = 96 * 2**20, 160 * 2**20, 64 * 2**20, 192 * 2**20
OPENING_LAUNCHES = 4
"""More than opening and verifying take, fewer than being measured does."""


class Wrapped:
    """A session that passes everything on."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def bind(self, images: Images) -> None:
        self.session.bind(images)

    def launch(self) -> None:
        self.session.launch()

    def synchronize(self) -> None:
        self.session.synchronize()

    def logits(self) -> Logits:
        return self.session.logits()

    def settings(self) -> RuntimeSettings:
        return self.session.settings()


class Coarse(Wrapped):
    """Says that it computes in another type than it was asked for; its logits are still close enough."""

    def settings(self) -> RuntimeSettings:
        return replace(self.session.settings(), precision=Precision.BF16)


class Lying(Wrapped):
    """Computes something else than it was asked for."""

    def logits(self) -> Logits:
        return self.session.logits() + np.linspace(0, 1, 10, dtype=np.float32)


class NotFinite(Wrapped):
    def logits(self) -> Logits:
        return np.full_like(self.session.logits(), np.nan)


class DiesWhenMeasured(Wrapped):
    """Works until it has been launched as often as opening and verifying need, then crashes."""

    launches = 0

    def launch(self) -> None:
        self.launches += 1
        if self.launches > OPENING_LAUNCHES:
            os.kill(os.getpid(), signal.SIGSEGV)
        self.session.launch()


class Counting(Wrapped):
    """Leaves the batches it was bound to in a file named after its process."""

    def bind(self, images: Images) -> None:
        with _bound(os.getpid()).open("a") as stream:
            stream.write(f"{len(images)}\n")
        self.session.bind(images)


def _bound(pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"effvit-test-bound-{pid}"


def bound_batches(pid: int) -> list[int]:
    """Return the batches that the `counting` backend of process `pid` was bound to, and forget them."""
    text = _bound(pid).read_text()
    _bound(pid).unlink()
    return [int(line) for line in text.splitlines()]


class Working(Wrapped):
    """Takes `WORKED_BYTES` in every launch, and gives them back."""

    def launch(self) -> None:
        np.ones(WORKED_BYTES, dtype=np.uint8)
        self.session.launch()


class Greedy(Wrapped):
    """Takes `GREED_BYTES` an image in every launch."""

    images = 0

    def bind(self, images: Images) -> None:
        self.images = len(images)
        self.session.bind(images)

    def launch(self) -> None:
        np.ones((self.images, GREED_BYTES), dtype=np.uint8)
        self.session.launch()


class Holding(Wrapped):
    """Takes `HELD_BYTES`, and keeps them; `later` not before it is measured."""

    def __init__(self, session: Session, later: bool) -> None:
        super().__init__(session)
        self.launches = 0
        self.held = np.empty(0, dtype=np.uint8) if later else np.ones(HELD_BYTES, dtype=np.uint8)

    def launch(self) -> None:
        self.launches += 1
        if self.launches > OPENING_LAUNCHES and not len(self.held):
            self.held = np.ones(HELD_BYTES, dtype=np.uint8)
        self.session.launch()


class Chatty(Wrapped):
    def launch(self) -> None:
        os.write(1, b'{"result": "not an answer"}\n')
        self.session.launch()


def opened(artifact: Artifact, threads: int) -> Session:
    return pick_backend("ort-cpu").open(artifact, threads)


def crash(artifact: Artifact, threads: int) -> Session:
    os.kill(os.getpid(), signal.SIGSEGV)
    raise AssertionError


def killed(artifact: Artifact, threads: int) -> Session:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def hang(artifact: Artifact, threads: int) -> Session:
    time.sleep(3600)
    raise AssertionError


def hang_at_import() -> str | None:
    time.sleep(3600)
    raise AssertionError


def eat_memory(artifact: Artifact, threads: int) -> Session:
    raise MemoryError


def eat_memory_for_softmax(artifact: Artifact, threads: int) -> Session:
    if artifact.model.attention == "softmax":
        raise MemoryError
    return opened(artifact, threads)


def leave(artifact: Artifact, threads: int) -> Session:
    os._exit(7)


def load_at_length(artifact: Artifact, threads: int) -> Session:
    """Take `LOADED_BYTES` while loading, and give them back."""
    np.ones(LOADED_BYTES, dtype=np.uint8)
    return Working(opened(artifact, threads))


def fake(name: str, **changes: object) -> Backend:
    return replace(pick_backend("ort-cpu"), name=name, **changes)


def fakes() -> dict[str, Backend]:
    made = (
        fake("crashing", open=crash),
        fake("killed", open=killed),
        fake("hanging", open=hang),
        fake("hanging-import", unavailable=hang_at_import),
        fake("hungry", open=eat_memory),
        fake("hungry-for-softmax", open=eat_memory_for_softmax),
        fake("leaving", open=leave),
        fake("lying", open=lambda artifact, threads: Lying(opened(artifact, threads))),
        fake("coarse", open=lambda artifact, threads: Coarse(opened(artifact, threads))),
        fake("not-finite", open=lambda artifact, threads: NotFinite(opened(artifact, threads))),
        fake("dying", open=lambda artifact, threads: DiesWhenMeasured(opened(artifact, threads))),
        fake("counting", open=lambda artifact, threads: Counting(opened(artifact, threads))),
        fake("working", open=lambda artifact, threads: Working(opened(artifact, threads))),
        fake("greedy", open=lambda artifact, threads: Greedy(opened(artifact, threads))),
        fake("loading", open=load_at_length),
        fake("holding", open=lambda artifact, threads: Holding(opened(artifact, threads), later=False)),
        fake("holding-later", open=lambda artifact, threads: Holding(opened(artifact, threads), later=True)),
        fake("chatty", open=lambda artifact, threads: Chatty(opened(artifact, threads))),
    )
    return {backend.name: backend for backend in made}


def start_worker(timeout_s: float) -> IsolatedWorker:
    """Start a worker that knows the fakes."""
    return IsolatedWorker(timeout_s, program=(sys.executable, str(Path(__file__))))


if __name__ == "__main__":
    from effvit.profiling.worker import main

    backends().update(fakes())  # type: ignore[attr-defined]  # discovery returns a dict
    main()
