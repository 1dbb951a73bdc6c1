"""The controlled comparison: every variant fine-tuned alike, exported, verified, profiled and reported."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import torch

from effvit.backbone import create_backbone, patch_size
from effvit.claim import claimed
from effvit.data.base import ImageData
from effvit.errors import CheckpointError, UnavailableError, UsageError, first_line
from effvit.finetune import Finetuning, finetune
from effvit.finetune import Listener as TrainingListener
from effvit.mix import parse_mix
from effvit.profiling.agent.packing import Packing, check_backends
from effvit.profiling.agent.remote import RemoteSweep
from effvit.profiling.agent.ssh import Host, Ssh
from effvit.profiling.devices import CPU, Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan, exported_backends
from effvit.profiling.records import Outcome
from effvit.profiling.results import read_finished
from effvit.profiling.sweep import Listener as SweepListener
from effvit.profiling.sweep import run_sweep
from effvit.resume import resume
from effvit.run import RECORD, Run, open_run
from effvit.spec import BASELINE, Precision, check_resolution, file_name
from effvit.state import STATE
from effvit.storage import make_folder, write_atomically
from effvit.weights import AUTO

SETTINGS, DESCRIPTION, RESULTS, RUNS = "study.json", "study.toml", "results.jsonl", "runs"


@dataclass(frozen=True, slots=True)
class Study:
    """What is compared, and how: the variants, one fine-tuning for all of them, and the axes of the sweep.

    Resolutions are (height, width) px. `fingerprint` is that of the images. With `transfer_epochs` the run of softmax,
    which comes first, is the teacher of all others: they start from its weights, learn its attention for so many
    epochs, and are fine-tuned with distillation.

    `hosts` measure beside the `devices` of this machine, of which there may be none.
    """

    data: str
    fingerprint: str
    attentions: tuple[str, ...]
    model: str | None
    weights: str
    trained: tuple[int, int] | None
    recipe: dict[str, float | int | None]
    resolutions: tuple[tuple[int, int], ...]
    batches: tuple[int, ...]
    precisions: tuple[Precision, ...]
    backends: tuple[str, ...]
    transfer_epochs: int = 0
    devices: tuple[Device, ...] = (CPU,)
    hosts: tuple[Host, ...] = ()


def reach(host: Host) -> RemoteSweep:
    """Return the sweep of a host that the system's ssh reaches."""
    return RemoteSweep(Ssh(host))


class Listener:
    """Is told how a study goes."""

    def training(self, attention: str, index: int, count: int) -> TrainingListener:
        """Variant `index` of `count` is about to be fine-tuned; the result is told how that goes."""
        return TrainingListener()

    def kept(self, run: Run) -> None:
        """This variant was fine-tuned earlier."""


def run_study(
    study: Study,
    data: ImageData,
    folder: Path,
    effort: Effort,
    listener: Listener,
    sweep: Callable[[], SweepListener],
    description: str = "",
    remote: Callable[[Host], RemoteSweep] = reach,
) -> list[Outcome]:
    """Carry out what of the study `folder` does not hold yet, and return all outcomes, those of this machine first.

    Hosts measure while this machine does. `sweep` makes a listener for each of them, and one for this machine.
    `description` is kept in the folder, for people and to repeat the study with.

    Raises:
        UsageError: The folder holds a study with other settings.
        EffvitError: What `check_study` raises, before anything is trained.
        EffvitError: Any other of the tree in errors.py; what was finished is in the folder.
    """
    check_study(study, data, remote)
    _claim(folder, study)
    read_finished(folder / RESULTS)  # before hours of training: what it holds must be what can be gone on with
    if description:
        # File names need not be valid text.
        write_atomically(folder / DESCRIPTION, description.encode("utf-8", "backslashreplace"))
    runs: list[Run] = []
    for index, attention in enumerate(study.attentions):
        place = folder / RUNS / file_name(attention)
        run = _known_run(place)
        if run is not None and run.record.status == "done":
            listener.kept(run)
        else:
            request = request_of(study, attention, effort, runs[0].folder if runs and study.transfer_epochs else None)
            told = listener.training(attention, index, len(study.attentions))
            if run is None:
                run = finetune(request, data, out=place.parent, name=place.name, listener=told)
            else:  # with as many threads as it was begun with, or other bits would come of it
                run = resume(run, replace(request, threads=None), data, listener=told)
        runs.append(run)
    return _measured(study, runs, effort, folder / RESULTS, sweep, remote)


def _measured(
    study: Study,
    runs: Sequence[Run],
    effort: Effort,
    results: Path,
    sweep: Callable[[], SweepListener],
    remote: Callable[[Host], RemoteSweep],
) -> list[Outcome]:
    """Measure on all devices and hosts, and return the outcomes, which are in `results` then."""
    plan, listener = sweep_of(study, runs), sweep()
    with PixelStore() as pixels:
        packing = Packing(plan, effort, pixels, listener.stage)
        first, *later = _turns(study.hosts) or [[]]
        started = _started(first, packing, remote)
        outcomes = run_sweep(plan, effort, results, pixels, listener) if study.devices else []
        outcomes += (outcome for there in started for outcome in there.follow(results, sweep()))
        for hosts in later:
            started = _started(hosts, packing, remote)
            outcomes += (outcome for there in started for outcome in there.follow(results, sweep()))
    return outcomes


