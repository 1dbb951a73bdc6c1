"""The agent's command line: it measures kits on machines that have neither PyTorch nor effvit."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from effvit import __version__
from effvit.environment import package_version
from effvit.errors import EffvitError, UnavailableError

RESULTS = "results.jsonl"
INTERRUPTED = 130
PACKAGES = ("numpy", "onnxruntime", "openvino")


def main(code: str, arguments: Sequence[str] | None = None) -> int:
    """Run one command of the agent, whose code has the hash `code`, and return its exit code."""
    asked = _parser(code).parse_args(arguments)
    try:
        if asked.command == "facts":
            print(json.dumps(facts(code)))
        else:
            _run(code, asked)
    except EffvitError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"\nhint: {error.hint}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted; what was finished is on disk, and the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    return 0


def facts(code: str) -> dict[str, object]:
    """Return what can be known of this machine without numpy: versions, None for what is not installed."""
    return {
        "code": code,
        "python": platform.python_version(),
        "packages": {name: package_version(name) for name in PACKAGES},
    }


def _parser(code: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="effvit-agent", description="Measures the cells of a kit on this machine.")
    parser.add_argument("--version", action="version", version=f"effvit {__version__}, code {code}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("facts", help="tell what is installed here, as JSON")
    run = commands.add_parser("run", help="measure a kit; started again, it goes on where it stopped")
    run.add_argument("kit", type=Path, metavar="KIT", help="folder that `effvit agent pack` wrote")
    run.add_argument("--out", type=Path, metavar="FILE", help=f"result file [default: {RESULTS} in the kit]")
    run.add_argument("--blobs", type=Path, metavar="FOLDER", help="where the kit's files lie [default: in it]")
    run.add_argument("--retry-failed", action="store_true", help="measure cells again that failed before")
    return parser


def _run(code: str, asked: argparse.Namespace) -> None:
    try:
        import numpy  # noqa: F401
    except ImportError as error:
        raise UnavailableError(f"numpy cannot be imported: {error}", "python3 -m pip install numpy") from error
    from effvit.profiling.agent.kit import BLOBS, open_kit
    from effvit.profiling.agent.measuring import measure_kit

    # Whoever ends the agent politely finds the pixels' folder removed, and workers ended.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    blobs = asked.blobs or asked.kit / BLOBS
    kit = open_kit(asked.kit, blobs, code)
    measure_kit(kit, asked.kit, blobs, asked.out or asked.kit / RESULTS, _say, retry_failed=asked.retry_failed)


def _say(line: str) -> None:
    try:
        print(line, flush=True)
    except BrokenPipeError:  # nobody listens any more: measuring goes on, and outcomes are on disk
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
