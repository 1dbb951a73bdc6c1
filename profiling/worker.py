"""The process one cell is measured in: `python -m effvit.profiling.worker FD_IN FD_OUT`.

Calls arrive as JSON lines on one pipe and answers leave on another, so that whatever a runtime prints stays harmless.
An answer is `{"result": ...}`, or `{"error": {"status", "message", "disk"}}`, where `disk` is a hint if that is full;
the worker then waits for the next call.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from effvit.errors import (
    BackendUnavailableError,
    EffvitError,
    ExportError,
    LackingError,
    StorageError,
    UnsupportedError,
)
from effvit.evaluate import count_correct, merge
from effvit.export.base import Artifact, Session, StagedSession, pick_backend
from effvit.memory import ResidentMemory, forget_peak, limit_data, resident_memory
from effvit.preprocessing import normalise
from effvit.profiling.board import BoardMeter
from effvit.profiling.confinement import BY_RLIMIT, Confinement, confine
from effvit.profiling.devices import CPU, Device
from effvit.profiling.gpu import GpuMeter
from effvit.profiling.records import HostMemory
from effvit.profiling.staging import time_stages
from effvit.profiling.timer import time_round
from effvit.storage import storage_errors

PART = 16
"""Images that are normalised at once."""
PR_SET_PDEATHSIG = 1  # prctl(2)


class Worker:
    """One artifact in one runtime; the public methods are the calls."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._artifact: Artifact | None = None
        self._device = CPU
        self._confinement = Confinement(None)
        self._gpu: GpuMeter | None = None
        self._board: BoardMeter | None = None
        self._images = np.empty(0, dtype=np.float32)
        self._imported: tuple[ResidentMemory, ResidentMemory] | None = None

    @property
    def short_of_memory(self) -> bool:
        """Whether memory beyond the device's is refused to this process, rather than the process killed for it."""
        return self._confinement.memory_by == BY_RLIMIT

    def hold(self, device: dict[str, Any], memory_by: str | None) -> dict[str, object]:
        """Hold this process to the device."""
        self._device = msgspec.convert(device, Device)
        self._confinement = confine(self._device, memory_by)
        return {}

    def prepare(self, backend: str, device: dict[str, Any], memory_by: str | None) -> dict[str, object]:
        """Hold this process to the device, then import the runtime: thread pools take the cores they find."""
        self.hold(device, memory_by)
        self._import(backend)
        return {}

    def open(self, backend: str, artifact: dict[str, Any], batch: int, threads: int, pixels: str) -> dict[str, object]:
        """Load the artifact, run it once on real images, and read what the runtime really uses."""
        self._artifact = msgspec.convert(artifact, Artifact)
        self._images = self._normalised(np.load(pixels, mmap_mode="r"), batch)
        started = time.perf_counter()
        session = self._load(backend, threads)
        session.bind(self._images)  # some runtimes compile now
        open_s = time.perf_counter() - started
        started = time.perf_counter()
        session.launch()
        session.synchronize()
        first_s = time.perf_counter() - started
        if not np.isfinite(session.logits()).all():
            raise EffvitError("the artifact returns NaN or infinite logits on real images")
        return {
            "open_s": open_s,
            "first_s": first_s,
            "settings": asdict(session.settings()),
            "confinement": asdict(self._confinement),
        }

    def memory(
        self, backend: str, artifact: dict[str, Any], batch: int, threads: int, pixels: str
    ) -> dict[str, object]:
        """Do what `open` does, untimed, and read the memory of this process at every step."""
        self._artifact = msgspec.convert(artifact, Artifact)
        start, before = self._imported or self._import(backend)
        session = self._load(backend, threads)
        loaded = resident_memory()
        self._images = self._normalised(np.load(pixels, mmap_mode="r"), batch)
        session.bind(self._images)
        bound = resident_memory()
        forgotten = forget_peak()
        for _ in range(3):  # allocators reach their steady size with the second launch
            session.launch()
            session.synchronize()
        ledger = _ledger((start, before, loaded, bound, resident_memory()), forgotten, self._images.nbytes)
        # Last of all: NVML takes memory of the host.
        gpu = GpuMeter(session.gpu).memory() if isinstance(session, StagedSession) else None
        return asdict(replace(ledger, gpu=gpu))

    def limit_memory(self, memory_bytes: int) -> dict[str, object]:
        """Take no more than so much data from now on, or what the process was limited to before."""
        return {"memory_bytes": limit_data(memory_bytes)}

    def round(self, samples: int, least_s: float, most_s: float, warmup_s: float) -> dict[str, object]:
        """Time one round."""
        session = self._opened()
        session.bind(self._images)  # predictions in between were bound to batches of their own
        if self._gpu is None and isinstance(session, StagedSession):
            self._gpu = GpuMeter(session.gpu)
        self._board = self._board or BoardMeter()
        measured = time_round(
            session,
            samples=samples,
            least_s=least_s,
            most_s=most_s,
            warmup_s=warmup_s,
            gpu=self._gpu,
            board=self._board,
        )
        return asdict(measured)

    def stages(self) -> dict[str, object]:
        """Time the parts of a call, where the session can tell them."""
        session = self._opened()
        if not isinstance(session, StagedSession):
            return {"times": None}
        session.bind(self._images)
        return {"times": asdict(time_stages(session))}

    def predict(self, pixels: str, out: str, batch: int) -> dict[str, object]:
        """Write the logits of all images in the file `pixels` to the file `out`."""
        parts = [logits for logits, _ in self._logits(pixels, batch)]
        content = io.BytesIO()  # numpy does not tell why a file cannot be written
        np.save(content, np.concatenate(parts))
        with storage_errors(Path(out)):
            Path(out).write_bytes(content.getvalue())
        return {}

    def evaluate(self, pixels: str, labels: list[int], batch: int) -> dict[str, object]:
        """Count how many of the images in the file `pixels` are classified right."""
        truth = np.asarray(labels, dtype=np.int64)
        counts = [
            count_correct(logits, truth[start : start + len(logits)]) for logits, start in self._logits(pixels, batch)
        ]
        return asdict(merge(counts))

    def _import(self, backend: str) -> tuple[ResidentMemory, ResidentMemory]:
        """Import the runtime, and return the memory of this process before and after."""
        start = resident_memory()
        pick_backend(backend).require()
        self._imported = start, resident_memory()
        return self._imported

    def _load(self, backend: str, threads: int) -> Session:
        assert self._artifact is not None
        self._session = pick_backend(backend).open_on(self._artifact, threads, self._device.index)
        return self._session

    def _logits(self, pixels: str, batch: int) -> Any:
        session = self._opened()
        for start, part in _parts(pixels, batch):
            session.bind(self._normalised(part, len(part)))
            session.launch()
            session.synchronize()
            yield session.logits(), start

    def _normalised(self, pixels: np.ndarray, batch: int) -> np.ndarray:
        assert self._artifact is not None
        height, width = pixels.shape[1:3]
        images = np.empty((batch, 3, height, width), dtype=np.float32)
        # In parts, so that making a batch takes hardly more memory than it does: its limit is to be the model's.
        for start in range(0, batch, PART):
            some = range(start, min(batch, start + PART))
            # Fewer images than the batch: repeated.
            images[some.start : some.stop] = normalise(
                pixels.take(some, axis=0, mode="wrap"), self._artifact.preprocessing
            )
        return images

    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("open comes first")
        return self._session


