"""What TensorRT says, kept rather than printed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt

NOTHING = "it does not say why"


class Messages:
    """Lines as TensorRT says them, `severity: text`, all but the verbose ones; `logger` adds to them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.logger = _logger(self.lines)

    @property
    def error(self) -> str:
        """The first error, which the later ones follow from."""
        errors = (line.partition(": ")[2] for line in self.lines if line.startswith(("error: ", "internal_error: ")))
        return next(errors, NOTHING)


@cache
def messages() -> Messages:
    """Return the messages of this process: parts of TensorRT talk to the first logger alone that it was given."""
    return Messages()


def _logger(lines: list[str]) -> trt.ILogger:
    import tensorrt as trt

    class Keeping(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity != trt.ILogger.Severity.VERBOSE:  # a line for every kernel that is tried
                lines.append(f"{severity.name.lower()}: {msg}")

    return Keeping()
