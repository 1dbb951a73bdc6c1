"""What a sweep writes: cells, evidence, outcomes. Raw evidence only; statistics are functions of it.

Standard library only, so that a measuring worker can use it without torch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from effvit.accuracy import Accuracy
from effvit.environment import Environment
from effvit.export.base import Parity
from effvit.export.pins import Pinned
from effvit.export.settings import RuntimeSettings
from effvit.profiling.confinement import Confinement
from effvit.profiling.devices import CPU, Device
from effvit.profiling.disturbance import Turn
from effvit.profiling.gpu import GpuMemory
from effvit.spec import Cost, ModelSpec, Precision, Workload

SCHEMA = "effvit.result/3"

Status = Literal["ok", "oom", "timeout", "build_failed", "unsupported", "fallback", "unstable", "skipped", "failed"]
FAILURES: tuple[Status, ...] = ("failed", "oom", "timeout", "build_failed")
Stage = Literal["export", "verify", "open", "measure", "accuracy"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One question to a device: this model, through this backend, in this precision, under this workload.

    `pins` are the modules of the model that stay in fp32 all the same.
    """

    model: ModelSpec
    backend: str
    precision: Precision
    workload: Workload
    device: Device = CPU
    pins: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The cell's identity in a result file, 16 hexadecimal digits."""
        facts = asdict(self)
        if self.device.index is None:
            del facts["device"]["index"]  # what was measured before GPUs were devices keeps its key
        if not self.pins:
            del facts["pins"]  # and so does what was measured before there were any
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw times of single launches in order, with the interleaved round each belongs to.

    A time is from the launch until the wait for it is over. On the CPU that is all of a call; on a GPU the images lie
    there already and the logits stay: transfers are in none of these times (see `DeviceTimes`).
    `seconds[i]` was measured in round `rounds[i]`; rounds count from 0. `warmup` launches were made before and not
    timed. `stopped` says which rule ended the measurement. Rounds `left_out` were disturbed, and enough others were
    not: statistics do without them.
    """

    seconds: tuple[float, ...]
    rounds: tuple[int, ...]
    warmup: int
    clock: str
    stopped: str
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Throughput:
    """Back-to-back launches with one wait at their end: (images, seconds) for each round, in order.

    The blocks at the places `left_out`, counted from 0, belong to rounds that statistics do without.
    """

    blocks: tuple[tuple[int, float], ...]
    left_out: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Resident memory in bytes of a process that runs the cell and nothing else, untimed, read from `source`.

    In the order of their reading: `start_bytes` with Python and effvit alone, `before_bytes` with the runtime imported
    and nothing opened, `loaded_bytes` with the artifact opened, `bound_bytes` with the images in place, which take
    `images_bytes` themselves. `launch_peak_bytes` is the highest during the launches that followed, `peak_bytes` that
    of the whole process, and `virtual_peak_bytes` the most it reserved, used or not. None: the reading is not available
    here, and `note` says why. `gpu` is None where no GPU computes.
    """

    before_bytes: int | None
    peak_bytes: int | None
    source: str
    note: str = ""
    start_bytes: int | None = None
    loaded_bytes: int | None = None
    bound_bytes: int | None = None
    images_bytes: int | None = None
    launch_peak_bytes: int | None = None
    virtual_peak_bytes: int | None = None
    gpu: GpuMemory | None = None


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """The file that was measured; `pinned` is None where no module stays in fp32 that would not anyway."""

    path: str
    sha256: str
    size_bytes: int
    build_s: float
    pinned: Pinned | None = None


@dataclass(frozen=True, slots=True)
class Calibration:
    """The best that this machine did in numpy with `threads` threads, in fp32 multiply-accumulates and bytes a second.

    The bytes are those of a copy, `copied_bytes` read and as many written; `library` names what multiplied matrices.
    `core_share` is the processor time that the best product got, as a share of that of its cores.
    """

    macs_per_s: float
    bytes_per_s: float
    threads: int
    core_share: float
    copied_bytes: int
    library: str

    def __post_init__(self) -> None:
        if min(self.macs_per_s, self.bytes_per_s) <= 0:
            raise ValueError(f"rates must be positive, not {self.macs_per_s} and {self.bytes_per_s}")

    @property
    def disturbed(self) -> bool:
        """Whether other processes took more than a tenth of its cores."""
        return self.core_share < 0.9


