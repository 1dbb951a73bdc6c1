"""docs/tutorial.md, whose commands run as they stand there: `python tests/tutorial.py PHOTOS` fills in what they say.

`PYTHONPATH=.:tests python tests/tutorial.py --keep tutorial PHOTOS`

PHOTOS is a folder with one sub-folder a class, as the tutorial has it. Without `--write` the text is printed, and the
file left as it is. Times in it are those of this machine, which should do nothing else meanwhile.
"""

from __future__ import annotations

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from effvit.cli.output import report_error, say
from effvit.errors import CheckFailedError

TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.md"
PHOTOS, NEW = "photos", "new.jpg"
_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
_PROMPT, _CODE = "$ ", re.compile(r"^\[exit code (\d)\]$", re.MULTILINE)
# Of what a command says at length, the beginning and the end are shown.
_MOST_LINES, _FIRST, _LAST = 36, 6, 28


@dataclass(frozen=True, slots=True)
class Step:
    """A command of the tutorial, its words after `effvit`, and the exit code that it ends with."""

    words: tuple[str, ...]
    code: int


def steps(text: str) -> list[Step]:
    """Return the commands of the tutorial in their order."""
    return [_step(block) for block in _BLOCK.findall(text)]


def prepare(photos: Path, folder: Path) -> None:
    """Put into `folder` what the tutorial begins with: the photos, and one that is to be recognised."""
    shutil.copytree(photos, folder / PHOTOS, dirs_exist_ok=True)
    first = min(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    shutil.copyfile(first, folder / NEW)


def run(step: Step, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder`; what it says is its stdout, all of it in the order in which it was said."""
    return subprocess.run(
        [sys.executable, "-m", "effvit.cli.main", *step.words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def filled(text: str, said: Iterator[str]) -> str:
    """Return the tutorial with what its commands `said`, one after the other."""
    return _BLOCK.sub(lambda block: _filled(block[0], next(said)), text)


def _step(block: str) -> Step:
    program, *words = shlex.split(_command(block))
    if program != "effvit":
        raise ValueError(f"a block begins with {program!r}, not with effvit")
    code = _CODE.search(block)
    return Step(tuple(words), int(code[1]) if code else 0)


def _command(block: str) -> str:
    """Return the first line, with those that a backslash joins to it."""
    first = block.replace("\\\n", "").partition("\n")[0]
    return first.removeprefix(_PROMPT)


def _filled(block: str, said: str) -> str:
    prompt = block[: re.search(r"(?<!\\)\n", block).end()]  # type: ignore[union-attr]  # a block ends with a line break
    lines = [line.rstrip() for line in said.strip("\n").splitlines()]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_FIRST], "...", *lines[-_LAST:]]
    code = _CODE.search(block)
    return prompt + "\n".join([*lines, *([code[0]] if code else [])]) + "\n"


def _said(text: str, folder: Path) -> Iterator[str]:
    for step in steps(text):
        say(f"effvit {shlex.join(step.words)}")
        ended = run(step, folder)
        if ended.returncode != step.code:
            raise CheckFailedError(
                f"it ended with {ended.returncode}, not {step.code}: {ended.stdout}",
                "mend the tutorial, or the command",
            )
        yield ended.stdout


def main() -> None:
    """Run the tutorial."""
    parser = argparse.ArgumentParser(description="Run the commands of docs/tutorial.md on a folder of photos.")
    parser.add_argument("photos", type=Path, help="a folder with one sub-folder a class")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="run in this folder, and keep it")
    parser.add_argument("--write", action="store_true", help="write what the commands say into docs/tutorial.md")
    arguments = parser.parse_args()
    text = TUTORIAL.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="effvit-") as temporary:
        folder = arguments.keep or Path(temporary)
        prepare(arguments.photos, folder)
        try:
            result = filled(text, _said(text, folder))
        except CheckFailedError as error:
            report_error(error)
            sys.exit(error.exit_code)
    if arguments.write:
        TUTORIAL.write_text(result, encoding="utf-8")
    else:
        print(result)


if __name__ == "__main__":
    main()
