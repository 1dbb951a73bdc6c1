"""How long a study will take: it is carried out in small, and what that took is scaled to what is left.

The probe fine-tunes every variant that is not finished for `PROBE_STEPS` steps, and sends the first variant through the
sweep once for every backend and precision: at the smallest size and batch, with all rounds of the study, each of them
as short as can be, on `PROBE_IMAGES` images. What it takes to make an artifact, to start processes and to read memory
is then known, and times of calls follow the MACs. Its bounds are no interval: they hold what the probe can tell.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from effvit.backbone import set_resolution
from effvit.cost import cost_of
from effvit.data.base import ImageData
from effvit.finetune import Finetuning, Listener, finetune
from effvit.optimisation import Step
from effvit.profiling.agent.remote import RemoteSweep
from effvit.profiling.agent.ssh import Host
from effvit.profiling.devices import CPU
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.records import Outcome
from effvit.profiling.results import read_finished
from effvit.profiling.scratch import ScratchFolder
from effvit.profiling.stats import median_s
from effvit.profiling.study import (
    RESULTS,
    RUNS,
    Study,
    check_study,
    reach,
    request_of,
    require_same,
    run_of_use,
    sweep_of,
)
from effvit.profiling.sweep import run_sweep
from effvit.run import Run
from effvit.spec import file_name
from effvit.surgery import model_from_spec

PROBE_STEPS, PROBE_IMAGES = 3, 16
Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds, at least and at most."""

    low_s: float
    high_s: float

    def __add__(self, other: Span) -> Span:
        return Span(self.low_s + other.low_s, self.high_s + other.high_s)

    def times(self, factor: float) -> Span:
        """Return it so many times."""
        return Span(self.low_s * factor, self.high_s * factor)


