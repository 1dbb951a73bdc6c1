"""Sessions of runtimes that compile for one batch: whatever else is bound runs in pieces of that batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from effvit.export.base import Images, Logits, Session, StagedSession
from effvit.export.settings import RuntimeSettings


class FixedBatchSession:
    """Compiles for the first batch that is bound, and runs every later batch through that very program.

    What is verified and evaluated is therefore what was timed. A batch of another size runs in pieces, the last one
    filled up, and such a launch is finished when it returns.
    """

    def __init__(self, compile_for: Callable[[Images], Session], batch: int | None = None) -> None:
        """Remember `compile_for`, which returns a session that is bound to the images it is given.

        `batch` is the one to compile for where that is not open to choice.
        """
        self._compile_for = compile_for
        self._session: Session | None = None
        self._batch = batch
        self._odd: Images | None = None
        self._odd_logits: Logits | None = None

    def bind(self, images: Images) -> None:
        """Compile, the first time; this takes as long as the runtime's compiler needs."""
        self._odd = self._odd_logits = None
        if self._batch is None:
            self._batch = len(images)
        if len(images) != self._batch:
            self._odd = images
        if self._session is None:
            self._session = self._compile_for(_resized(images, self._batch))
        elif self._odd is None:
            self._session.bind(images)

    def launch(self) -> None:
        if self._odd is None:
            self._compiled.launch()
        else:
            self._odd_logits = self._in_pieces(self._odd)

    def synchronize(self) -> None:
        self._compiled.synchronize()

    def logits(self) -> Logits:
        return self._compiled.logits() if self._odd_logits is None else self._odd_logits

    def settings(self) -> RuntimeSettings:
        return self._compiled.settings()

    @property
    def _compiled(self) -> Session:
        if self._session is None:
            raise RuntimeError("bind comes first")
        return self._session

    def _in_pieces(self, images: Images) -> Logits:
        session, batch, parts = self._compiled, self._batch or 1, []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            session.bind(_resized(part, batch))
            session.launch()
            session.synchronize()
            parts.append(session.logits()[: len(part)].copy())
        return np.concatenate(parts)


def _resized(images: Images, batch: int) -> Images:
    """Return `batch` images, repeated where they are fewer."""
    return images if len(images) == batch else np.resize(images, (batch, *images.shape[1:]))


class StagedFixedBatchSession(FixedBatchSession):
    """The same of a runtime on a GPU; its transfers are those of the batch that it was compiled for."""

    def __init__(self, compile_for: Callable[[Images], StagedSession]) -> None:
        """Remember `compile_for`, which returns a session that is bound to the images it is given."""
        super().__init__(self._compile)
        self._compile_staged = compile_for
        self._staged: StagedSession | None = None

    @property
    def gpu(self) -> str:
        return self._stages.gpu

    def upload(self) -> None:
        self._stages.upload()

    def download(self) -> None:
        self._stages.download()

    def mark(self) -> Any:
        return self._stages.mark()

    def seconds_between(self, first: Any, second: Any) -> float:
        return self._stages.seconds_between(first, second)

    def _compile(self, images: Images) -> Session:
        self._staged = self._compile_staged(images)
        return self._staged

    @property
    def _stages(self) -> StagedSession:
        if self._staged is None:
            raise RuntimeError("bind comes first")
        return self._staged
