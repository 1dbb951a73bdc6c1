"""The agent's command line: it measures kits on machines that have neither PyTorch nor effvit."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from effvit import __version__
from effvit.environment import capture_environment, package_version
from effvit.errors import EffvitError, UnavailableError, UsageError
from effvit.hardware import machine_name
from effvit.profiling.agent.detached import ENDED, Ended, follow, is_running, start, stop, write_end
from effvit.profiling.board import BoardMeter
from effvit.storage import storage_errors

RESULTS = "results.jsonl"
INTERRUPTED = 130
PACKAGES = ("numpy", "onnxruntime", "openvino")


def main(code: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command of the agent, whose code has the hash `code`, and return its exit code."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # a device is asked for nothing but numbers
    asked = _parser(code).parse_args(arguments)
    ended = _carried_out(code, asked)
    # Where the disk is full, neither may find a place; who follows sees that it is.
    if asked.command == "run" and asked.ended is not None:
        with suppress(OSError):
            write_end(asked.ended, ended)
    with suppress(OSError):
        if ended.message:
            print(f"error: {ended.message}", file=sys.stderr)
        if ended.hint:
            print(f"\nhint: {ended.hint}", file=sys.stderr)
    return ended.code


def _carried_out(code: str, asked: argparse.Namespace) -> Ended:
    try:
        if asked.command == "facts":
            print(json.dumps(facts(code)))
        elif asked.command == "run":
            _run(code, asked)
        elif asked.command == "survey":
            _survey(asked)
        elif asked.command == "start":
            _start(asked)
        elif asked.command == "follow":
            with suppress(BrokenPipeError):  # nobody listens any more
                follow(asked.kit, _print)
        else:
            stop(asked.kit)
    except EffvitError as error:
        return Ended(error.exit_code, error.message, error.hint)
    except KeyboardInterrupt:
        return Ended(INTERRUPTED, "interrupted; what was finished is on disk", "the same command goes on from there")
    return Ended(0)


def facts(code: str) -> dict[str, object]:
    """Return what can be known of this machine without numpy: versions, None for what is not installed.

    `board` is what its sensors tell now.
    """
    return {
        "code": code,
        "python": platform.python_version(),
        "packages": {package: package_version(package) for package in PACKAGES},
        "environment": asdict(capture_environment()),
        "board": asdict(BoardMeter().conditions()),
    }


def _parser(code: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="effvit-agent", description="Measures the cells of a kit on this machine.")
    parser.add_argument("--version", action="version", version=f"effvit {__version__}, code {code}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("facts", help="tell what is installed here, as JSON")
    surveyed = commands.add_parser("survey", help="measure what this machine can do, and tell it as JSON")
    surveyed.add_argument("--threads", type=int, metavar="N", help="with so many threads [default: every usable core]")
    surveyed.add_argument("--backend", action="append", default=[], metavar="NAME", help="and what this runtime takes")
    run = commands.add_parser("run", help="measure a kit; started again, it goes on where it stopped")
    run.add_argument("kit", type=Path, metavar="KIT", help="folder that `effvit agent pack` wrote")
    run.add_argument("--out", type=Path, metavar="FILE", help=f"result file [default: {RESULTS} in the kit]")
    run.add_argument("--blobs", type=Path, metavar="FOLDER", help="where the kit's files lie [default: in it]")
    run.add_argument("--ended", type=Path, metavar="FILE", help="where to write how it ended")
    started = commands.add_parser("start", help="measure a kit in the background, unless that goes on already")
    started.add_argument("--blobs", type=Path, metavar="FOLDER", required=True, help="where the kit's files lie")
    followed = commands.add_parser("follow", help="tell what an agent in the background does, until it ends")
    stopped = commands.add_parser("stop", help="end an agent in the background")
    for command in (run, started):
        command.add_argument("--retry-failed", action="store_true", help="measure cells again that failed before")
        command.add_argument(
            "--allow-fallback",
            action="store_true",
            help="take runtimes that do something else than they were asked for",
        )
        command.add_argument("--name", default="", help="what to call this machine, to tell it from others alike")
    for command in (started, followed, stopped):
        command.add_argument("kit", type=Path, metavar="KIT", help="folder of the kit")
    return parser


def _survey(asked: argparse.Namespace) -> None:
    _require_numpy()
    import msgspec

    from effvit.profiling.survey import survey

    _say(msgspec.json.encode(survey(asked.threads, asked.backend, lambda _: None)).decode())


def _require_numpy() -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"numpy cannot be imported: {error}", "python3 -m pip install numpy") from error


def _run(code: str, asked: argparse.Namespace) -> None:
    name = machine_name(asked.name) if asked.name else ""
    _require_numpy()
    from effvit.profiling.agent.kit import BLOBS, open_kit
    from effvit.profiling.agent.measuring import Allowed, measure_kit

    # Whoever ends the agent politely finds the pixels' folder removed, and workers ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    blobs = asked.blobs or asked.kit / BLOBS
    kit = open_kit(asked.kit, blobs, code)
    allowed = Allowed(retry_failed=asked.retry_failed, fallback=asked.allow_fallback)
    measure_kit(kit, asked.kit, blobs, asked.out or asked.kit / RESULTS, _say, allowed, name)


def _start(asked: argparse.Namespace) -> None:
    folder = asked.kit.resolve()
    for other in folder.parent.iterdir():
        if other != folder and is_running(other):
            raise UsageError(
                f"another kit, {other.name}, is being measured on this machine, perhaps by an agent of another version",
                "wait for it, or end it and remove it with `effvit agent clean`",
            )
    command = [sys.executable, str(Path(sys.argv[0]).resolve()), "run", str(folder)]
    command += ["--blobs", str(asked.blobs.resolve()), "--ended", str(folder / ENDED)]
    command += ["--retry-failed"] * asked.retry_failed + ["--allow-fallback"] * asked.allow_fallback
    command += ["--name", asked.name] if asked.name else []
    start(folder, command)


def _say(line: str) -> None:
    """Tell of the measuring, which goes on where nobody listens any more: outcomes are on disk.

    Raises:
        StorageError: The disk behind stdout is full.
    """
    with storage_errors(Path("what the agent tells")), suppress(BrokenPipeError):
        _print(line)


def _print(line: str) -> None:
    try:
        print(line, flush=True)
    except OSError:
        # What is still buffered goes nowhere, or the interpreter tries to write it again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise
