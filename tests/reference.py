"""docs/reference.md, made from the command line's own words: `python tests/reference.py` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from effvit.cli.main import app

REFERENCE = Path(__file__).parents[1] / "docs/reference.md"
_BEGIN = """# Every command

Written by `make reference` from the command line itself; `effvit COMMAND --help` says the same.
"""


def reference_text() -> str:
    """Return every command with its arguments and options."""
    root: Any = typer.main.get_command(app)
    context = typer.Context(root, info_name="effvit")
    return "\n".join([_BEGIN, root.epilog, *_commands(root, context)]) + "\n"


def _commands(group: Any, parent: typer.Context) -> Iterator[str]:
    for name, command in group.commands.items():
        context = typer.Context(command, info_name=name, parent=parent)
        if hasattr(command, "commands"):
            yield from _commands(command, context)
            continue
        yield f"\n## {context.command_path}\n\n    {command.get_usage(context).removeprefix('Usage: ')}\n"
        yield f"{inspect.cleandoc(command.help or '')}\n"
        records = [parameter.get_help_record(context) for parameter in command.params]
        yield "| option | what it says |\n| --- | --- |"
        yield from (f"| `{_cell(flags)}` | {_cell(text)} |" for flags, text in filter(None, records))


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    REFERENCE.write_text(reference_text())