@dataclass(frozen=True, slots=True)
class CallWork:
    """What one call does: its `images`, and the bytes it cannot but move unless they stay in a cache.

    Those are every weight once and, for each image, what `Cost.least_moved` counts, in the type the cell computes in.
    None: the artifact was made by a version that did not count them.
    """

    images: int
    least_bytes: int | None


@dataclass(frozen=True, slots=True)
class EnergyWindow:
    """What one device took, by the counter `source`: `joules` in `seconds` of calls, and before that while idle."""

    device: Literal["cpu", "gpu", "board"]
    source: str
    joules: float
    seconds: float
    idle_joules: float
    idle_s: float

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.idle_s <= 0:
            raise ValueError(f"energy takes time, not {self.seconds} and {self.idle_s} s")


@dataclass(frozen=True, slots=True)
class Energy:
    """A pass of its own in which `images` went through; no window where no counter can be read, and `note` says why."""

    windows: tuple[EnergyWindow, ...]
    images: int
    note: str = ""


@dataclass(frozen=True, slots=True)
class DeviceTimes:
    """Calls on a GPU with their transfers, in a pass of its own after the rounds, in seconds and in order.

    `end_to_end_s` is from page-locked memory of the host and back to it, by the host's clock; `enqueue_s` is how long,
    in it, the launch took to return. The GPU tells the others: `host_to_device_s` of the images, `compute_s`, and
    `device_to_host_s` of the logits. So many as `queue_depth` were in flight at a time. `clock` says what told them.
    No times where the pass failed, and `note` says why.
    """

    enqueue_s: tuple[float, ...]
    host_to_device_s: tuple[float, ...]
    compute_s: tuple[float, ...]
    device_to_host_s: tuple[float, ...]
    end_to_end_s: tuple[float, ...]
    queue_depth: int
    clock: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything measured on one cell; all of it belongs to one artifact.

    Cells with the same `comparison` were measured in the same interleaved rounds: only between those is a ratio of
    times paired round by round. `open_s` is loading the artifact, and compiling it where the runtime does that for a
    batch; `first_s` is the first launch. Both come before any warm-up. `turns` tell what the machine did beside each
    round, in the order of the blocks; empty where nobody looked. `calibration` is of the processor, and None for a cell
    that another device computed or where it failed. `settings` are what the runtime really used, `confinement` what
    held the worker to its device. With `reopened` every round had a process of its own, which opened the artifact;
    otherwise one lived through all of them. `device_times` are of a GPU whose runtime tells them, and None otherwise.
    """

    comparison: str
    artifact: ArtifactFacts
    samples: Samples
    throughput: Throughput
    memory: HostMemory
    cost: Cost
    open_s: float
    first_s: float
    parity: Parity | None
    accuracy: Accuracy | None
    turns: tuple[Turn, ...] = ()
    work: CallWork | None = None
    calibration: Calibration | None = None
    energy: Energy | None = None
    settings: RuntimeSettings | None = None
    confinement: Confinement | None = None
    reopened: bool = False
    device_times: DeviceTimes | None = None


@dataclass(frozen=True, slots=True)
class Training:
    """What the fine-tuning of a run took: `seconds` for its `epochs`, and those of attention transfer before them.

    `images_per_s` is the rate of the last epoch, `top1` that of the best one on the held-out images, and the peaks are
    those of the process, None where they were not available. `cpu_joules` and `gpu_joules` are what the machines took
    in the `epochs`; None where no counter told, and `energy_note` says why.
    """

    epochs: int
    seconds: float
    images_per_s: float
    top1: float
    host_peak_bytes: int | None
    device_peak_bytes: int | None
    cpu_joules: float | None = None
    gpu_joules: float | None = None
    energy_note: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one cell: measured (`ok`), or the reason why not.

    `evidence` is present for `ok` and `unstable`, and for `fallback` where that was allowed; `reason` is present for
    everything but `ok`, and `stage` for everything without evidence. `notes` are
    remarks a reader of the row needs (weights that fell back to random, accuracy from a part of the images).
    `run` is the name of the run folder, `data` the data set, `finished` the time in ISO 8601, UTC. `training` is None
    for a run without an epoch, and where it was not written.
    """

    cell: Cell
    status: Status
    environment: Environment
    run: str
    data: str
    finished: str
    evidence: Evidence | None = None
    stage: Stage | None = None
    reason: str = ""
    notes: tuple[str, ...] = ()
    schema: str = SCHEMA
    training: Training | None = None
