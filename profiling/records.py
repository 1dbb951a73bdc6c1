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
from effvit.export.settings import RuntimeSettings
from effvit.profiling.confinement import Confinement
from effvit.profiling.devices import CPU, Device
from effvit.spec import Cost, ModelSpec, Precision, Workload

SCHEMA = "effvit.result/2"

Status = Literal["ok", "oom", "timeout", "build_failed", "unsupported", "fallback", "unstable", "skipped", "failed"]
FAILURES: tuple[Status, ...] = ("failed", "oom", "timeout", "build_failed")
Stage = Literal["export", "verify", "open", "measure", "accuracy"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One question to a device: this model, through this backend, in this precision, under this workload."""

    model: ModelSpec
    backend: str
    precision: Precision
    workload: Workload
    device: Device = CPU

    @property
    def key(self) -> str:
        """The cell's identity in a result file, 16 hexadecimal digits."""
        text = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Samples:
    """Raw times of single launches in order, with the interleaved round each belongs to.

    `seconds[i]` was measured in round `rounds[i]`; rounds count from 0. `warmup` launches were made before and not
    timed. `stopped` says which rule ended the measurement.
    """

    seconds: tuple[float, ...]
    rounds: tuple[int, ...]
    warmup: int
    clock: str
    stopped: str


@dataclass(frozen=True, slots=True)
class Throughput:
    """Back-to-back launches with one wait at their end: (images, seconds) for each round."""

    blocks: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class HostMemory:
    """Resident memory of the worker process, in bytes, read from `source`.

    `before_bytes` was read when the runtime had been imported and nothing opened, `peak_bytes` after the first
    launches. None: the reading is not available here, and `note` says why.
    """

    before_bytes: int | None
    peak_bytes: int | None
    source: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class ArtifactFacts:
    """The file that was measured."""

    path: str
    sha256: str
    size_bytes: int
    build_s: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything measured on one cell; all of it belongs to one artifact.

    Cells with the same `comparison` were measured in the same interleaved rounds: only between those is a ratio of
    times paired round by round. `open_s` is loading the artifact, and compiling it where the runtime does that for a
    batch; `first_s` is the first launch. Both come before any warm-up. `settings` are what the runtime really used,
    `confinement` what held the worker to its device.
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
    settings: RuntimeSettings | None = None
    confinement: Confinement | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one cell: measured (`ok`), or the reason why not.

    `evidence` is present for `ok` and `unstable`, and for `fallback` where that was allowed; `reason` is present for
    everything but `ok`, and `stage` for everything without evidence. `notes` are
    remarks a reader of the row needs (weights that fell back to random, accuracy from a part of the images).
    `run` is the name of the run folder, `data` the data set, `finished` the time in ISO 8601, UTC.
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
