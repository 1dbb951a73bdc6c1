"""Images as training batches and as arrays for evaluation."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from effvit.data.base import Sample
from effvit.decoding import decode, fits, in_threads, is_decoded
from effvit.errors import DataError, UnsupportedError, first_line
from effvit.interruption import leave_to_parent
from effvit.preprocessing import Preprocessing, evaluation_transform
from effvit.progress import Progress, silent
from effvit.randomness import derived_seed, drawn_from
from effvit.team import ALONE, Place

CACHE_LIMIT_BYTES = 512 * 2**20
"""Decoded images of a part are kept in memory up to this size: some 2,300 photographs of 300 x 250 px."""

Item = tuple[Tensor, int]
Batch = tuple[Tensor, Tensor]


class ImageDataset(Dataset[Item]):
    """Transformed images with their labels.

    If all images together take at most `cache_bytes` in memory, they are decoded once, here, before workers start:
    forked workers share them. What is decoded already is not kept a second time.

    Raises:
        DataError: A file that is missing or damaged, when it is read.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        transform: Callable[[Image.Image], Tensor],
        *,
        cache_bytes: int = CACHE_LIMIT_BYTES,
        progress: Progress = silent,
    ) -> None:
        self.samples = samples
        self.transform = transform
        self.cached: list[Image.Image] | None = None
        if not all(is_decoded(sample.source) for sample in samples) and fits(
            (sample.source for sample in samples), cache_bytes
        ):
            self.cached = list(in_threads(_decoded, samples, progress))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Item:
        sample = self.samples[index]
        image = decode(sample.source) if self.cached is None else self.cached[index]
        return self.transform(image), sample.label


