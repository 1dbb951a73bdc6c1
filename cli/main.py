"""The command line's entry, and the only place where an error becomes an exit code."""

from __future__ import annotations

import logging
import sys

import typer

from effvit import __version__
from effvit.cli import cmd_doctor, cmd_evaluate, cmd_export, cmd_finetune, cmd_list, cmd_profile, cmd_report, cmd_study
from effvit.cli.output import report_error, say
from effvit.errors import EffvitError

INTERRUPTED = 130

app = typer.Typer(
    name="effvit",
    help="Tells which attention mechanism to ship: swaps the attention of a Vision Transformer, fine-tunes, exports, "
    "verifies and profiles it on this machine, and reports what each mechanism costs and gains.",
    epilog="Exit codes: 0 done, 2 wrong usage, 3 missing software, weights or device, 4 a check failed, "
    "5 some cells failed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"effvit {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="print the version"),
) -> None:
    """Take the options before a command's name."""


app.command("doctor")(cmd_doctor.doctor)
app.command("list")(cmd_list.list_names)
app.command("finetune")(cmd_finetune.finetune)
app.command("evaluate")(cmd_evaluate.evaluate)
app.command("export")(cmd_export.export)
app.command("profile")(cmd_profile.profile)
app.command("report")(cmd_report.report)
app.command("study")(cmd_study.study)


def main() -> None:
    """Run the command line; errors a user can cause end in one sentence and their exit code."""
    # These narrate retries and resampling; what matters of it is raised or recorded by us.
    for noisy in ("huggingface_hub", "timm", "httpx"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    try:
        app()
    except EffvitError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        say("interrupted; what was finished is on disk")
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # the reader of our output has gone, as in `effvit list models | head`
        sys.stderr.close()
        sys.exit(0)


if __name__ == "__main__":
    main()
