"""`effvit agent`: measuring on machines that have neither PyTorch nor effvit."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from effvit.cli.options import (
    DEFAULT_RUNS,
    AttentionsOption,
    EvalImagesOption,
    LeastOption,
    MostOption,
    NoiseOption,
    ResolutionsOption,
    RoundsOption,
    RunArguments,
    RunsOption,
    SamplesOption,
    TimeoutOption,
    WarmupOption,
    attentions_from_text,
    batches_from_text,
    devices_from_texts,
    names_from_text,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, hint, progress_bars, say, write

HostArgument = Annotated[str, typer.Argument(metavar="ssh://USER@HOST", help="the device, as --device names it")]
app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def agent() -> None:
    """Measure on machines that have Python 3.10 or later, numpy and a runtime, and nothing else of ours.

    Make the agent, which is one file, and a kit, which is a folder; copy both to the machine; run the agent there; and
    bring its result file back to `effvit report`.
    """


@app.command("build", short_help="write the agent, which is one file")
def build_agent(
    out: Annotated[Path, typer.Option(metavar="FILE", help="where to write it")] = Path("effvit-agent.pyz"),
) -> None:
    """Write the agent: the code that measures, as one file that Python runs as it is."""
    from effvit.profiling.agent.archive import build

    size_bytes = build(out).stat().st_size
    write(str(out))
    say(f"{size_bytes / 1e3:.0f} kB")
    hint(f"on the device: `python3 -m pip install numpy onnxruntime`, then `python3 {out.name} run KIT`")


@app.command("pack", short_help="write a kit: cells and all they need")
def pack_kit(
    run: RunArguments = None,
    attn: AttentionsOption = None,
    res: ResolutionsOption = None,
    batch: Annotated[str, typer.Option(metavar="N,...", help="images a call: 1,8,32 or FIRST:LAST:FACTOR")] = "1,8",
    precision: Annotated[str, typer.Option(metavar="NAME,...", help="types to compute in")] = "fp32",
    backend: Annotated[str, typer.Option(metavar="NAME,...", help="runtimes: ort-cpu, openvino")] = "ort-cpu",
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="DEVICE",
            help="part of the machine that measures, as cpu:threads=1,memory=512MiB [default: cpu]",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="new folder to write")] = Path("kit"),
    rounds: RoundsOption = 5,
    samples: SamplesOption = 30,
    least_s: LeastOption = 1.0,
    max_noise: NoiseOption = 2.0,
    most_s: MostOption = 20.0,
    warmup_ms: WarmupOption = 100.0,
    timeout_s: TimeoutOption = 600.0,
    eval_images: EvalImagesOption = 500,
    runs: RunsOption = DEFAULT_RUNS,
) -> None:
    """Write a kit: a fixed list of cells with their artifacts, images, and the logits that PyTorch has for these.

    The agent verifies every artifact against these logits with the runtime of its machine before it measures it.
    """
    sizes = resolutions_from_text(res) if res is not None else None
    batches, precisions = batches_from_text(batch), precisions_from_text(precision)
    devices, backends = devices_from_texts(device, None), names_from_text(backend)

    from effvit.environment import usable_cores
    from effvit.profiling.agent.packing import Packing, write_kit
    from effvit.profiling.pixels import PixelStore
    from effvit.profiling.plan import Effort, Plan
    from effvit.runs import resolve_runs

    chosen = resolve_runs(runs, run or [], attentions_from_text(attn))
    plan = Plan(
        runs=tuple(chosen),
        resolutions=tuple(sizes or dict.fromkeys(one.record.spec.trained for one in chosen)),
        batches=tuple(batches),
        precisions=tuple(precisions),
        backends=tuple(backends),
        devices=tuple(devices),
    )
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
    with progress_bars() as progress, PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels:
        kit = write_kit(Packing(plan, effort, pixels, say), out)
    write(str(out))
    say(f"{len(plan.groups()) * len(chosen)} cells, {len(kit.blobs)} files")
    hint(f"copy it and the agent to the device, and run `python3 effvit-agent.pyz run {out.name}` there")


@app.command("stop", short_help="end what measures on a device")
def stop_host(host: HostArgument) -> None:
    """End every agent on a device; what was measured stays, and the same `effvit profile` goes on with the rest."""
    from effvit.profiling.agent.remote import stop
    from effvit.profiling.agent.ssh import Ssh, host_from_text

    target = host_from_text(host)
    stop(Ssh(target))
    say(f"nothing of ours measures on {target}")


@app.command("clean", short_help="remove what was copied to a device")
def clean_host(host: HostArgument) -> None:
    """End every agent on a device, and remove all that `effvit profile --device ssh://...` has copied there."""
    from effvit.profiling.agent.remote import clean
    from effvit.profiling.agent.ssh import Ssh, host_from_text

    target = host_from_text(host)
    clean(Ssh(target))
    say(f"nothing of ours is left on {target}")
