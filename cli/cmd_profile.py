"""`effvit profile`: a sweep over runs, resolutions, batches, precisions and backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.artifacts import refuse_files
from effvit.cli.executors import LOCAL, ExecutorOption, RayAddressOption, executor_from_text
from effvit.cli.hosts import split_devices
from effvit.cli.launched import alone
from effvit.cli.options import (
    DEFAULT_RUNS,
    AttentionsOption,
    DevicesOption,
    EvalImagesOption,
    FallbackOption,
    JsonOption,
    LeastOption,
    MostOption,
    NoiseOption,
    PinsOption,
    ResolutionsOption,
    RoundsOption,
    RunArguments,
    RunsOption,
    SamplesOption,
    ThreadsOption,
    TimeoutOption,
    WarmupOption,
    attentions_from_text,
    batches_from_text,
    devices_from_texts,
    names_from_text,
    pins_from_text,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, hint, progress_bars, say, show, write_json
from effvit.errors import CellsFailedError, FallbackError, UsageError
from effvit.export.pins import AUTO
from effvit.interruption import advising, same_command
from effvit.profiling.devices import check_gpus
from effvit.spec import BASELINE

if TYPE_CHECKING:
    from effvit.profiling.devices import Device
    from effvit.profiling.records import Outcome
    from effvit.profiling.report.rows import Row
    from effvit.run import Run


@alone
def profile(
    run: RunArguments = None,
    attn: AttentionsOption = None,
    res: ResolutionsOption = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="images a call: 1,8,32 or FIRST:LAST:FACTOR")] = "1,8",
    precision: Annotated[str, typer.Option(metavar="NAME,...", help="types to compute in")] = "fp32",
    backend: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="runtimes [default: all that are here]", show_default=False)
    ] = None,
    device: DevicesOption = None,
    pin_fp32: PinsOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="result file [default: results.jsonl among the runs]", show_default=False),
    ] = None,
    rounds: RoundsOption = 5,
    samples: SamplesOption = 30,
    least_s: LeastOption = 1.0,
    max_noise: NoiseOption = 2.0,
    most_s: MostOption = 20.0,
    warmup_ms: WarmupOption = 100.0,
    allow_fallback: FallbackOption = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="measure cells again that failed or were unstable before")
    ] = False,
    timeout_s: TimeoutOption = 600.0,
    eval_images: EvalImagesOption = 500,
    max_batch: Annotated[
        bool, typer.Option("--max-batch", help="find the largest batch that fits into memory instead of measuring")
    ] = False,
    max_batch_limit: Annotated[
        int, typer.Option("--max-batch-limit", metavar="N", min=1, help="with --max-batch: images a call, at most")
    ] = 4096,
    max_batch_s: Annotated[
        float, typer.Option("--max-batch-s", metavar="SECONDS", help="with --max-batch: seconds a search, at most")
    ] = 600.0,
    until_crossover: Annotated[
        bool,
        typer.Option(
            "--until-crossover", help="go on between the sizes of --res until it is known where variants beat softmax"
        ),
    ] = False,
    crossover_tolerance: Annotated[
        float,
        typer.Option(
            "--crossover-tolerance", metavar="PERCENT", min=1.0, help="with --until-crossover: of px, to search down to"
        ),
    ] = 10.0,
    executor: ExecutorOption = LOCAL,
    ray_address: RayAddressOption = None,
    threads: ThreadsOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Measure latency, throughput, memory and accuracy of a run's artifacts on this machine.

    Cells that differ in the attention alone are measured in interleaved rounds, until their medians are known to
    --max-noise or --most-s is over. Results are appended to a file as cells finish; the same command started again goes
    on from there. With --max-batch nothing is timed and --batch has no meaning: batches are doubled and halved, each in
    a process of its own, until one image more does not fit. What was found is kept in frontier.jsonl among the runs, or
    in --out. With --until-crossover further resolutions between the smallest and the largest are measured, those that a
    fit of latency over tokens says most about, until each variant's crossing with softmax is bracketed. With --pin-fp32
    artifacts are measured with these modules in fp32 beside the same without, in the same rounds, and what that costs
    is told; those that are refused without are measured with them alone. With --executor ray the nodes of a Ray cluster
    measure, each of them one group of such cells at a time.
    """
    sizes = resolutions_from_text(res) if res is not None else None
    batches, precisions = batches_from_text(batch), precisions_from_text(precision)
    pins = pins_from_text(pin_fp32, precisions)
    hosts, here = split_devices(device, threads)
    devices = devices_from_texts(here, threads) if here or not hosts else []
    backends = names_from_text(backend)
    measuring = executor_from_text(executor, ray_address, hosts)
    if measuring.cluster is None:
        _require_here(devices, backends)
    _refuse_together(
        {"--device ssh://": hosts, "--executor ray": measuring.cluster},
        {"--max-batch": max_batch, "--until-crossover": until_crossover},
        pins,
    )
    refuse_files(run, runs)

    from effvit.cli.remote_sweeping import follow_all, start_on
    from effvit.cli.sweeping import SweepDisplay
    from effvit.environment import usable_cores
    from effvit.profiling.agent.measuring import Allowed
    from effvit.profiling.agent.packing import Packing
    from effvit.profiling.pixels import PixelStore
    from effvit.profiling.plan import Effort, Plan, available_backends, check_precisions
    from effvit.profiling.seeking import seek_crossovers
    from effvit.runs import find_runs, resolve_runs

    chosen = resolve_runs(runs, run or [], attentions_from_text(attn))
    plan = Plan(
        runs=(*chosen, *_pinned(chosen, pins)),
        resolutions=tuple(sizes or dict.fromkeys(one.record.spec.trained for one in chosen)),
        batches=(1,) if max_batch else tuple(batches),
        precisions=tuple(precisions),
        backends=tuple(backends) or available_backends(devices),
        devices=tuple(devices),
    )
    check_precisions(plan.backends, precisions)
    effort = Effort(
        threads=usable_cores(),
        rounds=rounds,
        samples=samples,
        least_s=least_s,
        most_s=most_s,
        warmup_s=warmup_ms / 1000,
        timeout_s=timeout_s,
        eval_images=eval_images,
        max_noise=max_noise / 100,
    )
    if max_batch:
        from effvit.cli.frontier import show_largest_batches
        from effvit.profiling.frontier import Bounds

        show_largest_batches(
            plan, effort, Bounds(max_batch_limit, max_batch_s), out or runs / "frontier.jsonl", json=json
        )
        return
    results = out or runs / "results.jsonl"
    with (
        advising(same_command),
        progress_bars() as progress,
        PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels,
    ):
        packing = Packing(replace(plan, backends=tuple(backends)), effort, pixels, say)
        allowed = Allowed(retry_failed, allow_fallback)
        remote = start_on(hosts, packing, allowed, progress)
        display = SweepDisplay(progress)

        sweep = partial(measuring.sweep, packing, allowed, results, display)
        seek = partial(seek_crossovers, tolerance=crossover_tolerance / 100, sweep=sweep) if until_crossover else sweep
        outcomes = seek(plan) if devices else []
        display.close()
        outcomes += follow_all(remote, results, progress)
    _conclude(outcomes, pins=bool(pins), crossovers=until_crossover, json=json)
    say(f"results: {results}")
    if not any(one.record.spec.attention == BASELINE for one in chosen):
        hint(_advise_baseline(chosen, find_runs(runs)))
    raise_if_unfinished(outcomes, allow_fallback=allow_fallback)


