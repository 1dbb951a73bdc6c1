"""Random numbers that follow from where in a training they are drawn, and from nothing drawn before.

A training that goes on after an interruption then draws what it would have drawn, and how many processes load images
does not matter.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def derived_seed(*place: int, rank: int = 0) -> int:
    """Return the seed of a place, such as (seed, epoch, step): unlike that of any other, 0 to 2**32 - 1.

    `rank` is that of a process of several, which draw at the same places, and must not draw the same.
    """
    return int(np.random.SeedSequence(place, spawn_key=(rank,) if rank else ()).generate_state(1)[0])


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Let the CPU's generators of `random`, `numpy` and `torch` start at `seed`, and afterwards be as they were."""
    of_python, of_numpy, of_torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)
        torch.set_rng_state(of_torch)
