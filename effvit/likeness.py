"""Images that look alike: perceptual hashes, and the pairs of them that differ in a few bits. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

SIDE, FREQUENCIES = 64, 16
HASH_BITS = FREQUENCIES * FREQUENCIES
Hash = npt.NDArray[np.uint8]
"""A perceptual hash, `(32,)`, 8 bits in each byte."""


def perceptual_hash(image: Image.Image) -> Hash:
    """Return one bit for each of the 16 x 16 lowest frequencies of the grey image: whether it is above their median.

    Scaling, compression and small changes of brightness leave nearly all of them as they are.

    Source:
        Zauner 2010, "Implementation and Benchmarking of Perceptual Image Hash Functions", section 3.2.1, with 256 bits
        in place of 64: https://www.phash.org/docs/pubs/thesis_zauner.pdf
    """
    from scipy.fft import dctn

    grey = np.asarray(image.convert("L").resize((SIDE, SIDE), Image.Resampling.LANCZOS), dtype=np.float32)
    lowest = dctn(grey)[:FREQUENCIES, :FREQUENCIES]
    # Frequencies that a flat image does not have are rounding errors of either sign.
    lowest = np.round(lowest / SIDE, 1)
    return np.packbits(lowest > np.median(lowest))


def near_pairs(
    hashes: npt.NDArray[np.uint8], most_bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return every pair of different rows of `hashes` that differ in at most `most_bits`: first, second, bits.

    `hashes` is `(images, 32)` without two equal rows. Of two hashes that differ in k bits and are cut into k + 1
    pieces, one piece is equal: only rows with an equal piece are compared.

    Source:
        Norouzi, Punjani and Fleet 2012, "Fast Search in Hamming Space with Multi-Index Hashing", section 3.1,
        https://arxiv.org/abs/1307.2982
    """
    bits = np.unpackbits(hashes, axis=1)  # (images, 256)
    words = np.ascontiguousarray(hashes).view(np.uint64)  # (images, 4)
    found = [np.empty((0, 3), dtype=np.int64)]
    for piece in np.array_split(np.arange(bits.shape[1]), most_bits + 1):
        found.append(_pairs_of_equal_piece(np.packbits(bits[:, piece], axis=1), words, most_bits))
    first, second, apart = np.unique(np.concatenate(found), axis=0).T
    return first, second, apart


def _pairs_of_equal_piece(
    pieces: npt.NDArray[np.uint8], words: npt.NDArray[np.uint64], most_bits: int
) -> npt.NDArray[np.int64]:
    """Return `(pairs, 3)`: first, second and bits of the pairs whose pieces are equal."""
    _, group = np.unique(pieces, axis=0, return_inverse=True)
    order = np.argsort(group.ravel(), kind="stable")
    group = group.ravel()[order]
    found = [np.empty((0, 3), dtype=np.int64)]
    start = np.arange(len(order) - 1)
    step = 1
    # Each row is held against the one `step` behind it, as long as that is of the same group.
    while len(start := start[start + step < len(order)]):
        start = start[group[start] == group[start + step]]
        one, other = order[start], order[start + step]
        apart = np.bitwise_count(words[one] ^ words[other]).sum(axis=1, dtype=np.int64)
        near = apart <= most_bits
        pair = np.sort(np.stack([one[near], other[near]], axis=1), axis=1)
        found.append(np.column_stack([pair, apart[near]]))
        step += 1
    return np.concatenate(found)