def _started(hosts: Sequence[Host], packing: Packing, remote: Callable[[Host], RemoteSweep]) -> list[RemoteSweep]:
    started = []
    for host in hosts:
        there = remote(host)
        there.start(packing)
        started.append(there)
    return started


def _turns(hosts: Sequence[Host]) -> list[list[Host]]:
    """Return which hosts measure at the same time, turn by turn: a machine does so on one part of it at a time."""
    turns: list[list[Host]] = []
    for host in hosts:
        whole = replace(host, device=CPU)
        turn = next((one for one in turns if whole not in (replace(other, device=CPU) for other in one)), None)
        if turn is None:
            turns.append([host])
        else:
            turn.append(host)
    return turns


def check_study(study: Study, data: ImageData, remote: Callable[[Host], RemoteSweep] = reach) -> None:
    """Check what can be known before hours of training.

    Raises:
        UsageError: There is no softmax to teach the others, a resolution that the model cannot take, two devices alike.
        UnknownNameError: An unknown model or backend.
        UnsupportedError: A model that is not supported, a backend that computes on none of the devices, or that no
            agent runs.
        UnavailableError: A backend or a device that is not on this machine, a host that cannot be reached or used.
    """
    if study.transfer_epochs and study.attentions[0] != BASELINE:
        raise UsageError(
            f"attention transfer needs {BASELINE}, the teacher, before {', '.join(study.attentions)}",
            f"add {BASELINE} to --attn, or leave --transfer-epochs out",
        )
    if len(set(study.hosts)) < len(study.hosts):
        raise UsageError("the same host is named twice", "name every device once")
    if study.devices:
        sweep_of(study, []).check()
    model = study.model or data.hints.model
    with torch.device("meta"):  # no memory for weights: only its form is asked for
        patch = patch_size(create_backbone(model, classes=len(data.classes)))[0]
    for resolution in study.resolutions:
        check_resolution(model, resolution, patch)
    for host in study.hosts:
        check_backends(study.backends)
        remote(host).backends(study.backends)


def common_backends(
    devices: Sequence[Device], hosts: Sequence[Host], remote: Callable[[Host], RemoteSweep] = reach
) -> tuple[str, ...]:
    """Return the names of the backends for exported artifacts that this machine and all `hosts` have.

    Raises:
        UnavailableError: A host that cannot be reached, or that has none of them.
    """
    found = exported_backends(devices or (CPU,))
    for host in hosts:
        there = remote(host).backends(())
        found = tuple(name for name in found if name in there)
    if not found:
        raise UnavailableError("the devices have no runtime in common", "name them with --backend, or install another")
    return found


def sweep_of(study: Study, runs: Sequence[Run]) -> Plan:
    """Return what is measured of the study's runs."""
    return Plan(tuple(runs), study.resolutions, study.batches, study.precisions, study.backends, study.devices)


def request_of(study: Study, attention: str, effort: Effort, teacher: Path | None) -> Finetuning:
    """Return how a variant is fine-tuned, with the run to learn from in the folder `teacher`."""
    request = Finetuning(
        swaps=parse_mix(attention),
        model=study.model,
        weights=study.weights,
        resolution=study.trained,
        recipe=study.recipe,
        threads=effort.threads,
    )
    if teacher is None:
        return request
    recipe = study.recipe | {"transfer_epochs": study.transfer_epochs}
    return replace(request, weights=AUTO, recipe=recipe, teacher=teacher)


def require_same(folder: Path, study: Study) -> None:
    """Check that the folder holds no study with other settings.

    Raises:
        UsageError: It does, or what it holds is damaged.
    """
    path = folder / SETTINGS
    try:
        earlier = msgspec.json.decode(path.read_bytes(), type=Study)
    except (FileNotFoundError, NotADirectoryError):
        return
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OSError) as error:
        raise UsageError(f"{path} is damaged: {first_line(error)}", "choose another --out") from error
    if earlier != study:
        changed = [name for name in Study.__slots__ if getattr(earlier, name) != getattr(study, name)]
        raise UsageError(
            f"{folder} holds a study with other settings: {', '.join(changed)}",
            "choose another --out, or remove the folder",
        )


def _claim(folder: Path, study: Study) -> None:
    """Write the study's settings into its folder, or check that they are those already there."""
    require_same(folder, study)
    make_folder(folder)
    write_atomically(folder / SETTINGS, msgspec.json.format(msgspec.json.encode(study), indent=2) + b"\n")


def _known_run(folder: Path) -> Run | None:
    """Return the run in `folder` if it was finished or can be gone on with; anything else there is removed.

    Raises:
        UsageError: Another process trains there.
    """
    run = run_of_use(folder)
    if run is None and folder.exists():
        with claimed(folder):
            shutil.rmtree(folder)
    return run


def run_of_use(folder: Path) -> Run | None:
    """Return the run in `folder` if it was finished, or left what it takes to go on with it."""
    if not (folder / RECORD).is_file():
        return None
    try:
        run = open_run(folder)
    except CheckpointError:
        return None
    needed = run.weights if run.record.status == "done" else run.folder / STATE
    return run if needed.is_file() else None
