"""What runtimes have in common: the artifact they run, the session that runs it, the backend that makes both.

Imports no torch: a measuring worker for ONNX Runtime stays as small as the runtime itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from effvit.errors import BackendUnavailableError, LackingError, UnsupportedError
from effvit.export.engine_options import DEFAULT_ENGINE, EngineOptions
from effvit.export.pins import Pinned
from effvit.export.quantisation import DEFAULT_QUANTISATION, Quantisation, Quantised
from effvit.export.settings import RuntimeSettings
from effvit.interruption import uninterrupted
from effvit.preprocessing import Preprocessing
from effvit.registry import discover, pick
from effvit.spec import Cost, ModelSpec, Precision

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from effvit.run import Run

Images = npt.NDArray[np.float32]
Logits = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Flip:
    """An image that an artifact decides otherwise: classes by index, `label` None where it was not looked at.

    PyTorch puts its own choice `margin` above every other class, the artifact its own `lead` above PyTorch's, both in
    logits.
    """

    image: str
    label: int | None
    reference: int
    predicted: int
    margin: float
    lead: float


@dataclass(frozen=True, slots=True)
class Parity:
    """How far an artifact's logits lie from the PyTorch fp32 model's, over `images` held-out images.

    `agreement` is the share of images with the same first class; `decisive_agreement` leaves out images whose first two
    classes in PyTorch are closer than the tolerance, where either order is as good (1.0 if none is left). `cosine` is
    the smallest of the images', `median_cosine` their median, `divergence` the mean Kullback-Leibler divergence of the
    probabilities in nats. Of the images, `correct` are classified right by PyTorch; the artifact has `lost` of these
    and `gained` others. `flips` lists the clearest of the changed decisions. None, and nothing, where it was not
    looked at.
    """

    images: int
    max_abs: float
    cosine: float
    agreement: float
    decisive_agreement: float
    divergence: float | None = None
    correct: int | None = None
    lost: int | None = None
    gained: int | None = None
    flips: tuple[Flip, ...] = ()
    median_cosine: float | None = None


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file that a runtime executes, for one resolution and precision; the batch is free.

    `path` is absolute; `sha256` and `size_bytes` are the file's. `parity` is None until the artifact was compared with
    the PyTorch model. `gpus` are those it was built on, with their drivers, if it is of use there alone. `quantised` is
    None for graphs that are not, `pinned` where no module stays in fp32 that would not anyway, `engine` for everything
    but engines; their batch is free within its bounds alone. `batch` is None but for artifacts that take
    this batch and no other.
    """

    format: str
    path: str
    sha256: str
    size_bytes: int
    model: ModelSpec
    precision: Precision
    height: int
    width: int
    preprocessing: Preprocessing
    classes: tuple[str, ...]
    cost: Cost
    built_with: tuple[tuple[str, str], ...]
    build_s: float
    parity: Parity | None = None
    gpus: tuple[str, ...] = ()
    quantised: Quantised | None = None
    pinned: Pinned | None = None
    engine: EngineOptions | None = None
    batch: int | None = None


class Session(Protocol):
    """An artifact loaded into a runtime.

    `launch` enqueues one pass over what `bind` copied to where the runtime wants it and does nothing else;
    `synchronize` waits until all launches are done. `logits` are of the last launch, `(batch, classes)` float32 on the
    host. The first `bind` may compile for its batch: that is part of opening, and of what opening takes. `settings`
    are read back after a launch, and may launch once more.
    """

    def bind(self, images: Images) -> None: ...
    def launch(self) -> None: ...
    def synchronize(self) -> None: ...
    def logits(self) -> Logits: ...
    def settings(self) -> RuntimeSettings: ...


@runtime_checkable
class StagedSession(Session, Protocol):
    """A session on a GPU whose transfers can be enqueued, too, and told from the pass itself.

    `bind` leaves the batch in page-locked memory of the host and on the GPU. `upload` enqueues the copy of it to the
    GPU, `download` that of the logits of the last launch to the host; `synchronize` waits for them as for launches.
    `mark` enqueues an event, and `seconds_between` tells how long after one the GPU came to another, once both are
    past. `gpu` is the name of the GPU that its driver's tools know, `GPU-` and a UUID.
    """

    @property
    def gpu(self) -> str: ...
    def upload(self) -> None: ...
    def download(self) -> None: ...
    def mark(self) -> Any: ...
    def seconds_between(self, first: Any, second: Any) -> float: ...


@dataclass(frozen=True, slots=True)
class Source:
    """What an artifact is made from: a run, at one resolution (px) and precision.

    `quantisation` has a meaning for precisions that are quantised; `pins`, the names of modules that stay in fp32, for
    those of 16 bits or less; `engine` for TensorRT; `batch` for backends whose artifacts are for one batch.
    """

    run: Run
    height: int
    width: int
    precision: Precision
    quantisation: Quantisation = DEFAULT_QUANTISATION
    pins: tuple[str, ...] = ()
    engine: EngineOptions = DEFAULT_ENGINE
    batch: int = 1

    def model(self) -> VisionTransformer:
        """Return the trained fp32 model at this resolution, in evaluation mode."""
        return self.run.model(self.height, self.width)


