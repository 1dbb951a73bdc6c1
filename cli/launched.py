"""How a command speaks where a launcher has started it in several processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import typer

from effvit.errors import DeviceMemoryError, EffvitError, PeerError, UsageError
from effvit.interruption import INTERRUPTED
from effvit.team import Place, launched_place

P = ParamSpec("P")
SAYING_S = 1.0
"""What the first process is given to say why: the launcher ends it as soon as another one has ended."""


def one_voice(command: Callable[P, None]) -> Callable[P, None]:
    """Let the first process speak for all, and the first of every machine say what has ended them all.

    Others say only what no other may know: that memory ran out, or that a process is gone.
    """

    @wraps(command)
    def spoken(*arguments: P.args, **options: P.kwargs) -> None:
        place = launched_place()
        if place.rank == 0:
            command(*arguments, **options)
            return
        try:
            with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                command(*arguments, **options)
        except EffvitError as error:
            if _to_be_said(error, place):
                raise
            time.sleep(SAYING_S)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as interruption:
            raise typer.Exit(INTERRUPTED) from interruption

    return spoken


def alone(command: Callable[P, None]) -> Callable[P, None]:
    """Refuse to run in several processes, which would measure one another and write the same files.

    Raises:
        UsageError: When called: a launcher has started more than one.
    """

    @wraps(command)
    def only_one(*arguments: P.args, **options: P.kwargs) -> None:
        processes = launched_place().size
        if processes > 1:
            raise UsageError(
                f"`effvit {command.__name__}` works in one process, and was started in {processes}",
                "start it without torchrun; `effvit finetune` is what trains in several",
            )
        command(*arguments, **options)

    return one_voice(only_one)


def _to_be_said(error: EffvitError, place: Place) -> bool:
    return place.local_rank == 0 or isinstance(error, PeerError | DeviceMemoryError)
