"""`effvit runs`: what has been fine-tuned, and how it went."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.options import DEFAULT_RUNS, ClassesOption, JsonOption, RunsOption
from effvit.cli.output import hint, say, show, write_json

if TYPE_CHECKING:
    from effvit.overview import Overview
    from effvit.run import EpochRecord, RunRecord

WORST_CLASSES = 10
app = typer.Typer(invoke_without_command=True, subcommand_metavar="[show [RUN]]", rich_markup_mode=None)


@dataclass(frozen=True, slots=True)
class Account:
    """One run in full."""

    overview: Overview
    record: RunRecord
    history: list[EpochRecord]


@app.callback()
def runs(context: typer.Context, runs: RunsOption = DEFAULT_RUNS, json: JsonOption = False) -> None:
    """List the runs: model, attention, data, accuracy, time and status. `effvit runs show` prints one's curves."""
    if context.invoked_subcommand is not None:
        return
    from effvit.overview import overviews

    found = overviews(runs)
    if json:
        import msgspec

        write_json(msgspec.json.encode(found))
        return
    if not found:
        say(f"there is no run in {runs}")
        hint("make one with `effvit finetune --attn linformer`")
        return
    from effvit.cli.curves import runs_table

    show(runs_table(found))
    for run in found:
        if run.status == "damaged":
            say(f"{run.name}: {run.note}")
    resumable = [run.name for run in found if run.resumable]
    if resumable:
        hint(f"go on with `effvit finetune --resume {resumable[-1]}`")


@app.command("show", short_help="print the curves of one run")
def show_run(
    run: Annotated[
        str | None, typer.Argument(metavar="RUN", help="run folder or name [default: the newest]", show_default=False)
    ] = None,
    runs: RunsOption = DEFAULT_RUNS,
    classes: ClassesOption = False,
    json: JsonOption = False,
) -> None:
    """Print one run: what it is, the curves of its losses, accuracies and speed, and its worst classes."""
    from effvit.overview import overview_of, overviews
    from effvit.run import open_run
    from effvit.runs import newest_run, resolve_runs

    if run is None:
        readable = [one.name for one in overviews(runs) if one.status != "damaged"]
        chosen = open_run(runs / readable[-1]) if readable else newest_run(runs)
    else:
        (chosen,) = resolve_runs(runs, [run], [])
    account = Account(overview_of(chosen), chosen.record, chosen.history())
    if json:
        import msgspec

        write_json(msgspec.json.encode(account))
        return
    from effvit.cli.curves import (
        before_training,
        classes_table,
        cost_table,
        curves_table,
        energy_line,
        memory_line,
        runs_table,
    )

    show(runs_table([account.overview]))
    if account.record.zero_training is not None:
        say(before_training(account.record.zero_training))
    if not account.history:
        say("no epoch is finished, so there are no curves")
        return
    show(curves_table(chosen, account.history))
    show(cost_table(account.record, account.history))
    say(memory_line(account.history))
    say(energy_line(account.history))
    accuracy = account.record.accuracy
    if accuracy is not None:
        names = account.record.data.classes
        most = None if classes else WORST_CLASSES
        show(classes_table(names, accuracy, most))
        if len(names) > WORST_CLASSES and not classes:
            say(f"the {WORST_CLASSES} worst of {len(names)} classes; --classes shows all")
