"""Artifacts for a sweep: made once for all batches that they take, verified by the first worker that has them open."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from effvit.errors import BackendUnavailableError, ExportError, UnsupportedError
from effvit.export.base import Artifact, Logits
from effvit.export.cache import find, make, reference_logits, verify
from effvit.export.engine_options import EngineOptions
from effvit.profiling.isolate import IsolatedWorker
from effvit.profiling.pixels import Pixels, PixelStore
from effvit.profiling.plan import Effort, Group
from effvit.profiling.records import Stage, Status
from effvit.run import Run
from effvit.spec import Precision


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a cell has no measurement."""

    status: Status
    stage: Stage
    reason: str


class Preparation:
    """Makes and verifies the artifacts of one sweep; `stage` is told what takes a while."""

    def __init__(self, effort: Effort, pixels: PixelStore, stage: Callable[[str], None]) -> None:
        self._effort, self._pixels, self._stage = effort, pixels, stage
        self._artifacts: dict[tuple[str, str, str, Precision, int, int, EngineOptions, int], Artifact | Refusal] = {}
        self._references: dict[tuple[str, int, int], Logits] = {}

    def artifact(self, group: Group, run: Run) -> Artifact | Refusal:
        """Return the artifact of `run` for `group`, perhaps not verified yet; or why there is none.

        Raises:
            CheckpointError: The run's weights are damaged.
            StorageError: The disk is full.
        """
        key = _key(group, run)
        if key not in self._artifacts:
            self._artifacts[key] = self._made(group, run)
        return self._artifacts[key]

    def verified(self, group: Group, run: Run, artifact: Artifact, worker: IsolatedWorker) -> Artifact:
        """Return the artifact with its parity, measured through `worker`, which has it open, unless it was before.

        Raises:
            MismatchError: It is not the model it was made from.
            CellFailure: The worker failed.
            DataError: The images are gone, or not the same any more.
        """
        if artifact.parity is not None:
            return artifact
        workload = group.workload
        self._stage(f"verifying {run.record.spec.attention}, {group}")
        some = self._pixels.get(run, workload.height, workload.width, self._effort.verify_images)
        out = some.path.with_suffix(".logits.npy")
        worker.predict(some.path, out, group.evaluation_batch)
        verified = self._judged(group, run, artifact, some, np.load(out))
        self._artifacts[_key(group, run)] = verified
        return verified

    def _judged(self, group: Group, run: Run, artifact: Artifact, pixels: Pixels, logits: Logits) -> Artifact:
        """Hold what the artifact computed of `pixels` against what PyTorch does, and return it with its parity.

        Raises:
            MismatchError: It is not the model it was made from.
        """
        source = group.source(run)
        place = (str(run.folder), source.height, source.width)
        if place not in self._references:  # those of every runtime and type
            self._references[place] = reference_logits(source, np.load(pixels.path))
        reference, kind = self._references[place], group.device.kind
        return verify(artifact, source, group.backend, reference, logits, device=kind, truth=pixels.truth)

    def _made(self, group: Group, run: Run) -> Artifact | Refusal:
        source = group.source(run)
        try:
            group.backend.require(group.precision)
            group.backend.require_device(group.device.kind)
            known = find(source, group.backend, group.device.kind)
            if known is None:
                self._stage(f"exporting {run.record.spec.attention}, {group}")
                known = make(source, group.backend)
            return known
        except UnsupportedError as error:
            return Refusal("unsupported", "export", error.message)
        except BackendUnavailableError as error:  # the backend was asked for before; this is what makes its artifacts
            return Refusal("skipped", "export", error.message)
        except ExportError as error:
            return Refusal("build_failed", "export", error.message)


def _key(group: Group, run: Run) -> tuple[str, str, str, Precision, int, int, EngineOptions, int]:
    backend, device, source = group.backend.name, group.device.kind, group.source(run)
    size = source.height, source.width
    return str(run.folder), backend, device, group.precision, *size, source.engine, source.batch
