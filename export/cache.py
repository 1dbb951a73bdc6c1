"""Artifacts beside their run: made once for what they are made of, found again by the same.

Imports no torch, but to make artifacts and what they are held against.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from effvit.environment import engine_gpus, package_version
from effvit.errors import CheckpointError
from effvit.export.base import Artifact, Backend, Logits, Source
from effvit.export.decisions import Truth, check_drop
from effvit.export.pins import Pinned
from effvit.export.quantisation import Quantised
from effvit.export.sidecars import FOLDER, read_sidecar
from effvit.export.verify import check, compare
from effvit.preprocessing import normalise
from effvit.spec import file_name
from effvit.storage import sha256_of, write_atomically

TOOLS = ("effvit", "torch", "timm", "onnx", "onnxscript", "tensorrt")
GRAPH_SUFFIX = ".onnx"
REFERENCE_BATCH = 32


def reference_logits(source: Source, pixels: np.ndarray) -> Logits:
    """Return the fp32 PyTorch logits of uint8 images `(images, height, width, 3)`: what artifacts are held against."""
    import torch

    model = source.model()
    images = normalise(pixels, source.run.record.preprocessing)
    parts = [images[start : start + REFERENCE_BATCH] for start in range(0, len(images), REFERENCE_BATCH)]
    with torch.inference_mode():
        return np.concatenate([model(torch.from_numpy(part)).numpy() for part in parts])


def find(source: Source, backend: Backend, device: str | None = None) -> Artifact | None:
    """Return the artifact made earlier from exactly this, or None.

    Its parity is that of `backend` on this kind of device (None: the first that it computes on), or None where only
    another backend, which shares the file, or this one on another kind of device has verified it.
    """
    own = _sidecar(source, backend, device)
    for file in (own, *sorted(own.parent.glob(f"{_stem(source, backend)}.*.json"))):
        known = read_sidecar(file)
        if known is None:  # damaged: the artifact is made again
            continue
        artifact, path = known.artifact, Path(known.artifact.path)
        if path.is_file() and path.stat().st_size == artifact.size_bytes and sha256_of(path) == artifact.sha256:
            return replace(artifact, parity=artifact.parity if file == own else None)
    return None


def make(source: Source, backend: Backend) -> Artifact:
    """Make the artifact's file, and return the artifact, unverified.

    Raises:
        ExportError: It cannot be made.
        CheckpointError: The run's weights are damaged.
        StorageError: The disk is full, or the folder cannot be written.
    """
    from effvit.cost import cost_of

    started = time.perf_counter()
    path = backend.export(source, _file(source, backend))
    record = source.run.record
    return Artifact(
        format=backend.format,
        path=str(path.resolve()),
        sha256=sha256_of(path),
        size_bytes=path.stat().st_size,
        model=record.spec,
        precision=source.precision,
        height=source.height,
        width=source.width,
        preprocessing=record.preprocessing,
        classes=record.data.classes,
        cost=cost_of(source.model(), record.spec),
        built_with=tuple(
            (tool, version) for tool in (*TOOLS, *backend.tools) if (version := package_version(tool)) is not None
        ),
        build_s=time.perf_counter() - started,
        gpus=engine_gpus() if backend.device_bound else (),
        quantised=_quantised(source, backend, path),
        pinned=Pinned(source.pins) if source.pins else None,
        engine=source.engine if backend.device_bound else None,
        batch=source.batch if backend.fixed_batch else None,
    )


def _quantised(source: Source, backend: Backend, path: Path) -> Quantised | None:
    if not source.precision.quantised:
        return None
    if backend.format == "executorch":
        from effvit.export.program_census import quantised_program

        return quantised_program(path)
    from effvit.export.quantise import quantised_in

    return quantised_in(path.with_suffix(GRAPH_SUFFIX))  # beside an engine lies the graph it was built from


def verify(
    artifact: Artifact,
    source: Source,
    backend: Backend,
    reference: Logits,
    predicted: Logits,
    *,
    device: str | None = None,
    truth: Truth | None = None,
    max_drop: float | None = None,
) -> Artifact:
    """Compare `predicted` with the `reference`, keep the verdict beside the file, and return the verified artifact.

    `predicted` was computed on this kind of device. With `truth`, `max_drop` is how many percentage points of top-1 it
    may lose at most.

    Raises:
        MismatchError: The artifact is not the model it was made from, or loses more; nothing is kept.
        StorageError: The disk is full, or the folder cannot be written.
    """
    parity = compare(reference, predicted, artifact.precision, truth)
    check(parity, reference, artifact)
    if max_drop is not None:
        check_drop(parity, artifact, max_drop)
    verified = replace(artifact, parity=parity)
    keep(verified, source, backend, device)
    return verified


def keep(artifact: Artifact, source: Source, backend: Backend, device: str | None = None) -> None:
    """Write what is known of `artifact`, which `backend` has verified on this kind of device, beside its file.

    Raises:
        StorageError: The disk is full, or the folder cannot be written.
    """
    # Relative to the run, so that a run folder can be moved or copied to another machine.
    relative = Path(artifact.path).relative_to(source.run.folder.resolve())
    write_atomically(_sidecar(source, backend, device), msgspec.json.encode(replace(artifact, path=str(relative))))


def forget(source: Source, backend: Backend) -> None:
    """Forget what `backend` found of the artifact of `source`: it is verified anew when it is next asked for."""
    _sidecar(source, backend).unlink(missing_ok=True)


def discard(source: Source, backend: Backend) -> None:
    """Remove the artifact of `source` that was made for `backend` to try it, and what is known of it."""
    forget(source, backend)
    file = _file(source, backend)
    for path in (file, file.with_suffix(GRAPH_SUFFIX)):
        path.unlink(missing_ok=True)


def _folder(source: Source) -> Path:
    return source.run.folder / FOLDER


def _file(source: Source, backend: Backend) -> Path:
    return _folder(source) / f"{_stem(source, backend)}{backend.suffix}"


def _sidecar(source: Source, backend: Backend, device: str | None = None) -> Path:
    """Return where the verdict of one backend on an artifact lies, beside the artifact."""
    # A backend that computes on both has other kernels on each, and another verdict; of the others there is one.
    where = f"-{device}" if device in backend.devices[1:] else ""
    return _folder(source) / f"{_stem(source, backend)}.{backend.name}{where}.json"


def _stem(source: Source, backend: Backend) -> str:
    """Return the name of an artifact without its suffix: readable, and different for whatever it is made of."""
    spec = source.run.record.spec
    if spec.weights is None:
        raise CheckpointError(f"the run {source.run.name} has no weights yet", "let `effvit finetune` finish an epoch")
    versions = [(tool, package_version(tool)) for tool in TOOLS]
    devices = engine_gpus() if backend.device_bound else ()
    made_of = [spec, source.height, source.width, source.precision, backend.format, versions, devices]
    if backend.device_bound:
        made_of.append(source.engine)
    if backend.fixed_batch:
        made_of.append(source.batch)
    if backend.tools:
        made_of.append([(tool, package_version(tool)) for tool in backend.tools])
    if source.precision.quantised:
        made_of += [source.quantisation, package_version("onnxruntime") or package_version("onnxruntime-gpu")]
    if source.pins:
        made_of.append(source.pins)
    digest = hashlib.sha256(msgspec.json.encode(made_of)).hexdigest()[:10]
    size = str(source.height) if source.height == source.width else f"{source.height}x{source.width}"
    batch = f"-batch{source.batch}" if backend.fixed_batch else ""
    return f"{file_name(spec.attention)}-{size}px{batch}-{source.precision}-{digest}"
