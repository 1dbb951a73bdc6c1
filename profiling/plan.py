"""What a sweep measures and how long: axes expanded into groups of comparable cells."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from effvit.environment import usable_cores
from effvit.errors import LackingError, UsageError
from effvit.export.base import Backend, Source, backends, pick_backend
from effvit.export.engine_options import DEFAULT_ENGINE, engine_for
from effvit.export.pins import AUTO, PINNABLE
from effvit.export.settings import RuntimeSettings
from effvit.export.sidecars import searched_pins
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
    """The axes of a sweep; every combination is a cell. Resolutions are (height, width) px.

    A run may be there twice, with nothing kept in fp32 and with pins, which are the names of modules or `AUTO`.
    """

    runs: tuple[Run, ...]
    resolutions: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[str, ...]
    devices: tuple[Device, ...] = (CPU,)

    def check(self) -> None:
        """Check what can be known before anything is measured here.

        Raises:
            UsageError: A device with more cores than there are.
            UnavailableError: A backend or a GPU that is not on this machine.
            UsageError, UnknownNameError, UnsupportedError: Of `check_cells`.
        """
        check_devices(self.devices)
        for name in self.backends:
            pick_backend(name).require()
        self.check_cells()

    def check_cells(self) -> None:
        """Check what can be known of the cells, wherever they are measured.

        Raises:
            UsageError: A resolution that a run's patch size does not divide, a batch below 1, two runs or devices
                alike.
            UnknownNameError: An unknown backend.
            UnsupportedError: A backend that computes on none of the devices.
        """
        if len(set(self.devices)) < len(self.devices):
            raise UsageError("the same device is named twice", "name every device once")
        for name in self.backends:
            pick_backend(name).require_device(*(device.kind for device in self.devices))
        for spec in (run.record.spec for run in self.runs):
            for resolution in self.resolutions:
                check_resolution(spec.backbone, resolution, spec.patch or 1)
        if len({(run.record.spec, run.pins) for run in self.runs}) < len(self.runs):
            raise UsageError("the same run is named twice", "name every run once")
        for batch in self.batches:
            Workload(batch, 1, 1)

    def entrants(self, group: Group) -> list[Run]:
        """Return the runs as they take part in `group`, those without pins first; pins mean nothing in fp32 and tf32.

        `AUTO` is what the last search found, and takes the place of the run without pins, which was refused; nothing
        where no search found any.
        """
        plain = [run for run in self.runs if not run.pins]
        if group.precision not in PINNABLE:
            return plain
        named = [run for run in self.runs if run.pins and run.pins != AUTO]
        searched = [replace(run, pins=_searched(run, group)) for run in self.runs if run.pins == AUTO]
        repaired = {run.folder: run for run in searched if run.pins}
        return [run for run in plain if run.folder not in repaired] + named + list(repaired.values())

    def groups(self) -> list[Group]:
        """Return what is measured together: cells alike in everything but the run."""
        axes = itertools.product(self.resolutions, self.precisions, self.backends, self.batches, self.devices)
        return [
            Group(pick_backend(backend), precision, Workload(batch, *resolution), device)
            for resolution, precision, backend, batch, device in axes
        ]


def check_precisions(backends: Sequence[str], precisions: Sequence[Precision]) -> None:
    """Check that one of the backends, if there are any, computes in one of the precisions.

    Raises:
        LackingError: None does.
    """
    known = frozenset[Precision]().union(*(pick_backend(name).precisions for name in backends))
    if backends and known.isdisjoint(precisions):
        do = "does" if len(backends) == 1 else "do"
        raise LackingError(
            f"{' and '.join(backends)} {do} not run {' or '.join(precisions)}",
            f"choose one of: {', '.join(sorted(known))}",
        )


def check_devices(devices: Sequence[Device]) -> None:
    """Check that this machine has the devices.

    Raises:
        UsageError: One with more cores than there are.
        UnavailableError: A GPU that is not there.
    """
    check_gpus(devices)
    for device in devices:
        if (device.threads or 1) > usable_cores():
            raise UsageError(f"{device} is more than the {usable_cores()} cores of here", "choose fewer threads")


def _searched(run: Run, group: Group) -> tuple[str, ...]:
    """Return what the last search found to have to stay in fp32 in the artifact of `run` for `group`, if one has."""
    size = group.workload.height, group.workload.width
    found = searched_pins(run.folder, group.backend.format, group.precision, size)
    return found[-1] if found else ()


@dataclass(frozen=True, slots=True)
class Group:
    """Cells that differ in the run alone and are measured in the same interleaved rounds."""

    backend: Backend
    precision: Precision
    workload: Workload
    device: Device = CPU

    def cell(self, run: Run) -> Cell:
        return Cell(run.record.spec, self.backend.name, self.precision, self.workload, self.device, run.pins)

    def source(self, run: Run) -> Source:
        """Return what the artifact of `run` is made from; engines and programs are for this batch alone."""
        height, width, batch = self.workload.height, self.workload.width, self.workload.batch
        engine = engine_for(batch) if self.backend.device_bound else DEFAULT_ENGINE
        count = batch if self.backend.fixed_batch else 1
        return Source(run, height, width, self.precision, pins=run.pins, engine=engine, batch=count)

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
    """Return the names of the backends that can run here on one of the devices, but for those that are slow.

    Slow are those that take tens of seconds to make an artifact, or to open it.
    """
    kinds = {device.kind for device in devices}
    fitting = (backend for backend in backends().values() if not kinds.isdisjoint(backend.devices))
    with uninterrupted():  # as in Backend.require
        return tuple(
            one.name for one in fitting if not (one.slow_to_open or one.slow_to_make) and one.unavailable() is None
        )
