"""Every error a user can cause.

EffvitError
├── UsageError                  a value that clashes with another, or with what is supported
│   ├── UnknownNameError        a name nobody registered; carries the closest ones
│   ├── UnsupportedError        a valid request that this model, variant or runtime cannot serve
│   │   └── DeviceMemoryError   a device has too little memory for it
│   ├── DataError               images, folders, labels
│   ├── CheckpointError         weights and run folders
│   ├── ResultError             result files
│   ├── ArtifactError           graphs and engines
│   └── StorageError            a folder that cannot be written, a full disk
├── UnavailableError            missing software, weights or device
│   ├── BackendUnavailableError
│   ├── LackingError            a runtime, a processor or the data lack what a valid request takes
│   └── PeerError               another process of the same training has ended
├── CheckFailedError            something was made and is not what was asked for
│   ├── ExportError             carries the stage that failed
│   ├── FallbackError           a runtime does something else than it was asked for
│   ├── MismatchError           an artifact disagrees with the PyTorch model
│   ├── ChangedFileError        a file is not the one that was recorded
│   ├── DamagedArtifactError    a graph or an engine is torn, or none at all
│   ├── RegressionError         cells became worse than a limit allows
│   └── ConstraintError         nothing measured satisfies what is asked for
└── CellsFailedError            a sweep went through, but not every cell was measured
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

MOST_LISTED = 20
"""Names a hint lists in full; timm alone has more than a thousand models."""


class EffvitError(Exception):
    """One sentence that names the values that clash, and one imperative hint."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[object, ...]:
        """Survive the way between processes.

        Unpickling an exception calls its constructor with the message alone, which the constructors below reject.
        """
        return _restore, (type(self), self.args, self.__dict__)


def _restore(kind: type[EffvitError], args: tuple[object, ...], state: dict[str, object]) -> EffvitError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(EffvitError):
    """The request itself is wrong."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that nothing is registered under."""

    def __init__(self, what: str, name: str, known: Iterable[str]) -> None:
        names = sorted(known)
        closest = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        message = f"there is no {what} named {name!r}"
        hint = f"choose one of: {', '.join(names)}"
        if closest:
            hint = f"did you mean {' or '.join(closest)}?"
        elif len(names) > MOST_LISTED:
            hint = f"check the spelling: none of the {len(names)} known names is close"
        super().__init__(message, hint)
        self.closest = tuple(closest)


class UnsupportedError(UsageError):
    """A valid request that this model, variant or runtime cannot serve; a sweep skips the cell."""


class DeviceMemoryError(UnsupportedError):
    """A request that needs more memory than the device has."""


class DataError(UsageError):
    """Images, folders or labels that cannot be used."""


class CheckpointError(UsageError):
    """Weights or a run folder that cannot be used."""


class ResultError(UsageError):
    """A result file that cannot be used."""


class ArtifactError(UsageError):
    """A graph or an engine that is not there, or not what a command takes."""


class StorageError(UsageError):
    """A folder that cannot be written, or a disk that is full."""


class UnavailableError(EffvitError):
    """Software, weights or a device that is not on this machine."""

    exit_code = 3


class BackendUnavailableError(UnavailableError):
    """A runtime that is not on this machine; skipped in a sweep, an error when asked for by name."""


class LackingError(UnavailableError):
    """A valid request that takes a type, instructions or images that are not there; a sweep skips the cell."""


class PeerError(UnavailableError):
    """Another process of the same training has ended."""


class CheckFailedError(EffvitError):
    """Something was made and is not what was asked for."""

    exit_code = 4


class ExportError(CheckFailedError):
    """An artifact could not be made."""

    def __init__(self, stage: str, message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.stage = stage


class FallbackError(CheckFailedError):
    """A runtime does something else than it was asked for."""


class MismatchError(CheckFailedError):
    """An artifact disagrees with the PyTorch model it was made from."""

    def __init__(self, message: str, hint: str = "", *, max_abs: float, cosine: float, agreement: float) -> None:
        super().__init__(message, hint)
        self.max_abs = max_abs
        self.cosine = cosine
        self.agreement = agreement


class ChangedFileError(CheckFailedError):
    """A file is not the one that was recorded: it is missing, or its content is another."""


class DamagedArtifactError(CheckFailedError):
    """A file that was to be a graph, an engine or a bundle and breaks off, misses a part, or is none at all."""


class RegressionError(CheckFailedError):
    """Cells of a result file became worse than a limit allows, or fail that were measured before."""


class ConstraintError(CheckFailedError):
    """Nothing that was measured satisfies the constraints."""


class CellsFailedError(EffvitError):
    """A sweep went through, but not every cell was measured."""

    exit_code = 5


def first_line(error: Exception) -> str:
    """Return what another library's error says, as far as it fits into a sentence of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
