"""Cells in processes of their own: a crash, a hang or an exhausted memory is a result, not an accident."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import msgspec

import effvit
from effvit.accuracy import Accuracy
from effvit.errors import StorageError
from effvit.export.base import Artifact
from effvit.export.settings import RuntimeSettings
from effvit.interruption import uninterrupted
from effvit.memory import ResidentMemory, resident_memory_of
from effvit.profiling.confinement import BY_CGROUP, BY_RLIMIT, Confinement, MemoryGroup, memory_group
from effvit.profiling.devices import CPU, Device, memory_text
from effvit.profiling.records import DeviceTimes, HostMemory, Status
from effvit.profiling.timer import Round

if TYPE_CHECKING:
    from typing import Self

# ONNX Runtime 1.32 keeps a database of what is done with it in the home, and a thread that sends it.
QUIET = "ORT_DISABLE_TELEMETRY"
WORKER = (sys.executable, "-m", "effvit.profiling.worker")


class CellFailure(Exception):  # noqa: N818  # not an error of the program: it becomes a row
    """A worker could not do what it was asked; `status` and `reason` go into the outcome.

    `crowded` says that memory ran out and others may have had it: the worker met no limit of its own.
    """

    def __init__(self, status: Status, reason: str, *, crowded: bool = False) -> None:
        super().__init__(reason)
        self.status: Status = status
        self.reason = reason
        self.crowded = crowded


@dataclass(frozen=True, slots=True)
class Opened:
    """What a worker tells of an artifact that it has open; times in seconds."""

    open_s: float
    first_s: float
    settings: RuntimeSettings
    confinement: Confinement


class IsolatedWorker:
    """A worker process; use it in a `with` block. All calls raise CellFailure, or StorageError where a disk is full."""

    def __init__(self, timeout_s: float, program: Sequence[str] = WORKER) -> None:
        calls_in, calls_out = os.pipe()
        answers_in, answers_out = os.pipe()
        # The worker imports the effvit that started it, wherever that lies.
        path = os.pathsep.join(filter(None, [str(Path(effvit.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [*program, str(calls_in), str(answers_out)],
            pass_fds=(calls_in, answers_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Unless someone wants otherwise, GPUs are numbered as the driver's own tools do it, and nothing that a
            # runtime tells its makers is collected beside the measuring.
            env={"CUDA_DEVICE_ORDER": "PCI_BUS_ID", QUIET: "1", **os.environ, "PYTHONPATH": path},
            # Ctrl-C goes to the whole terminal's process group; the sweep alone decides what becomes of a cell.
            start_new_session=True,
        )
        os.close(calls_in)
        os.close(answers_out)
        self._calls = os.fdopen(calls_out, "wb", buffering=0)
        self._answers = answers_in
        self._closed = False
        self._received = b""
        self._device = CPU
        self._group: MemoryGroup | None = None
        # Only time spent waiting for this worker counts: parked beside others it must not age.
        self.limit(timeout_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    def limit(self, timeout_s: float) -> None:
        """Give the worker `timeout_s` seconds of work from now on."""
        self.left_s = self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def prepare(self, backend: str, device: Device = CPU) -> None:
        """Hold the worker to `device` and start importing the runtime; `ready` waits for it."""
        memory_by = self._limited(device)
        self._send("prepare", backend=backend, device=asdict(device), memory_by=memory_by)

    def hold(self, device: Device) -> None:
        """Hold the worker to `device` before anything is imported."""
        memory_by = self._limited(device)
        self._call("hold", device=asdict(device), memory_by=memory_by)

    def ready(self) -> None:
        """Wait until the runtime is imported."""
        self._receive()

    def open(self, backend: str, artifact: Artifact, batch: int, threads: int, pixels: Path) -> Opened:
        """Load the artifact and launch it once."""
        result = self._call(
            "open", backend=backend, artifact=asdict(artifact), batch=batch, threads=threads, pixels=str(pixels)
        )
        return msgspec.convert(result, Opened)

    def memory(self, backend: str, artifact: Artifact, batch: int, threads: int, pixels: Path) -> HostMemory:
        """Load the artifact, run it, and return what memory that took; of use in a process that did nothing before."""
        result = self._call(
            "memory", backend=backend, artifact=asdict(artifact), batch=batch, threads=threads, pixels=str(pixels)
        )
        return msgspec.convert(result, HostMemory)

    def resident(self) -> ResidentMemory:
        """Return the memory of the process now, read from outside."""
        return resident_memory_of(self.pid)

    def limit_memory(self, memory_bytes: int) -> int:
        """Let the worker take no more than so much data, or what it was limited to before; return the limit."""
        limit: int = self._call("limit_memory", memory_bytes=memory_bytes)["memory_bytes"]
        return limit

    def round(self, samples: int, least_s: float, most_s: float, warmup_s: float) -> Round:
        """Time one round."""
        result = self._call("round", samples=samples, least_s=least_s, most_s=most_s, warmup_s=warmup_s)
        return msgspec.convert(result, Round)

    def stages(self) -> DeviceTimes | None:
        """Time the parts of a call; None where the runtime does not tell them apart."""
        return msgspec.convert(self._call("stages")["times"], DeviceTimes | None)

    def predict(self, pixels: Path, out: Path, batch: int) -> None:
        """Write the logits of the images in `pixels` to `out`."""
        self._call("predict", pixels=str(pixels), out=str(out), batch=batch)

    def evaluate(self, pixels: Path, labels: list[int], batch: int) -> Accuracy:
        """Return how many of the images in `pixels` are classified right."""
        result = self._call("evaluate", pixels=str(pixels), labels=labels, batch=batch)
        return msgspec.convert(result, Accuracy)

    def hang_up(self) -> None:
        """Close the pipe of calls, which tells the worker to end; what happens, too, when this process is killed."""
        self._calls.close()

    def close(self) -> None:
        """End the process, and everything it started; what has ended stays so."""
        if self._closed:
            return
        self._closed = True
        with uninterrupted():
            self.hang_up()
            if self._process.poll() is None:
                self._kill()
            self._process.wait()
            if self._group is not None:
                self._group.close()
            os.close(self._answers)

    def _limited(self, device: Device) -> str | None:
        """Take `device` for this worker's, and return what limits its memory from outside, if anything does."""
        self._device = device
        if device.memory_bytes is not None:
            self._group = memory_group(device.memory_bytes, self._process.pid)
        return None if self._group is None else BY_CGROUP

    def _call(self, name: str, **arguments: Any) -> dict[str, Any]:
        self._send(name, **arguments)
        return self._receive()

    def _send(self, name: str, **arguments: Any) -> None:
        try:
            self._calls.write(json.dumps({"name": name, "arguments": arguments}).encode() + b"\n")
        except BrokenPipeError:
            raise self._death() from None

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._received:
            started = time.monotonic()
            answered = select.select([self._answers], [], [], max(0.0, self.left_s))[0]
            self.left_s -= time.monotonic() - started
            if not answered:
                self._kill()
                raise CellFailure("timeout", f"took longer than {self._timeout_s:g} s{self._limit()}")
            chunk = os.read(self._answers, 2**16)
            if not chunk:
                raise self._death()
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            status, message = answer["error"]["status"], answer["error"]["message"]
            if answer["error"]["disk"] is not None:
                raise StorageError(message, answer["error"]["disk"])
            crowded = status == "oom" and self._device.memory_bytes is None
            raise CellFailure(status, message + self._limit() if status == "oom" else message, crowded=crowded)
        result: dict[str, Any] = answer["result"]
        return result

    def _kill(self) -> None:
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _limit(self) -> str:
        """Return the limit of memory as the end of a sentence, and which limit it is; empty where there is none."""
        if self._device.memory_bytes is None:
            return ""
        return f" (limit: {memory_text(self._device.memory_bytes)}, {BY_RLIMIT if self._group is None else BY_CGROUP})"

    def _death(self) -> CellFailure:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            # We did not send it, so the kernel did; on Linux that is the out-of-memory killer.
            reason = f"killed by the kernel, which does that when memory runs out{self._limit()}"
            return CellFailure("oom", reason, crowded=self._group is None)
        if code < 0:
            # Where memory is refused, few runtimes look whether they got it.
            refused = self._device.memory_bytes is not None and self._group is None
            reason = f"the worker crashed with {signal.Signals(-code).name}{self._limit()}"
            return CellFailure("oom" if refused else "failed", reason)
        return CellFailure("failed", f"the worker ended with exit code {code}")
