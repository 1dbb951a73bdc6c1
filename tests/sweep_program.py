"""A sweep in a process of its own, to be killed: `python sweep_program.py RESULTS RUN...`."""

from __future__ import annotations

import math
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import fakes

from effvit.cli.main import INTERRUPTED
from effvit.export.base import backends
from effvit.interruption import second_ends_at_once
from effvit.profiling.disturbance import Tolerance
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.sweep import run_sweep
from effvit.run import open_run
from effvit.spec import Precision

BACKEND = "ort-cpu"
# Whatever goes on beside the tests: these are about what becomes of cells, not about their numbers.
ANYTHING = Tolerance(steal=math.inf, others=math.inf, idle=0, clock=0)
QUICK = Effort(
    threads=1,
    rounds=3,
    samples=3,
    least_s=0,
    most_s=5,
    warmup_s=0,
    timeout_s=60,
    eval_images=40,
    verify_images=16,
    max_noise=math.inf,
    tolerance=ANYTHING,
)


class Silent:
    def planned(self, cells: int) -> None: ...
    def stage(self, text: str) -> None: ...
    def outcome(self, outcome: object, measured_now: bool) -> None: ...


def sweep(results: Path, folders: Sequence[Path], names: tuple[str, ...] = (BACKEND,)) -> None:
    """Measure four workloads of every run through the backends `names`, which may be fakes."""
    backends().update(fakes.fakes())  # type: ignore[attr-defined]  # discovery returns a dict
    plan = Plan(tuple(map(open_run, folders)), ((32, 32), (64, 64)), (1, 2), (Precision.FP32,), names)
    with PixelStore() as pixels:
        run_sweep(plan, QUICK, results, pixels, Silent(), start=fakes.start_worker)


def interruptible_sweep(results: Path, folders: Sequence[Path], names: tuple[str, ...] = (BACKEND,)) -> None:
    """Measure as `sweep` does, with temporary files beside `results`, and end on Ctrl-C as the command line does."""
    tempfile.tempdir = str(results.parent / "temporary")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in parallel has it ignored
    with second_ends_at_once():
        try:
            sweep(results, folders, names)
        except KeyboardInterrupt:
            sys.exit(INTERRUPTED)


if __name__ == "__main__":
    sweep(Path(sys.argv[1]), [Path(folder) for folder in sys.argv[2:]])