@dataclass(frozen=True, slots=True)
class Backend:
    """One runtime as a value.

    Backends of the same `format` share artifacts. `unavailable()` returns why the runtime cannot be used here, or None,
    and imports it; `install` says how to get it. `export(source, path)` makes the artifact's file and returns where it
    is: `path`, or a file that exists already. `open(artifact, threads)` loads it, using `threads` CPU threads.
    Artifacts of a `device_bound` backend are of use on the GPUs and drivers they were built with alone. One that is
    `slow_to_open`, by tens of seconds or more, is measured only where it is named. `providers` are the parts of the
    runtime that may run nodes of a graph; with none given, any may. `open_on_gpu(artifact, threads, index)` loads the
    artifact onto the GPU of that number; None: the runtime, as it is used here, computes on no GPU. One that is
    `gpu_only` does not compute on the CPU, though its artifacts may; `open` is then for the first GPU. The artifacts of
    one that is `fixed_batch` take the batch that they are made for; sessions run others in pieces. Making those of one
    that is `slow_to_make` takes so long that it, too, is measured only where it is named. `tools` are the packages,
    beside those of every backend, that its artifacts are made with.
    """

    name: str
    summary: str
    format: str
    suffix: str
    precisions: frozenset[Precision]
    install: str
    unavailable: Callable[[], str | None]
    version: Callable[[], str | None]
    export: Callable[[Source, Path], Path]
    open: Callable[[Artifact, int], Session]
    device_bound: bool = False
    slow_to_open: bool = False
    providers: frozenset[str] = frozenset()
    open_on_gpu: Callable[[Artifact, int, int], Session] | None = None
    gpu_only: bool = False
    fixed_batch: bool = False
    slow_to_make: bool = False
    tools: tuple[str, ...] = ()

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of devices that it computes on."""
        on_cpu = not (self.device_bound or self.gpu_only)
        return ("cpu",) * on_cpu + ("cuda",) * (self.open_on_gpu is not None)

    def open_on(self, artifact: Artifact, threads: int, gpu: int | None) -> Session:
        """Load `artifact` onto the GPU of that number, or onto the CPU if it is None.

        Raises:
            UnsupportedError: The backend does not compute there.
            BackendUnavailableError: The runtime does not see that GPU.
        """
        self.require_device("cpu" if gpu is None else "cuda")
        if gpu is None or self.open_on_gpu is None:
            return self.open(artifact, threads)
        return self.open_on_gpu(artifact, threads, gpu)

    def require_device(self, *kinds: str) -> None:
        """Check that the backend computes on devices of one of these kinds.

        Raises:
            UnsupportedError: It does not.
        """
        if set(kinds).isdisjoint(self.devices):
            here, there = " and ".join(self.devices), " or ".join(dict.fromkeys(kinds))
            raise UnsupportedError(f"{self.name} computes on {here}, not on {there}", f"add --device {self.devices[0]}")

    def require(self, precision: Precision | None = None) -> None:
        """Check that the runtime is here and takes `precision`.

        Raises:
            BackendUnavailableError: It is not here.
            LackingError: It does not compute in this precision.
        """
        with uninterrupted():  # libraries that Ctrl-C breaks off while they are imported say that they cannot be
            reason = self.unavailable()
        if reason is not None:
            raise BackendUnavailableError(f"{self.name} cannot run here: {reason}", self.install)
        if precision is not None:
            self.require_precision(precision)

    def require_precision(self, precision: Precision) -> None:
        """Check that the runtime, wherever it is, takes `precision`.

        Raises:
            LackingError: It does not compute in this precision.
        """
        if precision not in self.precisions:
            known = ", ".join(sorted(self.precisions))
            raise LackingError(f"{self.name} does not run {precision}", f"choose one of: {known}")


@cache
def backends() -> Mapping[str, Backend]:
    """Return every backend by name, those that cannot run here included."""
    return discover("effvit.export.backends", "BACKEND", Backend)


def pick_backend(name: str) -> Backend:
    """Return the backend called `name`.

    Raises:
        UnknownNameError: There is none.
    """
    return pick(backends(), name, "backend")


def predict(session: Session, images: Images, batch: int) -> Logits:
    """Return the logits of `images`, `(images, 3, height, width)`, run `batch` at a time."""
    parts = []
    for start in range(0, len(images), batch):
        session.bind(np.ascontiguousarray(images[start : start + batch]))
        session.launch()
        session.synchronize()
        parts.append(session.logits())
    return np.concatenate(parts)