NOTHING = Span(0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is left of a study: how long each variant is trained, and how long the remaining `cells` take here.

    `probe_s` is what finding this out took. Of all cells of the study, `elsewhere` are those of other machines, which
    measure at the same time; how long that takes is not known.
    """

    training: tuple[tuple[str, Span], ...]
    sweep: Span
    cells: int
    probe_s: float
    elsewhere: int = 0

    @property
    def total(self) -> Span:
        """All of it."""
        return sum((span for _, span in self.training), start=self.sweep)


def forecast(
    study: Study,
    data: ImageData,
    folder: Path,
    effort: Effort,
    stage: Stage,
    remote: Callable[[Host], RemoteSweep] = reach,
) -> Forecast:
    """Probe what is left of the study in `folder`, in a temporary folder; `stage` is told what is tried.

    Raises:
        UsageError: The folder holds a study with other settings.
        EffvitError: Any of the tree in errors.py that the study would end with.
    """
    check_study(study, data, remote)
    require_same(folder, study)
    started, scratch = time.monotonic(), ScratchFolder()
    try:
        runs: list[Run] = []
        training: list[tuple[str, Span]] = []
        for attention in study.attentions:
            run = run_of_use(folder / RUNS / file_name(attention))
            if run is None or run.record.status != "done":
                stage(f"training {attention} for {PROBE_STEPS} steps")
                taught = runs[0].folder if runs and study.transfer_epochs else None
                run, span = _probed(request_of(study, attention, effort, taught), data, scratch.path, study)
                training.append((attention, span))
            runs.append(run)
        plan = sweep_of(study, runs)
        of_a_device = len(replace(plan, devices=(CPU,)).groups()) * len(runs)
        cells = of_a_device * (len(study.devices) + len(study.hosts))
        left = max(0, cells - len(read_finished(folder / RESULTS)))
        measured_here = study.devices and left
        sweep = _sweep_span(plan, effort, scratch.path / RESULTS, stage) if measured_here else NOTHING
    finally:
        scratch.remove()
    elsewhere = of_a_device * len(study.hosts)
    return Forecast(tuple(training), sweep.times(left / cells), left, time.monotonic() - started, elsewhere)


class _Stopwatch(Listener):
    """Notes when each optimiser step was done, of attention transfer and of training."""

    def __init__(self) -> None:
        self.started_s = time.monotonic()
        self.steps: list[float] = []
        self.transfer_steps: list[float] = []

    def step(self, step: Step) -> None:
        self.steps.append(time.monotonic())

    def transfer_step(self, step: Step) -> None:
        self.transfer_steps.append(time.monotonic())


def _probed(request: Finetuning, data: ImageData, out: Path, study: Study) -> tuple[Run, Span]:
    """Return a run of a few steps, and how long the whole training will take."""
    # Too few images for several steps make smaller steps.
    batch = min(int(study.recipe.get("batch") or data.hints.batch), max(1, len(data.train) // PROBE_STEPS))
    some = replace(data, train=data.train[: PROBE_STEPS * batch], val=data.val[:PROBE_IMAGES])
    small = {"epochs": 1, "batch": batch} | ({"transfer_epochs": 1} if request.teacher else {})
    # Weights that are there already cost nothing; others are not fetched for a probe.
    weights = request.weights if request.teacher else "none"
    request = replace(request, weights=weights, recipe={**(request.recipe or {}), **small})
    watch = _Stopwatch()
    run = finetune(request, some, out=out, name=f"probe-{len(list(out.iterdir()))}", listener=watch)
    (epoch,) = run.history()
    epochs = int(study.recipe.get("epochs") or data.hints.epochs)
    steps = math.ceil(len(data.train) / batch)
    checking_s = epoch.inference_s / len(some.val) * len(data.val)
    whole = (_steps_span(watch.steps, steps) + Span(checking_s, checking_s)).times(epochs)
    if watch.transfer_steps:
        whole += _steps_span(watch.transfer_steps, steps).times(study.transfer_epochs)
    # Until the first step the model was built, and processes that load images were started.
    return run, whole + Span(0.0, (watch.transfer_steps or watch.steps)[0] - watch.started_s)


def _steps_span(done_s: Sequence[float], steps: int) -> Span:
    """Return how long so many steps take, by when the first few were done."""
    took = [later - earlier for earlier, later in itertools.pairwise(done_s)]
    return Span(min(took) * steps, max(took) * steps)


@dataclass(frozen=True, slots=True)
class _Probe:
    """What one cell took: to make its artifact, to measure it apart from calls, and a call for each image and MAC."""

    build_s: float
    fixed_s: float
    mac_s: float


class _Arrivals:
    """Notes how long each cell of a sweep took."""

    def __init__(self, stage: Stage) -> None:
        self._stage, self._last_s = stage, time.monotonic()
        self.took: list[tuple[Outcome, float]] = []

    def stage(self, text: str) -> None:
        self._stage(text)

    def planned(self, cells: int) -> None:
        self._last_s = time.monotonic()

    def outcome(self, outcome: Outcome, measured_now: bool) -> None:
        now_s = time.monotonic()
        self.took.append((outcome, now_s - self._last_s))
        self._last_s = now_s


def _sweep_span(plan: Plan, effort: Effort, results: Path, stage: Stage) -> Span:
    """Return how long all cells of the plan take, by one of each backend and precision."""
    smallest = min(plan.resolutions, key=lambda size: size[0] * size[1])
    small = replace(
        plan, runs=plan.runs[:1], resolutions=(smallest,), batches=(min(plan.batches),), devices=plan.devices[:1]
    )
    short = replace(
        effort, samples=1, least_s=0.0, most_s=0.01, max_noise=math.inf,
        eval_images=PROBE_IMAGES, verify_images=PROBE_IMAGES,
    )  # fmt: skip
    arrivals = _Arrivals(stage)
    with PixelStore() as pixels:
        run_sweep(small, short, results, pixels, arrivals)
        images = _images(plan.runs[0], effort, pixels)
    macs = [_macs(run, size) for run in plan.runs for size in plan.resolutions]
    built: set[str] = set()
    probes = [_probe(outcome, took_s, built) for outcome, took_s in arrivals.took]
    return sum((_kind_span(probe, plan, effort, macs, images) for probe in probes), start=NOTHING)


def _images(run: Run, effort: Effort, pixels: PixelStore) -> int:
    """Return on how many images an artifact is verified and judged."""
    held_out = len(pixels.data_of(run).val)
    return min(effort.verify_images, held_out) + min(effort.eval_images or held_out, held_out)


def _macs(run: Run, size: tuple[int, int]) -> int:
    spec = run.record.spec
    model = model_from_spec(spec)
    set_resolution(model, *size)
    return cost_of(model, spec).macs


def _probe(outcome: Outcome, took_s: float, built: set[str]) -> _Probe:
    """Return what a cell tells; an artifact that another backend reads as well was built before."""
    evidence = outcome.evidence
    if evidence is None:
        return _Probe(0.0, took_s, 0.0)
    build_s = 0.0 if evidence.artifact.path in built else evidence.artifact.build_s
    built.add(evidence.artifact.path)
    macs = evidence.cost.macs * outcome.cell.workload.batch
    return _Probe(min(build_s, took_s), took_s - min(build_s, took_s), median_s(evidence.samples) / macs)


def _kind_span(probe: _Probe, plan: Plan, effort: Effort, macs: Sequence[int], images: int) -> Span:
    """Return how long all cells of one backend and precision take; `macs` are those of each model at each size."""
    least, total = min(macs), NOTHING
    for image_macs in macs:
        image_s = probe.mac_s * image_macs
        # Making an artifact takes as long for every size, or as much longer as the model is larger.
        total += Span(probe.build_s, probe.build_s * max(1.0, image_macs / least))
        # Small batches use a processor less well; PyTorch answers as many images to verify.
        total += Span(images * image_s / 2, images * image_s * 2)
        for batch in plan.batches:
            cell = _cell_span(probe.fixed_s, batch * image_s, effort)
            total += cell.times(len(plan.devices))
    return total


def _cell_span(fixed_s: float, call_s: float, effort: Effort) -> Span:
    """Return how long one cell takes: until it has what it needs at least, or until its time is over."""
    warm_s = effort.rounds * max(effort.warmup_s, 2 * call_s)
    least_s = max(effort.least_s, effort.samples * call_s)
    return Span(fixed_s + least_s + warm_s, fixed_s + max(effort.most_s, 2 * least_s + warm_s))
