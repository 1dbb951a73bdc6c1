"""The commands of docs/tutorial.md: that there are such commands, and, in the slow tier, that all of them run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import typer
from pictures import write_folder
from tutorial import TUTORIAL, Step, filled, prepare, run, steps

from effvit.cli.main import app

TEXT = TUTORIAL.read_text(encoding="utf-8")
STEPS = steps(TEXT)


def test_it_goes_from_photos_to_a_deployed_choice() -> None:
    commands = [step.words[0] for step in STEPS]
    assert commands[0] == "doctor"
    for command in ("data", "study", "recommend", "profile", "compare", "bundle", "predict"):
        assert command in commands
    assert all("/home" not in line and "/tmp" not in line for line in TEXT.splitlines())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: " ".join(step.words[:2]))
def test_every_command_is_one_that_there_is(step: Step) -> None:
    """Its options and the types of their values are what the command line takes; nothing runs."""
    command: Any = typer.main.get_command(app)
    context, words = typer.Context(command, info_name="effvit"), list(step.words)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
    command.make_context(name, words, parent=context)


def test_outputs_take_the_place_of_older_ones() -> None:
    text = "a\n```console\n$ effvit list \\\n    models\nold\n[exit code 4]\n```\nb\n```console\n$ effvit doctor\n```\n"
    assert steps(text) == [Step(("list", "models"), 4), Step(("doctor",), 0)]
    new = filled(text, iter(["one\ntwo  \n", "\n".join(map(str, range(40)))]))
    assert "$ effvit list \\\n    models\none\ntwo\n[exit code 4]\n```\nb\n" in new
    assert "\n5\n...\n12\n" in new
    assert new.startswith("a\n```console\n")
    assert filled(new, iter(["old", ""])).replace("\n\n", "\n") == text


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_every_command_runs_and_ends_as_the_tutorial_says(tmp_path: Path) -> None:
    """On photos of noise, which no model tells apart: what is chosen may differ, that something is may not."""
    photos = write_folder(tmp_path / "some", dict.fromkeys(("beach", "city", "forest", "mountain"), 24), "jpg")
    prepare(photos, tmp_path)
    for step in STEPS:
        ended = run(step, tmp_path)
        busy = ended.returncode == 4 and "unstable" in ended.stdout and step.words[0] in ("recommend", "compare")
        assert busy or ended.returncode == step.code, f"{step.words}: {ended.stdout}"