class ImageLoader:
    """Shuffled batches `(images, labels)`, `(batch, 3, height, width)` and `(batch,)`, epoch by epoch.

    A last incomplete batch is left out if `drop_last`. Which images are in a batch, and how they are augmented, follows
    from `seed`, the epoch and the batch's number: not from the workers, nor from batches before it. Of the processes of
    a team each gets its own part of the same images as one process with so much larger a batch; an incomplete batch is
    then left out anyway.

    Raises:
        DataError: While iterating: a file vanished or became unreadable, and the message names it.
        UnsupportedError: While iterating: a worker died, for want of memory, say.
    """

    def __init__(
        self,
        dataset: ImageDataset,
        *,
        batch: int,
        workers: int,
        seed: int,
        drop_last: bool = False,
        pin_memory: bool = False,
        place: Place = ALONE,
    ) -> None:
        self.draws = _Draws(len(dataset), batch, seed, drop_last or place.size > 1, place)
        self.loader: DataLoader[Batch | DataError] = DataLoader(
            _Batches(dataset),
            batch_size=None,  # what the sampler draws is a batch already
            sampler=self.draws,
            num_workers=workers,
            pin_memory=pin_memory,
            # Its own draws, which nothing depends on, must not move the generator that everything draws from.
            generator=torch.Generator(),
            worker_init_fn=_start_worker,
            persistent_workers=workers > 0,
        )

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self.draws)

    def epoch(self, index: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of epoch `index`, from number `first` on; both count from 0."""
        self.draws.epoch, self.draws.first = index, first
        for batch in self._made():
            if isinstance(batch, DataError):
                raise batch
            images, labels = batch
            yield images, labels

    def _made(self) -> Iterator[Batch | DataError]:
        with _deaths_noticed_later():
            batches = iter(self.loader)
        try:
            yield from batches
        # It may die in the middle of handing a batch over, too: then a socket breaks before anyone misses it.
        except (RuntimeError, ConnectionError, EOFError, FileNotFoundError) as error:
            broken = self.loader.num_workers > 0 and not isinstance(error, RuntimeError)
            if not broken and not str(error).startswith("DataLoader worker"):
                raise
            raise UnsupportedError(
                f"a process that loads images died: {first_line(error)}", "use fewer --workers, or 0"
            ) from error


@contextmanager
def _deaths_noticed_later() -> Iterator[None]:
    """Have the death of a worker noticed where its batch is missed.

    A DataLoader handles SIGCHLD, and raises its error from whatever the process does just then: writing a file, say.
    """
    before = signal.getsignal(signal.SIGCHLD)
    yield
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)


def evaluation_pixels(
    samples: Sequence[Sample], preprocessing: Preprocessing, height: int, width: int, progress: Progress = silent
) -> npt.NDArray[np.uint8]:
    """Return the images as a model is evaluated on them, before normalisation: `(images, height, width, 3)`.

    Raises:
        DataError: A file that is missing or damaged; the message names it.
    """
    transform = evaluation_transform(preprocessing, height, width)
    pixels = np.empty((len(samples), height, width, 3), dtype=np.uint8)
    arrays = in_threads(lambda sample: transform(_decoded(sample)), samples, progress)
    for index, array in enumerate(arrays):
        pixels[index] = array
    return pixels


class EvaluationBatches:
    """Batches `(evaluation_pixels, labels)` of `batch` images, the last one smaller; each iteration yields them all.

    If all pixels together take at most `cache_bytes`, the first iteration keeps them for the later ones. The processes
    of a team deal the batches out, so that each image is in one of them, and with the same others as in one process.

    Raises:
        DataError: While iterating: a file is missing or damaged; the message names it.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        preprocessing: Preprocessing,
        height: int,
        width: int,
        *,
        batch: int,
        cache_bytes: int = CACHE_LIMIT_BYTES,
        place: Place = ALONE,
    ) -> None:
        starts = range(0, len(samples), batch)[place.rank :: place.size]
        self.parts = [samples[start : start + batch] for start in starts]
        self.preprocessing, self.size = preprocessing, (height, width)
        self.keeps = sum(map(len, self.parts)) * height * width * 3 <= cache_bytes
        self.kept: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]] = []

    def __iter__(self) -> Iterator[tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
        yield from self.kept
        for part in self.parts[len(self.kept) :]:
            pixels = evaluation_pixels(part, self.preprocessing, *self.size)
            if self.keeps:
                self.kept.append((pixels, labels_of(part)))
            yield pixels, labels_of(part)


def labels_of(samples: Sequence[Sample]) -> npt.NDArray[np.int64]:
    """Return the labels as an array, `(images,)`."""
    return np.array([sample.label for sample in samples], dtype=np.int64)


@dataclass(frozen=True, slots=True)
class _Draw:
    """The images of one batch, and the seed of their augmentation."""

    indices: Sequence[int]
    seed: int


class _Draws(Sampler[_Draw]):
    """The batches of `epoch` from `first` on."""

    def __init__(self, images: int, batch: int, seed: int, drop_last: bool, place: Place) -> None:
        self.images, self.batch, self.seed, self.place = images, batch, seed, place
        whole = batch * place.size
        self.batches = images // whole if drop_last else -(-images // whole)
        self.epoch = self.first = 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[_Draw]:
        return self._drawn(self.epoch, self.first)

    def _drawn(self, epoch: int, first: int) -> Iterator[_Draw]:
        shuffling = torch.Generator().manual_seed(derived_seed(self.seed, epoch))
        order = torch.randperm(self.images, generator=shuffling).tolist()
        for number in range(first, self.batches):
            start = (number * self.place.size + self.place.rank) * self.batch
            chosen = order[start : start + self.batch]
            yield _Draw(chosen, derived_seed(self.seed, epoch, number, rank=self.place.rank))


class _Batches(Dataset[Batch | DataError]):
    """Makes batches of what was drawn, and hands a DataError over in place of one.

    A DataLoader replaces the message of an error raised in a worker by the worker's traceback, and drops the hint.
    """

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, draw: _Draw) -> Batch | DataError:
        with drawn_from(draw.seed):
            try:
                images, labels = default_collate([self.dataset[index] for index in draw.indices])
            except DataError as error:
                return error
        return images, labels


def _start_worker(number: int) -> None:
    leave_to_parent()


def _decoded(sample: Sample) -> Image.Image:
    return decode(sample.source)
