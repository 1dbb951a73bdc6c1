"""Runs that are listed, shown, cut short and gone on with from the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import Effvit, refused
from models_for_tests import record_of

from effvit.accuracy import Accuracy
from effvit.cli import cmd_runs
from effvit.cli.curves import LEVELS, duration, sparkline
from effvit.data.base import load_data
from effvit.finetune import Finetuning, Listener, finetune
from effvit.mix import parse_mix
from effvit.optimisation import Step
from effvit.run import RECORD, ZeroTraining, create_run, open_run
from effvit.spec import Cost
from effvit.state import STATE


class Cut(Listener):
    """Cuts a training short at its second step."""

    def step(self, step: Step) -> None:
        if step.step == 2:
            raise KeyboardInterrupt


@pytest.fixture
def cut(trained: Path, tmp_path: Path) -> Path:
    """Return the folder of a run on the pictures that was cut short, in `runs`."""
    request = Finetuning(
        parse_mix("softmax"),
        model="test_vit",
        weights="none",
        resolution=(32, 32),
        recipe={"epochs": 2, "batch": 4},
        threads=1,
        workers=0,
        save_every_s=0,
    )
    with pytest.raises(KeyboardInterrupt):
        finetune(request, load_data(str(trained / "pictures")), out=tmp_path / "runs", name="cut", listener=Cut())
    return tmp_path / "runs" / "cut"


def test_runs_are_listed_with_what_became_of_them(effvit: Effvit, runs: Path) -> None:
    create_run(runs, "old", record_of("performer", started="2020-01-01T00:00:00+00:00"))
    torn = create_run(runs, "torn", record_of())
    (torn.folder / RECORD).write_bytes(b"{")
    answer = effvit("runs")
    assert answer.code == 0
    header, *rows = answer.out.splitlines()
    assert header.split() == ["run", "model", "px", "attention", "data", "epochs", "top-1", "time", "status"]
    assert rows[0].split()[:5] == ["old", "test_vit", "64", "performer", "digits"]
    assert rows[0].rstrip().endswith("killed")
    assert "lin" in rows[1]
    assert "1 of 1" in rows[1]
    assert rows[1].rstrip().endswith("done")
    assert "torn: " in answer.err
    listed = json.loads(effvit("runs", "--json").out)
    assert [run["name"] for run in listed] == ["old", "lin", "torn"]
    assert listed[1]["top1"] == open_run(runs / "lin").record.best.top1  # type: ignore[union-attr]


def test_no_runs_are_no_error(effvit: Effvit) -> None:
    answer = effvit("runs")
    assert (answer.code, answer.out) == (0, "")
    assert "there is no run in runs" in answer.err
    assert json.loads(effvit("runs", "--json").out) == []


def test_the_curves_of_a_run_are_shown(effvit: Effvit, runs: Path) -> None:
    run = open_run(runs / "lin")
    best = run.record.best
    assert best is not None
    run.append_epoch(replace(best, epoch=2, top1=0.0, train_loss=0.125))
    for answer in (effvit("runs", "show", "lin"), effvit("runs", "show")):
        assert answer.code == 0
        assert "epochs 1 to 2" in answer.out
        (loss,) = [line for line in answer.out.splitlines() if line.startswith("training loss")]
        assert loss.split()[2:] == ["█▁", f"{best.train_loss:.3f}", "0.125", f"{best.train_loss:.3f}"]
        assert "top-5" not in answer.out  # two classes have none
    shown = json.loads(effvit("runs", "show", "lin", "--json").out)
    assert [epoch["epoch"] for epoch in shown["history"]] == [1, 2]
    assert shown["record"]["spec"]["backbone"] == "test_vit"


def test_a_run_that_is_not_there_or_damaged_is_one_sentence(effvit: Effvit, runs: Path) -> None:
    refused(effvit("runs", "show", "lim"), 2, "there is no run named 'lim'", "did you mean lin?")
    refused(effvit("runs", "show", "--runs", "nowhere"), 2, "no finished run in nowhere", "effvit finetune")
    (runs / "lin" / RECORD).write_bytes(b"{")
    refused(effvit("runs", "show", "lin"), 2, "run.json is damaged", "remove")


def test_a_run_is_gone_on_with(effvit: Effvit, cut: Path) -> None:
    assert "go on with `effvit finetune --resume cut`" in effvit("runs").err
    answer = effvit("finetune", "--resume", "--json")
    assert answer.code == 0
    assert "cut goes on after 0 epochs and 2 steps of the next" in answer.err
    assert json.loads(answer.out)["status"] == "done"
    assert not (cut / STATE).exists()
    refused(effvit("finetune", "--resume", "cut"), 2, "the run cut is finished", "--weights")
    refused(effvit("finetune", "--resume"), 2, "there is no unfinished run in runs", "effvit finetune")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "3"), "the run cut was begun with epochs 2, not 3"),
        (("--attn", "linformer"), "the run cut was begun with the attention softmax, not linformer"),
        (("--res", "64"), "the run cut was begun with the image size 32 x 32 px, not 64 x 64 px"),
        (("--data", "digits"), "the images of digits are not those that the run cut was begun with"),
        (("--name", "other"), "the run cut cannot go on as other"),
        (("--layers", "1"), "--attn-option and --layers say nothing without --attn"),
    ],
)
def test_other_settings_are_one_sentence(arguments: tuple[str, ...], message: str, effvit: Effvit, cut: Path) -> None:
    refused(effvit("finetune", "--resume", "cut", *arguments), 2, message, "")
    assert open_run(cut).record.status == "interrupted"


def test_a_vanished_image_leaves_a_run_to_go_on_with(effvit: Effvit, cut: Path, trained: Path) -> None:
    state = (cut / STATE).read_bytes()
    picture = next((trained / "pictures").rglob("*.png"))
    content = picture.read_bytes()
    picture.unlink()
    try:
        answer = effvit("finetune", "--resume", "cut")
    finally:
        picture.write_bytes(content)
    refused(answer, 2, "are not those that the run cut was begun with", "restore them")
    assert (cut / STATE).read_bytes() == state
    assert effvit("finetune", "--resume", "cut").code == 0


def test_a_curve_rises_from_the_lowest_to_the_highest_block() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == LEVELS
    assert sparkline([5.0, -1.0]) == "█▁"
    assert sparkline([2.0, 2.0]) == "▅▅"
    assert sparkline([]) == ""
    assert sparkline([0, 0, 4, 4, 8, 8], columns=3) == "▁▅█"
    assert len(sparkline(range(1000))) == 48


@pytest.mark.parametrize(("seconds", "text"), [(45, "45 s"), (720, "12 min"), (12600, "3.5 h")])
def test_times_are_in_what_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_recipe_is_shown_and_nothing_done(effvit: Effvit, tmp_path: Path) -> None:
    asked = (
        "finetune",
        "--weights",
        "none",
        "--recipe",
        "strong",
        "--set",
        "mixup=0.5",
        "--epochs",
        "3",
        "--show-recipe",
    )
    shown = json.loads(effvit(*asked, "--json").out)
    assert (shown["mixup"], shown["cutmix"], shown["epochs"], shown["horizontal_flip"]) == (0.5, 1.0, 3, 0.0)
    answer = effvit(*asked)
    assert answer.code == 0
    rows = dict(line.split(maxsplit=1) for line in answer.out.splitlines())
    assert (rows["crop_scale"].strip(), rows["layer_decay"].strip(), rows["mixup"].strip()) == (
        "0.9,1.0",
        "none",
        "0.5",
    )
    assert not (tmp_path / "runs").exists()
    refused(effvit("finetune", "--recipe", "strng"), 2, "there is no recipe named 'strng'", "did you mean strong?")
    refused(effvit("finetune", "--set", "mixup=lots"), 2, "mixup cannot be 'lots'", "--show-recipe")


ANSWERS = Accuracy(13, 13, 10, None, (5, 4, 4), (5, 4, 1))


def test_the_worst_classes_come_first(effvit: Effvit, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(runs / "lin")
    run.updated(replace(run.record, data=replace(run.record.data, classes=("ant", "bee", "cat")), accuracy=ANSWERS))
    rows = [line.split() for line in effvit("runs", "show", "lin").out.splitlines()]
    start = rows.index(["class", "top-1", "right", "images"])
    assert rows[start + 1 :] == [
        ["cat", "25.0%", "1", "4"],
        ["ant", "100.0%", "5", "5"],
        ["bee", "100.0%", "4", "4"],
    ]
    monkeypatch.setattr(cmd_runs, "WORST_CLASSES", 1)
    few = effvit("runs", "show", "lin")
    assert "the 1 worst of 3 classes; --classes shows all" in few.err
    assert "bee" not in few.out
    assert "bee" in effvit("runs", "show", "lin", "--classes").out


def test_a_run_counts_its_best_epochs_answers_by_class(trained: Path) -> None:
    record = open_run(trained / "runs" / "lin").record
    assert record.accuracy is not None
    assert record.best is not None
    assert sum(record.accuracy.class_images) == record.data.val_images
    assert sum(record.accuracy.class_top1) / record.data.val_images == record.best.top1


def test_what_a_training_cost_is_shown(effvit: Effvit, runs: Path) -> None:
    run = open_run(runs / "lin")
    cost = Cost(parameters=1, macs=2_000_000_000, core_macs=1, tokens=5)
    record = replace(run.record, cost=cost, product_macs_per_s=40e9, data=replace(run.record.data, val_images=8))
    run = run.updated(replace(record, processes=2))
    (only,) = run.history()
    run.keep_epochs(0)
    for train_s, rate in ((9.0, 4.0), (10.0, 5.0), (30.0, 4.5)):
        timed = {"train_s": train_s, "images_per_s": rate, "inference_s": 2.0, "host_peak_bytes": 3 * 2**20}
        run.append_epoch(replace(only, **timed))
    answer = effvit("runs", "show", "lin")
    rows = [line.split() for line in answer.out.splitlines()]
    # Three passes of 2 G at 4.5 images/s are 27 of the 80 G a second of two processes; one at 4 images/s is 8.
    assert ["training", "10", "4", "6", "G", "34%"] in rows
    assert ["inference", "2", "4", "2", "G", "10%"] in rows
    assert "peak memory: host 3 MiB" in answer.err


def test_what_was_answered_before_training_is_shown(effvit: Effvit, runs: Path) -> None:
    run = open_run(runs / "lin")
    run.updated(replace(run.record, zero_training=ZeroTraining("imagenet-1k", 1000, ANSWERS)))
    said = "before any training: top-1 76.9%, from the logits of these classes of the 1000 of imagenet-1k"
    assert said in effvit("runs", "show", "lin").err


def test_evaluate_shows_every_class(effvit: Effvit, runs: Path) -> None:
    answer = effvit("evaluate", "lin", "--threads", "1", "--classes")
    rows = [line.split() for line in answer.out.splitlines()]
    start = rows.index(["class", "top-1", "right", "images"])
    assert {row[0] for row in rows[start + 1 :]} == {"cat", "dog"}