def _conclude(outcomes: list[Outcome], *, pins: bool, crossovers: bool, json: bool) -> None:
    """Show what was measured, and tell what these options are about."""
    from effvit.cli.sweeping import say_crossovers, say_pins

    show_outcomes(outcomes, json=json)
    if pins:
        say_pins(outcomes)
    if crossovers:
        say_crossovers(outcomes)


def _refuse_together(elsewhere: Mapping[str, object], searches: Mapping[str, object], pins: Sequence[str]) -> None:
    """Refuse what does not go together: searches `elsewhere` than on this machine, and either with pins.

    Raises:
        UsageError: Two were asked for that do not; both are named by their options.
    """
    other, search = ([option for option, value in asked.items() if value] for asked in (elsewhere, searches))
    if pins and (option := next(iter([*other, *search]), "")):
        raise UsageError(f"--pin-fp32 does not go with {option}", f"leave --pin-fp32 or {option} away")
    if other and search:
        raise UsageError(f"{search[0]} does not go with {other[0]}", f"leave {search[0]} or {other[0]} away")


def _pinned(runs: Sequence[Run], names: Sequence[str]) -> list[Run]:
    """Return the runs with the modules that `names` mean in fp32, or with `AUTO`.

    Raises:
        UnknownNameError: A name means no module of one of them.
    """
    if not names:
        return []
    if tuple(names) == AUTO:
        return [replace(run, pins=AUTO) for run in runs]

    from effvit.export.pinning import pins_from_names

    return [replace(run, pins=pins_from_names(names, run.model())) for run in runs]


