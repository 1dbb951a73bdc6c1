"""What a node of a cluster does: it tells what it has, and measures a part of a sweep as an agent does. No Ray."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from effvit import __version__
from effvit.environment import capture_environment, usable_cores
from effvit.errors import EffvitError
from effvit.export.base import backends
from effvit.profiling.agent.archive import code_digest
from effvit.profiling.agent.detached import Ended
from effvit.profiling.agent.kit import BLOBS, KIT, open_kit
from effvit.profiling.agent.measuring import Allowed, measure_kit
from effvit.profiling.cluster.nodes import NodeFacts
from effvit.profiling.results import encode, read_finished
from effvit.profiling.scratch import ScratchFolder
from effvit.storage import storage_errors

RESULTS = "results.jsonl"


@dataclass(frozen=True, slots=True)
class Worked:
    """What came of a part: its outcomes, each a line of a result file, and how measuring it ended."""

    lines: tuple[bytes, ...]
    ended: Ended


def facts_here() -> NodeFacts:
    """Return what can be told of this machine; engines are not carried between machines, so theirs are no runtimes."""
    _set_priority()
    fitting = [one for one in backends().values() if not (one.device_bound or one.slow_to_open)]
    return NodeFacts(
        version=__version__,
        code=code_digest(),
        environment=capture_environment(usable_cores()),
        runtimes=tuple(one.name for one in fitting if one.unavailable() is None),
        niceness=os.getpriority(os.PRIO_PROCESS, 0),
    )


def measure_here(kit: bytes, blobs: Sequence[str], content: Callable[[str], bytes], allowed: Allowed) -> Worked:
    """Measure a kit on this machine; `content` returns what belongs into the file of each name in `blobs`.

    Nothing of it stays here: files lie in a temporary folder, and outcomes go back.
    """
    _set_priority()
    scratch = ScratchFolder()
    results = scratch.path / RESULTS
    try:
        ended = _measured(kit, blobs, content, allowed, scratch.path)
        return Worked(tuple(encode(outcome) for outcome in read_finished(results)), ended)
    finally:
        scratch.remove()


def _measured(
    kit: bytes, blobs: Sequence[str], content: Callable[[str], bytes], allowed: Allowed, folder: Path
) -> Ended:
    try:
        with storage_errors(folder):
            (folder / BLOBS).mkdir()
            (folder / KIT).write_bytes(kit)
            for name in blobs:
                (folder / BLOBS / name).write_bytes(content(name))
        opened = open_kit(folder, folder / BLOBS, code_digest())
        measure_kit(opened, folder, folder / BLOBS, folder / RESULTS, _unheard, allowed)
    except EffvitError as error:
        return Ended(error.exit_code, error.message, error.hint)
    return Ended(0)


def _set_priority() -> None:
    """Let what this process starts wait for no other: Ray runs tasks at niceness 15, and only some may change that."""
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, min(0, os.getpriority(os.PRIO_PROCESS, 0)))


def _unheard(event: str) -> None:
    """Take an event that nobody listens to: outcomes are read from the file."""
