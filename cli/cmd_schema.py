"""`effvit schema`: what a line of a result file holds."""

from __future__ import annotations

from effvit.cli.output import write_json


def schema() -> None:
    """Write the JSON schema of a result file's lines: one outcome a line, in SI units and plain counts.

    A result file is a text of such lines (JSON Lines). The schema is of draft 2020-12, for validators and for programs
    that read or make such files.
    """
    from effvit.profiling.schema import schema_text

    write_json(schema_text())