def _require_here(devices: Sequence[Device], backends: Sequence[str]) -> None:
    """Check what this machine has to have, before the seconds that importing PyTorch and runs takes.

    Raises:
        UnavailableError: A GPU or a backend that is not here.
        UnknownNameError: An unknown backend.
    """
    check_gpus(devices)

    from effvit.export.base import pick_backend

    for name in backends:
        pick_backend(name).require()


def _advise_baseline(chosen: Sequence[Run], known: Sequence[Run]) -> str:
    """Return how to see what the chosen runs gain over softmax: with a run that there is, or one to be made."""
    backbone = chosen[0].record.spec.backbone
    names = " ".join(run.name for run in chosen)
    alike = [run for run in known if run.record.spec.attention == BASELINE and run.record.spec.backbone == backbone]
    if alike:
        return (
            f"to see what they gain, measure a softmax run beside them: `effvit profile {names} {alike[-1].name} ...`"
        )
    return f"to see what they gain, make a softmax run with `effvit finetune {backbone}` and name it beside them"


def show_outcomes(outcomes: Sequence[Outcome], rows: Sequence[Row] | None = None, *, json: bool) -> None:
    """Print outcomes to stdout: as a table of their `rows`, which are made unless they are there, or as JSON."""
    if json:
        import msgspec

        write_json(msgspec.json.encode(outcomes))
        return
    from effvit.profiling.report.rows import make_rows
    from effvit.profiling.report.terminal import render

    show(render(make_rows(outcomes) if rows is None else rows))


def raise_if_unfinished(outcomes: list[Outcome], *, allow_fallback: bool = False) -> None:
    """Check that cells were measured as they were asked for, or have a reason that is no failure.

    Raises:
        CellsFailedError: Some failed, or none was measured.
        FallbackError: A runtime does something else than it was asked for, and that is not allowed.
    """
    from effvit.profiling.records import FAILURES

    failed = [outcome for outcome in outcomes if outcome.status in FAILURES]
    if failed:
        raise CellsFailedError(
            f"{len(failed)} of {len(outcomes)} cells failed; the first: {failed[0].reason}",
            "the reasons stand in the table; `effvit profile` with --retry-failed tries these cells again",
        )
    fallen = [outcome for outcome in outcomes if outcome.status == "fallback"]
    if fallen and not allow_fallback:
        cell = fallen[0].cell
        raise FallbackError(
            f"{len(fallen)} of {len(outcomes)} cells are not what was asked for; {cell.backend}: {fallen[0].reason}",
            "ask for what the runtimes can do; `effvit profile` with --allow-fallback measures these as they are",
        )
    if all(outcome.evidence is None for outcome in outcomes):
        raise CellsFailedError(
            f"nothing could be measured: {outcomes[0].reason}", "choose what the runtimes here can do"
        )
