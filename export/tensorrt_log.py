"""What TensorRT says, kept rather than printed."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tensorrt as trt

NOTHING = "it does not say why"
MOST_ERRORS = 3


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


def refused_nodes(parser: trt.OnnxParser | trt.OnnxParserRefitter, log: Messages) -> str:
    """Return which nodes a parser refuses and why, the first of them; what TensorRT said where it names none."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    named = [f"{error.node_operator()} node {error.node_name()}: {error.desc()}" for error in errors[:MOST_ERRORS]]
    if len(errors) > MOST_ERRORS:
        named.append(f"and {len(errors) - MOST_ERRORS} more")
    return "; ".join(named) or log.error


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
