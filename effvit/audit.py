"""What is in a data set, and what is wrong with it: damaged files, odd kinds, images that come twice."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from effvit.data.base import HELD_OUT, Found, FoundImage, Part, readable_parts, split_parts
from effvit.decoding import Encoding, decode, encoding_of, in_threads, why_unusable
from effvit.errors import DataError
from effvit.likeness import Hash, near_pairs, perceptual_hash
from effvit.progress import Progress

NEAR_BITS = 10
"""Bits of 256 in which the hashes of two images may differ that are taken for the same picture.

Of Caltech-101, all pairs up to 16 bits apart are one picture, resized, compressed or coloured anew; from 18 bits on
there are pairs of two objects of one kind before the same white.
"""


@dataclass(frozen=True, slots=True)
class Count:
    """How many images are of one kind."""

    kind: str
    images: int


@dataclass(frozen=True, slots=True)
class ClassCount:
    """How many readable images of a class there are to train on, and how many held out."""

    name: str
    train: int
    val: int


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An image that cannot be decoded."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class Misnamed:
    """A file whose name says another format than its contents."""

    name: str
    format: str


@dataclass(frozen=True, slots=True)
class Extent:
    """The smallest, the middle and the largest of some sizes, in px."""

    least: int
    median: float
    most: int


@dataclass(frozen=True, slots=True)
class Repeat:
    """An image that shows what another one does.

    `bits` of 256 of their perceptual hashes differ; `exact` is whether every pixel is equal. Of an image that is held
    out, `of` is one to train on if there is such a one.
    """

    image: str
    part: str
    label: str
    of: str
    of_part: str
    of_label: str
    bits: int
    exact: bool

    @property
    def leaks(self) -> bool:
        """Whether one of them is to train on and the other held out."""
        return self.part != self.of_part


@dataclass(frozen=True, slots=True)
class Audit:
    """What is in a data set; sizes and repeats are of the images that can be read.

    `problem` is why it cannot be split, None if it can. `others` are files among the images that are none.
    """

    name: str
    images: int
    size_bytes: int
    classes: tuple[ClassCount, ...]
    unreadable: tuple[Unreadable, ...]
    others: tuple[str, ...]
    misnamed: tuple[Misnamed, ...]
    formats: tuple[Count, ...]
    modes: tuple[Count, ...]
    turned: int
    animated: int
    width: Extent | None
    height: Extent | None
    repeats: tuple[Repeat, ...]
    problem: str | None

    @property
    def leaks(self) -> tuple[Repeat, ...]:
        """The images held out that show what one to train on does."""
        return tuple(repeat for repeat in self.repeats if repeat.leaks)

    @property
    def imbalance(self) -> float | None:
        """How many times as many images the largest class has to train on as the smallest; None without any."""
        counts = [count.train for count in self.classes]
        return max(counts) / min(counts) if min(counts) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Look:
    """One image, decoded once: `digest` is of its pixels, `likeness` its perceptual hash."""

    image: FoundImage
    encoding: Encoding
    digest: bytes
    likeness: Hash


def audit(found: Found, progress: Progress, *, near_bits: int = NEAR_BITS) -> Audit:
    """Decode every image of a data set and return what is in it; what is not split is split as for training.

    `near_bits` is in how many bits of 256 the perceptual hashes of images that are the same picture may differ.
    """
    images = [image for part in found.parts for image in part.images]
    looks: dict[FoundImage, _Look] = {}
    unreadable = []
    for image, seen in zip(images, in_threads(_look, images, progress), strict=True):
        if isinstance(seen, _Look):
            looks[image] = seen
        else:
            unreadable.append(seen)
    train, val, problem = _split(found, {image for image in images if image not in looks})
    encodings = [look.encoding for look in looks.values()]
    ordered = [(part, looks[image]) for part in (train, val) for image in part.images]
    return Audit(
        name=found.name,
        images=len(images),
        size_bytes=sum(image.size_bytes for image in images),
        classes=_class_counts(found, train, val),
        unreadable=tuple(unreadable),
        others=found.others,
        misnamed=tuple(_misnamed(looks.values())),
        formats=_counts([encoding.format for encoding in encodings]),
        modes=_counts([encoding.mode for encoding in encodings]),
        turned=sum(encoding.turned for encoding in encodings),
        animated=sum(encoding.animated for encoding in encodings),
        width=_extent([encoding.width for encoding in encodings]),
        height=_extent([encoding.height for encoding in encodings]),
        repeats=tuple(_repeats(found, ordered, near_bits)),
        problem=problem,
    )


def _look(image: FoundImage) -> _Look | Unreadable:
    try:
        encoding, decoded = encoding_of(image.source), decode(image.source)
    except DataError:
        return Unreadable(image.name, why_unusable(image.source) or "it could be read only the second time")
    digest = hashlib.sha256(f"{decoded.width} x {decoded.height}".encode() + decoded.tobytes()).digest()
    return _Look(image, encoding, digest, perceptual_hash(decoded))


def _split(found: Found, bad: Collection[FoundImage]) -> tuple[Part, Part, str | None]:
    """Return the parts to train on and to hold out, and why training would not get them."""
    try:
        return *split_parts(found, bad), None
    except DataError as error:
        train, *held_out = readable_parts(found, bad)
        return train, held_out[0] if held_out else Part(HELD_OUT[0], ()), error.message


def _class_counts(found: Found, train: Part, val: Part) -> tuple[ClassCount, ...]:
    trained, held_out = (Counter(image.label for image in part.images) for part in (train, val))
    return tuple(ClassCount(name, trained[label], held_out[label]) for label, name in enumerate(found.classes))


def _misnamed(looks: Iterable[_Look]) -> Iterator[Misnamed]:
    formats = Image.registered_extensions()
    for look in looks:
        source, actual = look.image.source, look.encoding.format
        if isinstance(source, Path):
            said = formats.get(source.suffix.lower())
            # A camera's JPEG may hold further pictures: Pillow calls it MPO then.
            if said != actual and (said, actual) != ("JPEG", "MPO"):
                yield Misnamed(look.image.name, actual)


def _counts(kinds: Sequence[str]) -> tuple[Count, ...]:
    return tuple(Count(kind, images) for kind, images in Counter(kinds).most_common())


def _extent(sizes: Sequence[int]) -> Extent | None:
    return Extent(min(sizes), float(np.median(sizes)), max(sizes)) if sizes else None


def _repeats(found: Found, looks: Sequence[tuple[Part, _Look]], near_bits: int) -> Iterator[Repeat]:
    """The images that repeat an earlier one, those to train on before those held out."""
    if not looks:
        return
    index = _Index([look.likeness for _, look in looks], near_bits)
    for position, (part, look) in enumerate(looks):
        match = index.earlier(position, look.digest)
        index.add(position, part.name, look.digest)
        if match is not None:
            of_part, of = looks[match.position]
            yield Repeat(
                image=look.image.name,
                part=part.name,
                label=found.classes[look.image.label],
                of=of.image.name,
                of_part=of_part.name,
                of_label=found.classes[of.image.label],
                bits=match.bits,
                exact=of.digest == look.digest,
            )


@dataclass(frozen=True, slots=True)
class _Match:
    """An earlier image that shows the same, and in how many bits its hash differs."""

    position: int
    bits: int


class _Index:
    """The images so far, by their pixels and by their likeness."""

    def __init__(self, likenesses: Sequence[Hash], near_bits: int) -> None:
        different, self.group = np.unique(np.stack(likenesses), axis=0, return_inverse=True)
        self.neighbours: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
        for one, other, bits in zip(*(array.tolist() for array in near_pairs(different, near_bits)), strict=True):
            self.neighbours[one].append((bits, other))
            self.neighbours[other].append((bits, one))
        # Part after part: the first image of each with these pixels, and with this likeness.
        self.by_digest: dict[str, dict[bytes, int]] = {}
        self.by_likeness: dict[str, dict[int, int]] = {}

    def add(self, position: int, part: str, digest: bytes) -> None:
        """Add the image at `position`."""
        self.by_digest.setdefault(part, {}).setdefault(digest, position)
        self.by_likeness.setdefault(part, {}).setdefault(int(self.group[position]), position)

    def earlier(self, position: int, digest: bytes) -> _Match | None:
        """Return an image that was added and shows what the one at `position` does, of the earliest part that has one.

        One with the same pixels is preferred, and then the nearest.
        """
        group = int(self.group[position])
        for part, first in self.by_likeness.items():
            if digest in self.by_digest[part]:
                return _Match(self.by_digest[part][digest], 0)
            near = [(bits, first[other]) for bits, other in [(0, group), *self.neighbours[group]] if other in first]
            if near:
                bits, other = min(near)
                return _Match(other, bits)
        return None
