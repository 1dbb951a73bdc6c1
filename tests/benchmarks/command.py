"""How a benchmark is run as a command."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from effvit.cli.output import report_error
from effvit.errors import EffvitError


def run_command(parser: argparse.ArgumentParser, run: Callable[[argparse.Namespace], None]) -> None:
    """Run a benchmark with its arguments; errors a user can cause end in one sentence and their exit code."""
    arguments = parser.parse_args()
    try:
        run(arguments)
    except EffvitError as error:
        report_error(error)
        sys.exit(error.exit_code)


@contextmanager
def kept(folder: Path | None) -> Iterator[Path]:
    """Yield the folder that a benchmark keeps its models and samples in, or one for this time alone."""
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="effvit-") as temporary:
        yield Path(temporary)
