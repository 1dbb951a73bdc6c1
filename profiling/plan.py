"""What a sweep measures and how long: axes expanded into groups of comparable cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from effvit.environment import usable_cores
from effvit.errors import UsageError
from effvit.export.base import Backend, Source, backends, pick_backend
from effvit.export.engine_options import DEFAULT_ENGINE, engine_for
from effvit.export.settings import RuntimeSettings
from effvit.interruption import uninterrupted
from effvit.profiling.confinement import Confinement
from effvit.profiling.devices import CPU, Device, check_gpus
from effvit.profiling.disturbance import TOLERANCE, Tolerance
from effvit.profiling.records import Cell
from effvit.run import Run
from effvit.spec import Precision, Workload, check_resolution

# Measuring stops once the interval is narrow, and some are narrow by luck. Of 2,000 synthetic measurements whose rounds
# differ by 3 %, stopped at 2 %, the intervals held the truth in 91.9 % with 4 rounds at least, in 93.2 % with 5.
LEAST_ROUNDS = 5
EVALUATION_BATCH = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """The axes of a sweep; every combination is a cell. Resolutions are (height, width) px."""

    runs: tuple[Run, ...]
    resolutions: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[str, ...]
    devices: tuple[Device, ...] = (CPU,)

    def check(self) -> None:
        """Check what can be known before anything is made.

        Raises:
            UsageError: A resolution that a run's patch size does not divide, a batch below 1, two runs or devices
                alike, a device with more cores than there are.
            UnknownNameError: An unknown backend.
            UnsupportedError: A backend that computes on none of the devices.
            UnavailableError: A backend or a GPU that is not on this machine.
        """
        check_devices(self.devices)
        for name in self.backends:
            pick_backend(name).require()
            pick_backend(name).require_device(*(device.kind for device in self.devices))
        specs = [run.record.spec for run in self.runs]
        for spec in specs:
            for resolution in self.resolutions:
                check_resolution(spec.backbone, resolution, spec.patch or 1)
        if len(set(specs)) < len(specs):
            raise UsageError("the same run is named twice", "name every run once")
        for batch in self.batches:
            Workload(batch, 1, 1)

    def groups(self) -> list[Group]:
        """Return what is measured together: cells alike in everything but the run."""
        axes = itertools.product(self.resolutions, self.precisions, self.backends, self.batches, self.devices)
        return [
            Group(pick_backend(backend), precision, Workload(batch, *resolution), device)
            for resolution, precision, backend, batch, device in axes
        ]


def check_devices(devices: Sequence[Device]) -> None:
    """Check that this machine has the devices.

    Raises:
        UsageError: Two that are alike, or one with more cores than there are.
        UnavailableError: A GPU that is not there.
    """
    check_gpus(devices)
    if len(set(devices)) < len(devices):
        raise UsageError("the same device is named twice", "name every device once")
    for device in devices:
        if (device.threads or 1) > usable_cores():
            raise UsageError(f"{device} is more than the {usable_cores()} cores of here", "choose fewer threads")


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that differ in the run alone and are measured in the same interleaved rounds."""

    backend: Backend
    precision: Precision
    workload: Workload
    device: Device = CPU

    def cell(self, run: Run) -> Cell:
        return Cell(run.record.spec, self.backend.name, self.precision, self.workload, self.device)

    def source(self, run: Run) -> Source:
        """Return what the artifact of `run` is made from; an engine is one for this batch alone."""
        height, width, batch = self.workload.height, self.workload.width, self.workload.batch
        engine = engine_for(batch) if self.backend.device_bound else DEFAULT_ENGINE
        return Source(run, height, width, self.precision, engine=engine)

    def evaluation_batch(self, effort: Effort) -> int:
        """Return the batch of verifying and evaluating: where memory is short, no larger one than was asked about."""
        short = effort.frugal or self.device.memory_bytes is not None
        return min(EVALUATION_BATCH, self.workload.batch) if short else EVALUATION_BATCH

    def threads(self, of_all_cores: int) -> int:
        """Return how many threads runtimes are told to use: `of_all_cores` on a device that does not say."""
        return self.device.threads or of_all_cores

    @property
    def on_processor(self) -> bool:
        """Whether the processor computes, rather than a GPU."""
        return self.device.kind == "cpu"

    def departures(self, settings: RuntimeSettings, confinement: Confinement, threads: int) -> str:
        """Return what was not done as it was asked for, empty where all was; `threads` is for devices of all cores."""
        found = settings.departures(self.precision, self.threads(threads), self.backend.providers)
        if self.device.kind == "cuda" and settings.device != self.device.name:
            found.append(f"asked for {self.device.name}, runs on {settings.device}")
        return "; ".join(found + confinement.departures(self.device))

    def __str__(self) -> str:
        device = "" if self.device == CPU else f", {self.device}"
        work = f"{self.workload.resolution} px, batch {self.workload.batch}"
        return f"{work}, {self.precision}, {self.backend.name}{device}"


@dataclass(frozen=True, slots=True)
class Effort:
    """How long to measure a cell.

    Until it has `rounds` rounds that nothing disturbed, in them `samples` launches and `least_s` seconds of launches,
    and the half-width of its median's 95 % interval is at most the share `max_noise` of it (infinity: whatever it is);
    but no longer than `most_s` seconds, warm-up included, once the first `rounds` rounds are over. `tolerance` says
    from when on a round counts as disturbed.

    `timeout_s` bounds a cell's process; `threads` is what runtimes are told to use on a device that does not say.
    Accuracy is measured on `eval_images` held-out images (0: all of them), artifacts are verified on `verify_images`.
    With `frugal` neither takes more memory than the cell itself, and workers are there one at a time.
    """

    threads: int
    rounds: int = LEAST_ROUNDS
    samples: int = 30
    least_s: float = 1.0
    most_s: float = 20.0
    warmup_s: float = 0.1
    timeout_s: float = 600.0
    eval_images: int = 500
    verify_images: int = 64
    max_noise: float = 0.02
    tolerance: Tolerance = TOLERANCE
    frugal: bool = False

    def __post_init__(self) -> None:
        for name in ("threads", "rounds", "samples", "verify_images"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}", "choose 1 or more")
        for name in ("least_s", "warmup_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be 0 or more, not {getattr(self, name)}", "choose a number of seconds")
        for name in ("most_s", "timeout_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be positive, not {getattr(self, name)}", "choose a number of seconds")
        if not self.max_noise > 0:
            raise UsageError(f"max_noise must be positive, not {self.max_noise}", "choose a share of the median")


def exported_backends(devices: Sequence[Device] = (CPU,)) -> tuple[str, ...]:
    """Return the names of the backends here that run exported artifacts, or PyTorch itself where there is none."""
    here = available_backends(devices)
    return tuple(name for name in here if pick_backend(name).format != "checkpoint") or here


def available_backends(devices: Sequence[Device] = (CPU,)) -> tuple[str, ...]:
    """Return the names of the backends that can run here on one of the devices, but for those that are slow to open."""
    kinds = {device.kind for device in devices}
    fitting = (backend for backend in backends().values() if not kinds.isdisjoint(backend.devices))
    with uninterrupted():  # as in Backend.require
        return tuple(one.name for one in fitting if not one.slow_to_open and one.unavailable() is None)
