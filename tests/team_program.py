"""What the processes of a team do in the tests: they are forked by a server that has imported everything already."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import Literal

import accelerate  # noqa: F401  # imported once, for all
import torch
from models_for_tests import digits
from training_program import request

from effvit.cli.main import main
from effvit.errors import DataError, EffvitError
from effvit.finetune import Finetuning, Listener, finetune
from effvit.optimisation import Step
from effvit.resume import resume
from effvit.run import RECORD, open_run
from effvit.team import Team, join_team

# Nothing is drawn at random but the order: several processes augment, drop and mix each in their own way.
UNDRAWN = {
    "batch": 5,
    "epochs": 2,
    "crop_scale": (1.0, 1.0),
    "horizontal_flip": 0.0,
    "auto_augment": None,
    "random_erasing": 0.0,
    "mixup": 0.0,
    "cutmix": 0.0,
    "drop_path": 0.0,
}
# 40 to learn from, and three batches of held-out ones for two processes. Here, so that they are loaded once.
IMAGES = digits(train=40, val=260)


def undrawn(**recipe: object) -> Finetuning:
    return request(**(UNDRAWN | recipe))


@dataclass(frozen=True, slots=True)
class Incident:
    """What happens to the process of this rank, at the second step of the second epoch."""

    rank: int
    kind: Literal["stop", "error", "death"]


class Watcher(Listener):
    """Lets an incident happen."""

    def __init__(self, incident: Incident, team: Team) -> None:
        self.incident, self.team = incident, team

    def step(self, step: Step) -> None:
        if self.team.rank != self.incident.rank or (step.epoch, step.step) != (1, 2):
            return
        if self.incident.kind == "stop":
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.incident.kind == "error":
            raise DataError("an image vanished", "restore it")
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def train_along(root: Path, asked: Finetuning, incident: Incident | None = None) -> None:
    """Begin the run `shared` in `root` as one of a team, or go on with it; what ends it goes to `root/RANK.err`."""
    with join_team("cpu") as team:
        listener = Listener() if incident is None else Watcher(incident, team)
        try:
            if (root / "shared" / RECORD).exists():
                resume(open_run(root / "shared"), Finetuning(()), IMAGES, listener=listener, team=team)
            else:
                finetune(asked, IMAGES, out=root, name="shared", listener=listener, team=team)
        except (EffvitError, KeyboardInterrupt) as error:
            (root / f"{team.rank}.err").write_text(f"{type(error).__name__}: {error}")


def use_command_line(root: Path, *arguments: str) -> None:
    """Run a command as one of a team; what it says goes to `root/RANK.err`, what it writes to `root/RANK.out`."""
    rank = os.environ["RANK"]
    sys.argv = ["effvit", *arguments]
    with (
        (root / f"{rank}.out").open("w") as out,
        (root / f"{rank}.err").open("w") as err,
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        main()


def launch(
    work: Callable[..., None], *arguments: object, size: int = 2, each: Sequence[tuple[object, ...]] = ()
) -> list[int | None]:
    """Run `work` in a team of `size` processes as torchrun would, and return their exit codes in order of rank.

    `each` holds further arguments by rank.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["team_program"])
    _start_server()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(size):
        own = each[rank] if each else ()
        process = context.Process(target=_work, args=(rank, size, port, work, (*arguments, *own)))
        process.start()
        processes.append(process)
    for process in processes:
        process.join()
    return [process.exitcode for process in processes]


def _start_server() -> None:
    """Start the server that forks, which before Python 3.12 finds only what the environment's path leads to."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
    forkserver.ensure_running()
    del os.environ["PYTHONPATH"]
    if before is not None:
        os.environ["PYTHONPATH"] = before


def _work(rank: int, size: int, port: int, work: Callable[..., None], arguments: tuple[object, ...]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    work(*arguments)
