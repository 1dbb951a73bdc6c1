"""Held-out images, preprocessed once for each resolution and shared with measuring workers as files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from effvit.cached import Where
from effvit.data.base import ImageData, Sample
from effvit.export.decisions import Truth
from effvit.preprocessing import Preprocessing
from effvit.profiling.scratch import ScratchFolder
from effvit.progress import Progress, silent
from effvit.run import Run
from effvit.sampling import stratified_subset
from effvit.storage import storage_errors

if TYPE_CHECKING:
    from typing import Self


@dataclass(frozen=True, slots=True)
class Pixels:
    """uint8 images `(images, height, width, 3)` in the file `path`, their labels, and how many there are in all.

    `names` are the images' files; where they have none, their positions in the held-out part. `key` is equal where the
    images and their order are, wherever they lie and whatever their size in px.
    """

    path: Path
    labels: list[int]
    of_images: int
    names: tuple[str, ...]
    key: str

    @property
    def truth(self) -> Truth:
        """What the images really show."""
        return Truth(tuple(self.labels), self.names)


class PixelStore:
    """Keeps pixels in a temporary folder, and removes what killed sweeps left; use it in a `with` block.

    Every subset is drawn over the classes evenly and by a fixed seed, so that all variants see the same images. With
    the `cache` "ram" images are decoded once for all sizes; with "disk" pixels stay for later stores.
    """

    def __init__(self, progress: Progress = silent, cache: Where | None = None) -> None:
        self._folder = ScratchFolder()
        self._progress, self._cache = progress, cache
        self._data: dict[tuple[str, str], ImageData] = {}  # name and fingerprint
        self._decoded: dict[tuple[str, str], dict[int, Sample]] = {}  # of these, by position
        self._pixels: dict[tuple[str, Preprocessing, int, int, int], Pixels] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.remove()

    def data_of(self, run: Run) -> ImageData:
        """Return the images a run was trained on.

        Raises:
            DataError: They are gone, or not the same any more.
        """
        key = (run.record.data.name, run.record.data.fingerprint)
        if key not in self._data:
            self._data[key] = run.data()
        return self._data[key]

    def get(self, run: Run, height: int, width: int, at_most: int) -> Pixels:
        """Return up to `at_most` held-out images of the run's data (0: all) at `height` x `width` px.

        Raises:
            DataError: The images are gone, damaged, or not the same any more.
            StorageError: The temporary folder, or the disk of the cache, is full.
            UsageError: Decoded images do not fit into memory.
        """
        record = run.record
        key = (record.data.name, record.preprocessing, height, width, at_most)
        if key not in self._pixels:
            val = self.data_of(run).val
            some = stratified_subset(val, at_most, seed=0) if 0 < at_most < len(val) else val
            position = {id(sample): index for index, sample in enumerate(val)}
            positions = [position[id(sample)] for sample in some]
            path = self._file(run, positions, height, width)
            names = tuple(
                f"image {index}" if isinstance(sample.source, np.ndarray) else str(sample.source)
                for index, sample in zip(positions, some, strict=True)
            )
            identity = hashlib.sha256(f"{record.data.fingerprint} {positions}".encode()).hexdigest()[:16]
            self._pixels[key] = Pixels(path, [sample.label for sample in some], len(val), names, identity)
        return self._pixels[key]

    def _file(self, run: Run, positions: list[int], height: int, width: int) -> Path:
        """Return a file with the held-out images at these positions."""
        preprocessing = run.record.preprocessing
        some = self._held_out(run, positions)
        if self._cache == "disk":
            from effvit.prepared import on_disk  # and with it Pillow, as below

            return on_disk(some, preprocessing, height, width, self._progress)
        from effvit.images import evaluation_pixels  # and with it torch, which reading stored pixels does not need

        path = self._folder.path / f"{len(self._pixels)}.npy"
        pixels = evaluation_pixels(some, preprocessing, height, width, self._progress)
        with storage_errors(path):
            np.save(path, pixels)
        return path

    def _held_out(self, run: Run, positions: list[int]) -> list[Sample]:
        val = self.data_of(run).val
        if self._cache != "ram":
            return [val[index] for index in positions]
        from effvit.prepared import in_memory  # and with it Pillow, which images in files do not need

        decoded = self._decoded.setdefault((run.record.data.name, run.record.data.fingerprint), {})
        missing = [index for index in positions if index not in decoded]
        decoded.update(zip(missing, in_memory([val[index] for index in missing], self._progress), strict=True))
        return [decoded[index] for index in positions]
