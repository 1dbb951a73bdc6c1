"""Training images from which the ranges of activations are taken."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from effvit.data.base import ImageData
from effvit.errors import LackingError
from effvit.export.base import Images, Source
from effvit.export.quantisation import LEAST_IMAGES
from effvit.images import evaluation_pixels
from effvit.preprocessing import Preprocessing, normalise
from effvit.run import DataRecord, Run
from effvit.sampling import stratified_subset

# Every activation of a batch is in memory at once, and at 512 px an image has some hundred megabytes of them.
BATCH = 2


def calibration_pixels(source: Source) -> npt.NDArray[np.uint8]:
    """Return training images of the run as its model is evaluated on them, `(images, height, width, 3)`.

    Raises:
        LackingError: There are too few.
        DataError: The images are gone, damaged, or not the same any more.
    """
    asked, record = source.quantisation, source.run.record
    train = _images(_Trained(record.data, source.run)).train
    if len(train) < LEAST_IMAGES:
        raise LackingError(
            f"{source.precision} needs {LEAST_IMAGES} training images to take ranges from, and {record.data.name} has "
            f"{len(train)}",
            "fine-tune on more images, or choose --precision fp32",
        )
    some = stratified_subset(train, min(asked.images, len(train)), asked.seed)
    return evaluation_pixels(some, record.preprocessing, source.height, source.width)


class CalibrationReader:
    """Hands images to ONNX Runtime's calibrators, a batch at a time, normalised when it is its turn."""

    def __init__(self, pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing, name: str) -> None:
        """Read `pixels` for the graph's input called `name`."""
        self._pixels, self._preprocessing, self._name = pixels, preprocessing, name
        self._starts = iter(range(0, len(pixels), BATCH))

    def __len__(self) -> int:
        """Batches there are."""
        return len(range(0, len(self._pixels), BATCH))

    def set_range(self, start_index: int, end_index: int) -> None:
        """Go on with the batches from `start_index` up to, and without, `end_index`."""
        self._starts = iter(range(start_index * BATCH, end_index * BATCH, BATCH))

    def get_next(self) -> dict[str, Images] | None:
        start = next(self._starts, None)
        if start is None:
            return None
        return {self._name: normalise(self._pixels[start : start + BATCH], self._preprocessing)}


@dataclass(frozen=True, slots=True)
class _Trained:
    """A run, equal to every other run on the same images."""

    data: DataRecord
    run: Run = field(compare=False)


# Loading decodes every image of a folder once, and a sweep makes many artifacts of the same data.
@lru_cache(maxsize=1)
def _images(trained: _Trained) -> ImageData:
    return trained.run.data()
