"""What this machine can do at best: its rate of matrix products, and of moving memory.

Both are measured in numpy, which every measuring worker has anyway. Its BLAS may be slower than the kernels of a
runtime, so that a share of the measured rate may exceed 1. Run as a program, `python -m effvit.profiling.calibration
THREADS` measures and writes the calibration to stdout as JSON.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

import effvit
from effvit.environment import capture_environment, usable_cores
from effvit.errors import StorageError
from effvit.memory import available_bytes
from effvit.profiling.records import Calibration
from effvit.storage import user_cache, write_atomically

PROGRAM = (sys.executable, "-m", "effvit.profiling.calibration")
# Every BLAS that numpy is built with reads one of these, once, when it is loaded.
_THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
SIDES = (512, 1024, 2048)
_LEAST_ROUNDS = 3
_TIMEOUT_S = 120.0
CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNKNOWN_CACHE_BYTES = 32 * 2**20
_CACHES_COPIED = 2  # from twice the cache to twice the cache: at most a fourth of it can be a hit
_LEAST_COPIED_BYTES, _SHARE_OF_AVAILABLE = 64 * 2**20, 8


@dataclass(frozen=True, slots=True)
class _Turn:
    """One run of a kernel: how long it took, and the processor time it got of all threads together."""

    wall_s: float
    cpu_s: float


def calibrated(threads: int, stage: Callable[[str], None], program: Sequence[str] = PROGRAM) -> Calibration | None:
    """Return the calibration of this machine with `threads` threads, measured now unless it was before.

    It is kept in the user's cache folder, unless that cannot be written or other processes took part of the cores. A
    damaged file is measured again. None: the measurement failed, for want of memory, say.
    """
    path = user_cache() / "calibration" / f"{_key(threads)}.json"
    known = _read(path)
    if known is not None:
        return known
    stage("calibrating this machine")
    try:
        text = _measured_apart(threads, program)
        fresh = msgspec.json.decode(text, type=Calibration)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return None
    if not fresh.disturbed:
        with suppress(StorageError):  # it costs a few seconds each time, no more
            write_atomically(path, text)
    return fresh


def measure(threads: int, copied_bytes: int, sides: Sequence[int] = SIDES, enough_s: float = 2.0) -> Calibration:
    """Measure in this process, whose BLAS has been told to use `threads` threads.

    Products of square matrices of these `sides` and copies of `copied_bytes` take turns, and the best turn of each
    counts: whatever disturbs a machine makes it slower.
    """
    turns: list[tuple[int, _Turn]] = []
    copies: list[_Turn] = []
    with ThreadPoolExecutor(threads) as pool:
        products = {side: _product(side) for side in sides}
        copy = _copy(copied_bytes, threads, pool)
        started = time.perf_counter()
        while len(copies) < _LEAST_ROUNDS or time.perf_counter() - started < enough_s:
            turns += [(side, _timed(product)) for side, product in products.items()]
            copies.append(_timed(copy))
    side, best = max(turns, key=lambda turn: turn[0] ** 3 / turn[1].wall_s)
    return Calibration(
        macs_per_s=side**3 / best.wall_s,
        bytes_per_s=2 * copied_bytes / min(turn.wall_s for turn in copies),
        threads=threads,
        core_share=best.cpu_s / best.wall_s / min(threads, usable_cores()),
        copied_bytes=copied_bytes,
        library=_library(),
    )


def _product(side: int) -> Callable[[], object]:
    numbers = np.random.default_rng(0)
    left, right = (numbers.random((side, side), dtype=np.float32) for _ in range(2))
    return partial(np.matmul, left, right, out=np.zeros((side, side), dtype=np.float32))


def _copy(size_bytes: int, threads: int, pool: ThreadPoolExecutor) -> Callable[[], object]:
    """Return a copy of so many bytes, in one part a thread: numpy copies with one, and lets others run meanwhile."""
    # Ones, not zeros: pages that nobody wrote to are all the same page, and stay in the cache.
    sources = np.array_split(np.ones(size_bytes, dtype=np.uint8), threads)
    targets = np.array_split(np.ones(size_bytes, dtype=np.uint8), threads)
    return lambda: list(pool.map(np.copyto, targets, sources))


def _timed(work: Callable[[], object]) -> _Turn:
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    work()
    return _Turn(time.perf_counter() - wall_s, time.process_time() - cpu_s)


def copied_bytes() -> int:
    """Return how much is copied: more than the last cache holds, and no more than a part of the available memory."""
    wanted = max(_LEAST_COPIED_BYTES, _CACHES_COPIED * _cache_bytes())
    available = available_bytes()
    return wanted if available is None else min(wanted, available // _SHARE_OF_AVAILABLE)


def _cache_bytes() -> int:
    """Return the size of the largest cache of the first core."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    texts = [path.read_text().strip() for path in CACHES.glob("index*/size")]
    sizes = [int(text[:-1]) * units[text[-1]] for text in texts if text[-1:] in units]
    return max(sizes, default=_UNKNOWN_CACHE_BYTES)


def _measured_apart(threads: int, program: Sequence[str]) -> bytes:
    """Return what a process of its own measures: a BLAS takes its number of threads when it is loaded."""
    variables = dict.fromkeys(_THREAD_VARIABLES, str(threads))
    path = os.pathsep.join(filter(None, [str(Path(effvit.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    ended = subprocess.run(
        [*program, str(threads)],
        env={**os.environ, **variables, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=True,
    )
    return ended.stdout.strip()


def _read(path: Path) -> Calibration | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _key(threads: int) -> str:
    """Return a name that is another where another rate is to be expected."""
    machine = capture_environment(threads)
    facts = [machine.cpu, machine.cores, machine.ram_bytes, threads, np.__version__, _library()]
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:16]


def _library() -> str:
    """Return what multiplies matrices here: `numpy 2.4.0, scipy-openblas 0.3.31`."""
    built_with = np.show_config(mode="dicts") or {}
    blas = built_with.get("Build Dependencies", {}).get("blas", {})
    return f"numpy {np.__version__}, {blas.get('name', 'unknown BLAS')} {blas.get('version', '')}".rstrip()


def main() -> None:
    """Measure with as many threads as the command line names."""
    sys.stdout.buffer.write(msgspec.json.encode(measure(int(sys.argv[1]), copied_bytes())))


if __name__ == "__main__":
    main()
