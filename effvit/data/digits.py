"""scikit-learn's handwritten digits: real images that need no download."""

from __future__ import annotations

import numpy as np

from effvit.data.base import SPLIT_SEED, VAL_SHARE, DataDefaults, DataSource, ImageData, Sample, fingerprint
from effvit.progress import Progress
from effvit.sampling import stratified_split

MAX_LEVEL = 16

# A mirrored digit is another sign, and a small crop of one is none.
DEFAULTS = DataDefaults(
    model="test_vit",
    resolution=64,
    epochs=25,
    batch=32,
    scratch_learning_rate=2e-3,
    crop_scale=(0.9, 1.0),
    horizontal_flip=0.0,
    study_resolutions=(64, 128, 256),
)


def load(name: str, *, skip_corrupt: bool, progress: Progress) -> ImageData:
    """Return the 1,797 digits as 8 x 8 px images in memory; nothing to skip, nothing to wait for."""
    del skip_corrupt, progress
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / MAX_LEVEL)).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=3)  # (1797, 8, 8, 3)
    labels: list[int] = digits.target.tolist()
    train, val = stratified_split(labels, VAL_SHARE, SPLIT_SEED)
    return ImageData(
        name=name,
        classes=tuple(str(digit) for digit in digits.target_names),
        train=tuple(Sample(rgb[index], labels[index]) for index in train),
        val=tuple(Sample(rgb[index], labels[index]) for index in val),
        fingerprint=fingerprint(
            train=((str(index), rgb[index].nbytes, labels[index]) for index in train),
            val=((str(index), rgb[index].nbytes, labels[index]) for index in val),
        ),
        hints=DEFAULTS,
    )


SOURCE = DataSource(
    name="digits",
    summary="1,797 handwritten digits of 8 x 8 px, comes with scikit-learn; for trying things out",
    load=load,
)
