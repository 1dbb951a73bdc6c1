"""The command line's entry, and the only place where an error becomes an exit code."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import typer

from effvit import __version__
from effvit.cli import (
    cmd_agent,
    cmd_attention,
    cmd_bundle,
    cmd_compare,
    cmd_data,
    cmd_diff,
    cmd_doctor,
    cmd_evaluate,
    cmd_export,
    cmd_finetune,
    cmd_fit,
    cmd_inspect,
    cmd_list,
    cmd_predict,
    cmd_profile,
    cmd_recommend,
    cmd_refit,
    cmd_report,
    cmd_runs,
    cmd_schema,
    cmd_study,
)
from effvit.cli.output import discard_stdout, report_error, say, write
from effvit.errors import EffvitError, UsageError
from effvit.interruption import INTERRUPTED, second_ends_at_once

app = typer.Typer(
    name="effvit",
    help="Tells which attention mechanism to ship: swaps the attention of a Vision Transformer, fine-tunes, exports, "
    "verifies and profiles it on this machine, and reports what each mechanism costs and gains.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 missing software, weights or device, 4 a check failed, "
    "5 some cells failed.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # formatting help with rich takes longer than everything else that help needs
    context_settings={"max_content_width": 100},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        write(f"effvit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="print the version"),
) -> None:
    """Take the options before a command's name."""
    import logging

    # These narrate retries and resampling; what matters of it is raised or recorded by us.
    for noisy in ("huggingface_hub", "timm", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)


# The summaries of `effvit --help`: what fits a line of 80 characters.
app.command("doctor", short_help="say what this machine can run")(cmd_doctor.doctor)
app.command("list", short_help="list attention variants, backends, metrics, data or models")(cmd_list.list_names)
app.add_typer(cmd_data.app, name="data", short_help="find damaged, odd and repeated images")
app.command("attention", short_help="show what attention variants are and promise on paper")(cmd_attention.attention)
app.command("finetune", short_help="swap the attention of a model and fine-tune it")(cmd_finetune.finetune)
app.add_typer(cmd_runs.app, name="runs", short_help="list runs, and show the curves of one")
app.command("evaluate", short_help="measure accuracy through any backend")(cmd_evaluate.evaluate)
app.command("export", short_help="write ONNX graphs and TensorRT engines, verified")(cmd_export.export)
app.command("refit", short_help="put a run's weights into a TensorRT engine")(cmd_refit.refit)
app.command("inspect", short_help="show what a graph or an engine is made of")(cmd_inspect.inspect)
app.command("diff", short_help="find the block where two graphs of a model part")(cmd_diff.diff)
app.command("bundle", short_help="take a verified graph away, with all it needs")(cmd_bundle.bundle)
app.command("predict", short_help="classify images with a bundle")(cmd_predict.predict)
app.command("profile", short_help="measure latency, throughput, memory, accuracy")(cmd_profile.profile)
app.add_typer(cmd_agent.app, name="agent", short_help="measure on machines without PyTorch")
app.command("report", short_help="turn result files into tables, figures, HTML")(cmd_report.report)
app.command("recommend", short_help="say what to ship under constraints")(cmd_recommend.recommend)
app.command("compare", short_help="hold result files against a baseline, as a gate")(cmd_compare.compare)
app.command("fit", short_help="predict what fits a device")(cmd_fit.fit)
app.command("study", short_help="all of it, for all variants, under equal conditions")(cmd_study.study)
app.command("schema", short_help="write the JSON schema of result files")(cmd_schema.schema)


def main() -> None:
    """Run the command line; errors a user can cause end in one sentence and their exit code.

    So does the first Ctrl-C. A second one ends the process, with which its workers end.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # what ONNX Runtime tells its makers otherwise, by itself
    with second_ends_at_once():
        code = _exit_code(sys.argv[1:] or ["--help"])
    sys.exit(code)


def _exit_code(arguments: Sequence[str]) -> int:
    try:
        return _run(arguments)
    except EffvitError as error:
        report_error(error)
        return error.exit_code
    except KeyboardInterrupt as interruption:
        say(str(interruption) or "interrupted; what was finished is on disk")
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `effvit list models | head`
        discard_stdout()
        return 0


def _run(arguments: Sequence[str]) -> int:
    """Run one command and return the exit code that it asked for.

    Typer's own entry is passed by: it ends on Ctrl-C without a word, and its errors have no hint.

    Raises:
        UsageError: There is no such command or option, or a value is of the wrong type.
        EffvitError: Whatever the command raises.
    """
    command = typer.main.get_command(app)
    try:
        with command.make_context("effvit", list(arguments)) as context:
            command.invoke(context)
    except typer.Exit as done:
        return done.exit_code
    except typer.TyperException as error:
        raise _usage_error(error) from error
    return 0


def _usage_error(error: typer.TyperException) -> UsageError:
    """Return the parser's complaint about the command line in our words and form."""
    context = getattr(error, "ctx", None)
    hint = f"see `{context.command_path if context else 'effvit'} --help`"
    message = " ".join(error.format_message().split()).rstrip(".")
    message = re.sub(r"Invalid value for '(.+?)': Input should be (.+?)(, unable .*)?$", r"\1 must be \2", message)
    message = message.replace("Value error, ", "")
    # The parser's own suggestions stand inside the sentence.
    asked = re.match(r"(.+?)[. ]+(?:Did you mean |\(Possible options: )(.+?)[?)]*$", message)
    if asked is not None:
        message, hint = asked[1], f"did you mean {asked[2].replace(chr(39), '').replace(', ', ' or ')}?"
    return UsageError(message[0].lower() + message[1:], hint)


if __name__ == "__main__":
    main()