# How CUDA, PyTorch, ONNX Runtime, the C++ library and the loader of shared libraries say that memory ran out.
OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "failed to map segment",
)
CALLS = ("hold", "prepare", "open", "memory", "limit_memory", "round", "stages", "predict", "evaluate")


def _parts(pixels: str, batch: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the images in the file `pixels`, so many at a time, and the place of the first of them.

    They are read, not mapped: of a file that is mapped, all that was touched counts as memory of the process.
    """
    stored = np.load(pixels, mmap_mode="r")
    for start in range(0, len(stored), batch):
        count, size = min(batch, len(stored) - start), stored[0].size
        part = np.fromfile(pixels, stored.dtype, count * size, offset=stored.offset + start * stored[0].nbytes)
        yield start, part.reshape(count, *stored.shape[1:])


def serve(worker: Worker, lines: Any, answer: Callable[[dict[str, object]], None]) -> None:
    """Answer calls until the pipe closes."""
    for line in lines:
        call = json.loads(line)
        if call["name"] not in CALLS:
            raise ValueError(f"unknown call {call['name']!r}")
        try:
            answer({"result": getattr(worker, call["name"])(**call["arguments"])})
        # The boundary between a runtime's code and ours: whatever it raises becomes the cell's outcome.
        except Exception as error:  # noqa: BLE001
            problem = {"status": _status(error, worker.short_of_memory), "message": _message(error)}
            answer({"error": {**problem, "disk": error.hint if isinstance(error, StorageError) else None}})


def _ledger(steps: Sequence[ResidentMemory], forgotten: bool, images_bytes: int) -> HostMemory:
    """Return the readings at the start, with the runtime, the artifact, the images in place, and after the launches."""
    start, before, loaded, bound, after = steps
    earlier, later = bound.peak_bytes, after.peak_bytes
    peaks = [peak for peak in (earlier, later) if peak is not None]
    note = after.note
    # Where the kernel does not forget a peak, that of the launches shows only if it is the highest of all.
    seen = forgotten or (earlier is not None and later is not None and later > earlier)
    if not seen:
        note = note or "loading took more than the launches, and the kernel does not tell the two peaks apart"
    return HostMemory(
        before_bytes=before.now_bytes,
        peak_bytes=max(peaks, default=None),
        source=after.source,
        note=note,
        start_bytes=start.now_bytes,
        loaded_bytes=loaded.now_bytes,
        bound_bytes=bound.now_bytes,
        images_bytes=images_bytes,
        launch_peak_bytes=later if seen else None,
        virtual_peak_bytes=after.virtual_peak_bytes,
    )


def _status(error: Exception, short_of_memory: bool) -> str:
    # Refused memory, runtimes fail in whatever way: libraries that do not load, threads that do not start, formats that
    # they do not know any more.
    ours = isinstance(error, EffvitError) and not isinstance(error, (ExportError, BackendUnavailableError))
    if short_of_memory and not ours:
        return "oom"
    if isinstance(error, MemoryError) or any(phrase in str(error).lower() for phrase in OUT_OF_MEMORY):
        return "oom"
    if isinstance(error, (UnsupportedError, LackingError)):
        return "unsupported"
    return "skipped" if isinstance(error, BackendUnavailableError) else "failed"


def _message(error: Exception) -> str:
    if isinstance(error, EffvitError):
        return error.message
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0]}" if text else type(error).__name__


def end_with_parent() -> None:
    """Let the kernel end this process with the one that started it, however that ends; only Linux can.

    A runtime that computes or hangs does not see its pipe close.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main() -> None:
    """Serve the pipes named on the command line."""
    end_with_parent()
    calls, answers = (int(argument) for argument in sys.argv[1:3])
    with os.fdopen(calls, "r") as lines, os.fdopen(answers, "w") as out:

        def answer(content: dict[str, object]) -> None:
            out.write(json.dumps(content) + "\n")
            out.flush()

        serve(Worker(), lines, answer)


if __name__ == "__main__":
    main()
