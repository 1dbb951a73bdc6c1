"""A command line that is called in this process, and one small run for all of its tests."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from command_line import Answer, Effvit
from pictures import write_folder

from effvit.cli.main import main


@pytest.fixture
def effvit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Effvit:
    """Return a function that runs `effvit ARGUMENTS` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["effvit", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        assert isinstance(exit_.value.code, int)
        return Answer(exit_.value.code, out, err)

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `pictures/` of two classes and `runs/lin`, fine-tuned on them for an epoch."""
    from effvit.data.base import load_data
    from effvit.finetune import Finetuning, finetune
    from effvit.spec import Swap

    root = tmp_path_factory.mktemp("trained")
    data = load_data(str(write_folder(root / "pictures", {"cat": 6, "dog": 6})))
    request = Finetuning(
        (Swap("linformer"),),
        model="test_vit",
        weights="none",
        resolution=(32, 32),
        recipe={"epochs": 1, "batch": 4},
        threads=1,
        workers=0,
    )
    finetune(request, data, out=root / "runs", name="lin")
    return root


@pytest.fixture
def runs(trained: Path, tmp_path: Path) -> Path:
    """Return a copy of the run's folder, to be damaged."""
    return Path(shutil.copytree(trained / "runs", tmp_path / "runs"))
