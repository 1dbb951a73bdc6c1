"""Result files: JSON lines, one outcome a line, each on disk before the next cell starts."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import msgspec

from effvit.accuracy import Accuracy, hits_add_up
from effvit.environment import Environment
from effvit.errors import ResultError, UsageError
from effvit.profiling.records import SCHEMA, CallWork, Cell, Outcome
from effvit.profiling.upgrades import REPAIR, upgraded
from effvit.storage import storage_errors

_DECODER = msgspec.json.Decoder(Outcome, strict=True)
_BLOCK_BYTES = 1 << 16
# More than any count of bytes, MACs or seconds, and less than any time: what lies beyond has overflown, or is to.
_MOST, _LEAST_S = 1e18, 1e-12
# The last one: brackets within brackets, thousands deep.
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class _Head(msgspec.Struct):
    """What every line of every schema has."""

    schema: str


def append(path: Path, outcome: Outcome) -> None:
    """Add `outcome` as one line and wait until it is on disk; missing folders and the file are made.

    A torn last line, left by a process that was killed while writing, is cut off before.

    Raises:
        ResultError: `path` holds something else, or `outcome` has values that JSON cannot carry (NaN, infinity).
        StorageError: The file cannot be written, or the disk is full.
    """
    line = encode(outcome)
    # Read back before it is written: a line that no reader accepts would make the whole file unusable.
    if decode(line, f"the outcome of {outcome.run}") != outcome:
        hint = "report this: a value has a type that the schema does not have"
        raise ResultError(f"the outcome of {outcome.run} does not read back as it was", hint)
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b") as file:
            separator = _close_last_line(file, path)
            file.write(separator + line + b"\n")
            file.flush()
            os.fsync(file.fileno())


def read(path: Path) -> list[Outcome]:
    """Return the outcomes of a result file, in the order in which their cells first appeared.

    A cell measured again in the same environment and run replaces its earlier outcome. A torn last line is dropped.

    Raises:
        ResultError: The file is missing, holds no outcome, or has a line that is not an outcome of this schema.
    """
    return latest(read_sittings(path))


def read_sittings(path: Path) -> list[Outcome]:
    """Return the outcomes of a result file line by line: all of them where a cell was measured more than once.

    Raises:
        ResultError: The file is missing, holds no outcome, or has a line that is not an outcome of this schema.
    """
    outcomes = _lines(path)
    if outcomes is None:
        raise ResultError(f"there is no result file {path}", "measure something first: effvit profile")
    if not outcomes:
        raise ResultError(f"{path} holds no outcomes", "run effvit profile again: it starts where it stopped")
    return outcomes


def read_finished(path: Path) -> list[Outcome]:
    """Return what `read` does, and nothing for a file that is missing or empty: a sweep that has not begun.

    Raises:
        ResultError: The file cannot be read, or has a line that is not an outcome of this schema.
    """
    return latest(_lines(path) or [])


def _lines(path: Path) -> list[Outcome] | None:
    """Return the outcomes of a file line by line, None where there is no file."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ResultError(f"{path} cannot be read: {error.strerror}", "name a file that you may read") from error
    lines = content.split(b"\n")
    if not _is_json(lines[-1]):
        lines.pop()
    numbered = enumerate(lines, start=1)
    return _identified([decode(line, f"{path}, line {number}") for number, line in numbered if line.strip()])


def _identified(outcomes: list[Outcome]) -> list[Outcome]:
    """Return outcomes of versions that did not know machines from others alike as those of the one that they fit.

    So a sweep that an older version began is one with what this version adds to it.
    """
    known = list(dict.fromkeys(one.environment for one in outcomes if one.environment.hardware is not None))
    fitting = {
        recorded: [one for one in known if one.includes(recorded)]
        for recorded in dict.fromkeys(one.environment for one in outcomes if one.environment.hardware is None)
    }
    return [
        replace(one, environment=fits[0]) if len(fits := fitting.get(one.environment, [])) == 1 else one
        for one in outcomes
    ]


