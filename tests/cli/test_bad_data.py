"""Data that cannot be trained on, or not for long, through the command line: one sentence, and no state is lost."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import datasets
import psutil
import pyarrow
import pyarrow.parquet
import pytest
from command_line import Effvit, refused
from pictures import noise, write_folder
from PIL import Image

from effvit import hub
from effvit.cli.training import TrainingDisplay
from effvit.optimisation import Step
from effvit.run import open_run
from effvit.state import STATE

QUICK = ("finetune", "test_vit", "--weights", "none", "--res", "32", "--batch", "4", "--threads", "1", "--workers", "0")
ONCE = (*QUICK, "--epochs", "1")


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pets", {"train/cat": 4, "train/dog": 4, "val/cat": 1, "val/dog": 1})


def write_table(path: Path, labels: list[int]) -> Path:
    """Write a parquet file of the package `datasets` with two classes, and these labels."""
    cells = []
    for seed in range(len(labels)):
        stream = io.BytesIO()
        noise(seed=seed).save(stream, "PNG")
        cells.append({"bytes": stream.getvalue(), "path": None})
    features = datasets.Features(
        {"image": datasets.Image(), "animal": datasets.ClassLabel(names=["cat", "dog"])}
    ).arrow_schema
    pyarrow.parquet.write_table(pyarrow.table({"image": cells, "animal": labels}, schema=features), path)
    return path


def test_a_table_with_a_wrong_column_or_label(effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    datasets.disable_progress_bars()
    table = write_table(tmp_path / "a.parquet", [0, 1, 0, 5])
    refused(effvit(*ONCE, "--data", f"table:{table},label=anmal"), 2, "no column", "'anmal'", "did you mean animal?")
    refused(effvit(*ONCE, "--data", table), 2, "in row 3", "is 5, which is none of its 2 classes: cat, dog")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("option", ["--data", "--weights"])
def test_without_network_the_hub_is_said_not_to_answer(
    effvit: Effvit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setattr(hub, "_answers", lambda _url: False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    answer = effvit(*ONCE, option, "hf:nobody/nothing")
    refused(answer, 3, "hf:nobody/nothing", "not in the local cache", "connect to the internet once")


def odd(folder: Path) -> None:
    """Make every image of a class another that the web is full of."""
    upside_down = Image.Exif()
    upside_down[0x0112] = 3
    first, second, third, fourth = sorted(folder.glob("*.png"))
    Image.new("I;16", (24, 20), 40_000).save(first)
    noise().convert("CMYK").save(second.with_suffix(".jpg"))
    noise().save(third.with_suffix(".webp"), save_all=True, append_images=[noise(seed=1)])
    noise().save(fourth.with_suffix(".jpg"), exif=upside_down)
    for path in (second, third, fourth):
        path.unlink()


def test_images_of_any_kind_are_trained_on(effvit: Effvit, pets: Path) -> None:
    odd(pets / "train" / "cat")
    answer = effvit(*ONCE, "--data", pets, "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["data"]["train_images"] == 8


def test_an_empty_file_and_a_decompression_bomb_are_named(
    effvit: Effvit, pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "train" / "cat" / "0.png").write_bytes(b"")
    noise(60, 50).save(pets / "train" / "dog" / "1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2999)
    words = ("2 of 10 images", "cat/0.png (the file is empty)", "dog/1.png (more than 2999 pixels could be", "--skip")
    refused(effvit(*ONCE, "--data", pets), 2, *words)
    answer = effvit(*ONCE, "--data", pets, "--skip-corrupt", "--json")
    assert json.loads(answer.out)["data"]["train_images"] == 6


def test_a_class_that_has_no_held_out_images_is_named(effvit: Effvit, pets: Path) -> None:
    (pets / "val" / "dog" / "0.png").unlink()
    refused(effvit(*ONCE, "--data", pets), 2, "the class dog of the val part", "add images, or remove the class")


def test_a_head_of_fewer_classes_is_made_anew_and_said_so(effvit: Effvit, pets: Path, tmp_path: Path) -> None:
    assert effvit(*ONCE, "--data", pets, "--name", "two").code == 0
    more = write_folder(tmp_path / "more", {"cat": 3, "dog": 3, "emu": 3})
    answer = effvit("finetune", "--weights", "runs/two", *ONCE[1:2], *ONCE[4:], "--data", more, "--json")
    assert answer.code == 0, answer.err
    assert set(json.loads(answer.out)["weights"]["fresh"]) == {"head.weight", "head.bias"}
    assert "new: head.weight, head.bias" in answer.err
    taught = effvit(*ONCE, "--attn", "linformer", "--teacher", "two", "--data", more)
    refused(taught, 2, "the number of classes of the teacher two is 2, not 3")


@pytest.fixture
def second_epoch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Return a function that has something happen once, in the second epoch, after its first step."""

    def arrange(incident: Callable[[], None]) -> None:
        honest, incidents = TrainingDisplay.step, [incident]

        def step(self: TrainingDisplay, step: Step) -> None:
            honest(self, step)
            if (step.epoch, step.step) == (1, 1) and incidents:
                incidents.pop()()

        monkeypatch.setattr(TrainingDisplay, "step", step)

    return arrange


def test_a_file_that_vanishes_in_an_epoch_leaves_the_last_state(
    effvit: Effvit, pets: Path, monkeypatch: pytest.MonkeyPatch, second_epoch: Callable[[Callable[[], None]], None]
) -> None:
    monkeypatch.setattr("effvit.images.fits", lambda *_: False)  # as where there are too many to be kept in memory
    victims = [path for name in ("cat", "dog") for path in (pets / "train" / name).glob("*.png")]
    contents = {path: path.read_bytes() for path in victims}
    second_epoch(lambda: [path.unlink() for path in victims] and None)
    answer = effvit(*QUICK, "--epochs", "2", "--data", pets, "--name", "cut")
    refused(answer, 2, ".png cannot be used as an image: no such file or directory", "repair or remove the file")
    assert "go on with `effvit finetune --resume cut`" in answer.err
    require_going_on(effvit, lambda: [path.write_bytes(content) for path, content in contents.items()] and None)


def test_the_death_of_a_process_that_loads_images_leaves_the_last_state(
    effvit: Effvit, pets: Path, second_epoch: Callable[[Callable[[], None]], None]
) -> None:
    second_epoch(lambda: [child.kill() for child in psutil.Process().children()] and None)
    options = (*QUICK[:-1], "1", "--epochs", "3", "--data", pets, "--name", "cut")
    refused(effvit(*options), 2, "a process that loads images died", "use fewer --workers")
    require_going_on(effvit, lambda: None)


def require_going_on(effvit: Effvit, mend: Callable[[], None]) -> None:
    """Check that the run `cut` holds its first epoch and a state, and is finished once the cause is mended."""
    run = open_run(Path("runs/cut"))
    assert run.record.status == "failed"
    assert (len(run.history()), (run.folder / STATE).is_file()) == (1, True)
    mend()
    assert effvit("finetune", "--resume", "cut", "--workers", "0").code == 0
    assert open_run(run.folder).record.status == "done"
