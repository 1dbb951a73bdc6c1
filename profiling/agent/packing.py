"""Kits are packed where PyTorch is: artifacts are made, images prepared, and PyTorch's logits of them computed."""

from __future__ import annotations

import hashlib
import io
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from effvit.errors import ExportError, LackingError, MismatchError, UnsupportedError, UsageError
from effvit.export.base import Artifact, Source, pick_backend
from effvit.export.build import verified_artifact
from effvit.export.cache import find, make, reference_logits
from effvit.profiling.agent.archive import code_digest
from effvit.profiling.agent.kit import BLOBS, KIT, Kit, KitArtifact, KitImages, KitRun, encode
from effvit.profiling.pixels import Pixels, PixelStore
from effvit.profiling.plan import Effort, Group, Plan
from effvit.profiling.preparation import Refusal
from effvit.run import Run
from effvit.spec import Precision, check_resolution
from effvit.storage import make_folder, making_folder, replacing, sha256_of, write_atomically

# Those whose artifacts are files that need no PyTorch to be run.
BACKENDS = ("ort-cpu", "openvino")


@dataclass(frozen=True, slots=True)
class Packing:
    """What packing needs: the cells, how long to measure, the images; `stage` is told what takes a while."""

    plan: Plan
    effort: Effort
    pixels: PixelStore
    stage: Callable[[str], None]


def write_kit(packing: Packing, out: Path) -> Kit:
    """Write the kit of a plan to the new folder `out`, and return it.

    Raises:
        UnsupportedError: A backend that only runs where PyTorch is, or another device than a CPU.
        UsageError: Cells that cannot be.
        EffvitError: Whatever making artifacts and reading images raises.
    """
    with making_folder(out) as folder:
        kit = pack(packing, make_folder(folder / BLOBS))
        (folder / KIT).write_bytes(encode(kit))
    return kit


def pack(packing: Packing, blobs: Path) -> Kit:
    """Put the files of a kit for an agent that are not there yet into `blobs`, and return the kit.

    Raises:
        As `write_kit`.
    """
    _check(packing.plan)
    return collect(packing, blobs)


def collect(packing: Packing, blobs: Path) -> Kit:
    """Put the files of any kit that are not there yet into `blobs`, and return the kit.

    Raises:
        UsageError: Two runs have one name, by which a kit tells them apart.
        EffvitError: Whatever making artifacts and reading images raises.
    """
    plan, effort = packing.plan, packing.effort
    names = [run.name for run in plan.runs]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"two runs are called {name}", "rename the folder of one of them")
    images = [
        _packed_images(packing, run, height, width, blobs) for run in plan.runs for height, width in plan.resolutions
    ]
    return Kit(
        code=code_digest(),
        runs=tuple(KitRun(run.name, run.record) for run in plan.runs),
        resolutions=plan.resolutions,
        batches=plan.batches,
        precisions=plan.precisions,
        backends=plan.backends,
        devices=plan.devices,
        effort=effort,
        artifacts=tuple(_packed_artifacts(packing, blobs)),
        images=tuple(one for several in images for one in several),
    )


def check_backends(names: Sequence[str]) -> None:
    """Check that agents measure with these backends, and that this machine makes their artifacts.

    Raises:
        UnsupportedError: A backend that only runs where PyTorch is.
        UnknownNameError, BackendUnavailableError: There is none, or not on this machine.
    """
    for name in names:
        if name not in BACKENDS:
            raise UnsupportedError(
                f"{name} needs PyTorch or a GPU, and is not measured by an agent",
                f"choose --backend {' or '.join(BACKENDS)}",
            )
        pick_backend(name).require()


def _check(plan: Plan) -> None:
    check_backends(plan.backends)
    for device in plan.devices:
        if device.kind != "cpu":
            raise UnsupportedError(f"an agent measures on cpu, not on {device}", "choose cpu or a part of it")
    for run in plan.runs:
        for resolution in plan.resolutions:
            check_resolution(run.record.spec.backbone, resolution, run.record.spec.patch or 1)


def _packed_artifacts(packing: Packing, blobs: Path) -> list[KitArtifact]:
    plan = packing.plan
    found: dict[tuple[str, str, Precision, int, int], KitArtifact] = {}
    for group in plan.groups():
        if group.device.kind not in group.backend.devices:
            continue  # which the machine that measures says of the cell, and not of the artifact
        for run in plan.runs:
            work = group.workload
            key = (run.name, group.backend.name, group.precision, work.height, work.width)
            if key not in found:
                packing.stage(f"making the artifact of {run.name} for {group}")
                artifact = _verified(packing, group, run)
                if isinstance(artifact, Refusal):
                    found[key] = KitArtifact(*key, blob=None, artifact=None, refusal=artifact)
                    continue
                path = Path(artifact.path)
                # What was verified here says nothing about another machine's runtime.
                portable = replace(artifact, path=path.name, parity=None)
                found[key] = KitArtifact(*key, blob=_kept(blobs, path, path.suffix), artifact=portable)
    return list(found.values())


def _verified(packing: Packing, group: Group, run: Run) -> Artifact | Refusal:
    """Return the artifact, verified by the runtime of this machine, too: what is wrong with it is not copied first.

    One for a GPU is verified by the machine that measures it alone.
    """
    source, effort = group.source(run), packing.effort
    try:
        group.backend.require_precision(group.precision)
        if not group.on_processor:
            return find(source, group.backend, group.device.kind) or make(source, group.backend)
        group.backend.require()
        images = packing.pixels.get(run, source.height, source.width, effort.verify_images)
        return verified_artifact(source, group.backend, images.path, effort.threads, images.truth)
    except (UnsupportedError, LackingError) as error:
        return Refusal("unsupported", "export", error.message)
    except ExportError as error:
        return Refusal("build_failed", "export", error.message)
    except MismatchError as error:
        return Refusal("failed", "verify", error.message)


def _packed_images(packing: Packing, run: Run, height: int, width: int, blobs: Path) -> list[KitImages]:
    effort = packing.effort
    packing.stage(f"packing images of {run.name} at {height} x {width} px")
    verifying = packing.pixels.get(run, height, width, effort.verify_images)
    # The reference does not depend on the type that an artifact computes in.
    source = Source(run, height, width, packing.plan.precisions[0])
    stream = io.BytesIO()
    np.save(stream, reference_logits(source, np.load(verifying.path)))
    reference = f"{hashlib.sha256(stream.getvalue()).hexdigest()}.npy"
    write_atomically(blobs / reference, stream.getvalue())
    kept = _images(run, height, width, effort.verify_images, verifying, blobs, reference)
    if effort.eval_images == effort.verify_images:
        return [kept]
    evaluating = packing.pixels.get(run, height, width, effort.eval_images)
    return [kept, _images(run, height, width, effort.eval_images, evaluating, blobs, None)]


def _images(
    run: Run, height: int, width: int, at_most: int, pixels: Pixels, blobs: Path, reference: str | None
) -> KitImages:
    blob = _kept(blobs, pixels.path, ".npy")
    return KitImages(
        run.name, height, width, at_most, blob, pixels.labels, pixels.of_images, pixels.names, pixels.key, reference
    )


def _kept(blobs: Path, path: Path, suffix: str) -> str:
    """Copy a file into `blobs`, unless its content is there already, and return its name there."""
    name = f"{sha256_of(path)}{suffix}"
    if not (blobs / name).exists():
        with replacing(blobs / name) as partial:
            shutil.copyfile(path, partial)
    return name