def latest(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Return the last outcome of each cell, environment and run, where the first one stood."""
    kept: dict[tuple[Cell, Environment, str], Outcome] = {}
    for outcome in outcomes:
        kept[outcome.cell, outcome.environment, outcome.run] = outcome
    return list(kept.values())


def encode(outcome: Outcome) -> bytes:
    """Return `outcome` as one line of a result file, without its line break.

    Raises:
        ResultError: A name in it is not valid text; file names on Linux need not be.
    """
    try:
        return msgspec.json.encode(outcome)
    except UnicodeEncodeError as error:
        raise ResultError(f"{error.object!r} is not valid text", "rename the file or folder of that name") from error


def decode(line: bytes, where: str) -> Outcome:
    """Return the outcome that `line` holds, of this or an older schema; `where` names the line in errors.

    Raises:
        ResultError: The line is not JSON, has a newer or foreign schema, or a value of the wrong type.
    """
    try:
        head = msgspec.json.decode(line, type=_Head)
    except _NOT_JSON as error:
        raise ResultError(f"{where}: not a line of a result file: {error}", REPAIR) from error
    if head.schema != SCHEMA:
        line = upgraded(line, head.schema, where)
    try:
        outcome = _DECODER.decode(line)
    except (*_NOT_JSON, UsageError) as error:
        raise ResultError(f"{where}: {error}", REPAIR) from error
    _check(outcome, where)
    return outcome


def _check(outcome: Outcome, where: str) -> None:
    """Refuse what the types allow and no sweep writes; every statistic may rely on it."""
    if max(map(abs, _numbers(msgspec.to_builtins(outcome))), default=0) > _MOST:
        raise ResultError(f"{where}: a number is larger than {_MOST:g}", REPAIR)
    evidence = outcome.evidence
    if evidence is None:
        if outcome.status in ("ok", "unstable"):
            raise ResultError(f"{where}: the status is {outcome.status!r}, but there is no evidence", REPAIR)
        return
    samples = evidence.samples
    if not samples.seconds or len(samples.seconds) != len(samples.rounds):
        counts = f"{len(samples.seconds)} seconds for {len(samples.rounds)} rounds"
        raise ResultError(f"{where}: the samples have {counts}", REPAIR)
    if set(samples.rounds) <= set(samples.left_out):
        raise ResultError(f"{where}: all rounds are left out", REPAIR)
    if evidence.accuracy is not None and not _adds_up(evidence.accuracy):
        raise ResultError(f"{where}: the accuracy counts contradict one another", REPAIR)
    blocks = evidence.throughput.blocks
    if min(samples.seconds) < _LEAST_S or any(images < 1 or seconds < _LEAST_S for images, seconds in blocks):
        raise ResultError(f"{where}: a launch took no time", REPAIR)
    if evidence.work is not None and not _is_work(evidence.work):
        raise ResultError(f"{where}: a call has no image, or moves no byte", REPAIR)


def _numbers(value: object) -> Iterator[float]:
    """Yield every number in plain data."""
    if isinstance(value, dict):
        for one in value.values():
            yield from _numbers(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _numbers(one)
    elif isinstance(value, int | float):
        yield value


def _is_work(work: CallWork) -> bool:
    return work.images > 0 and (work.least_bytes is None or work.least_bytes > 0)


def _adds_up(accuracy: Accuracy) -> bool:
    """Return whether every count of hits lies within its count of images."""
    hits = (accuracy.top1_correct, accuracy.top5_correct or 0)
    if len(accuracy.class_images) != len(accuracy.class_top1) or not all(0 <= hit <= accuracy.images for hit in hits):
        return False
    classes = zip(accuracy.class_top1, accuracy.class_images, strict=True)
    return all(0 <= right <= images for right, images in classes) and hits_add_up(accuracy)


def _is_json(line: bytes) -> bool:
    """A line that lost its end is not JSON, because its closing brace is the last character."""
    try:
        msgspec.json.decode(line)
    except _NOT_JSON:
        return False
    return True


def _close_last_line(file: BinaryIO, path: Path) -> bytes:
    """Cut a torn last line off `file`; return what has to be written before the next one.

    Raises:
        ResultError: The file does not begin like a result file, so that nothing in it is ours to cut.
    """
    size_bytes = file.seek(0, os.SEEK_END)
    if size_bytes == 0:
        return b""
    file.seek(0)
    if file.read(1) != b"{":
        raise ResultError(f"{path} is not a result file", "name a new file, or one that effvit profile wrote")
    start = _start_of_last_line(file, size_bytes)
    file.seek(start)
    last = file.read()
    if not last:
        return b""
    if _is_json(last):
        return b"\n"
    file.truncate(start)
    return b""


def _start_of_last_line(file: BinaryIO, size_bytes: int) -> int:
    """Return the offset behind the last line break, found from the end: result files grow large."""
    end = size_bytes
    while end > 0:
        begin = max(0, end - _BLOCK_BYTES)
        file.seek(begin)
        found = file.read(end - begin).rfind(b"\n")
        if found >= 0:
            return begin + found + 1
        end = begin
    return 0
