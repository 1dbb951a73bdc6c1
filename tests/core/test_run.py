from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from models_for_tests import finished_run, images_of, logits_of, record_of

from effvit.checkpoint import save_weights
from effvit.errors import CheckpointError, StorageError, UsageError
from effvit.run import HISTORY, RECORD, EpochRecord, create_run, open_run
from effvit.runs import find_runs, newest_run, resolve_runs

EPOCH = EpochRecord(1, 2.0, 2.5, 0.5, None, 0.25, 1.0, 0.5, 40.0, 1e-3, None, None)


def test_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = replace(record_of("linformer", options=(("pool", 2),)), best=EPOCH, warnings=("beware",))
    run = create_run(tmp_path, "first", record)
    assert run.folder == tmp_path / "first"
    assert open_run(run.folder) == run


def test_a_run_without_a_name_is_called_after_what_it_is(tmp_path: Path) -> None:
    record = record_of("linformer", backbone="test_vit")
    record = replace(record, data=replace(record.data, name="/data/my pets/"))
    assert create_run(tmp_path, None, record).name.startswith("test_vit-linformer-my_pets-2")


def test_a_name_that_is_taken_is_refused(tmp_path: Path) -> None:
    run = create_run(tmp_path, "first", record_of())
    before = (run.folder / RECORD).read_bytes()
    with pytest.raises(StorageError, match="first exists already"):
        create_run(tmp_path, "first", record_of("linformer"))
    assert (run.folder / RECORD).read_bytes() == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../b", "a/../b", ".hidden"])
def test_a_name_that_is_a_path_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a run cannot be called"):
        create_run(tmp_path / "runs", name, record_of())
    assert not any(tmp_path.rglob(RECORD))


def test_a_folder_without_a_record_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is not a run: it holds no run\.json"):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"{", b"", "damaged or of another effvit"),
        (b'"status": "running"', b'"status": "asleep"', "damaged or of another effvit"),
        (b'"epochs": 20', b'"epochs": 0', "epochs must be at least 1"),
        (b'"running"', b'"\xff\xfe"', "damaged or of another effvit"),
        (b"effvit.run/2", b"effvit.run/9", r"has schema 'effvit\.run/9', not 'effvit\.run/2'"),
    ],
)
def test_a_damaged_or_newer_record_is_named(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    path = create_run(tmp_path, "first", record_of()).folder / RECORD
    written = path.read_bytes()
    assert old in written
    path.write_bytes(written.replace(old, new, 1))
    with pytest.raises(CheckpointError, match=message) as caught:
        open_run(path.parent)
    assert str(path) in caught.value.message


def test_epochs_are_appended_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    run = create_run(tmp_path, "first", record_of())
    assert run.history() == []
    run.append_epoch(EPOCH)
    run.append_epoch(replace(EPOCH, epoch=2))
    path = run.folder / HISTORY
    path.write_bytes(path.read_bytes() + b'{"epoch": 3, "train_l')
    assert run.history() == [EPOCH, replace(EPOCH, epoch=2)]


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    run = create_run(tmp_path, "first", record_of())
    (run.folder / HISTORY).write_bytes(b"{}\n")
    with pytest.raises(CheckpointError, match=r"history\.jsonl is damaged"):
        run.history()


@pytest.mark.parametrize("trained", [(64, 64), (64, 400)])
@pytest.mark.parametrize("attention", ["softmax", "linformer"])
def test_a_model_comes_back_with_the_same_logits(attention: str, trained: tuple[int, int], tmp_path: Path) -> None:
    options = (("pool", 2),) if attention == "linformer" else ()
    run, model = finished_run(tmp_path, "first", record_of(attention, trained=trained, options=options))
    again = open_run(run.folder).model()
    assert not again.training
    assert torch.equal(logits_of(again, images_of(*trained)), logits_of(model, images_of(*trained)))


def test_a_model_can_be_had_at_another_resolution(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, "first", record_of("linformer", options=(("pool", 2),)))
    assert logits_of(run.model(96), images_of(96, 96)).shape == (2, 10)
    assert logits_of(run.model(96, 64), images_of(96, 64)).shape == (2, 10)
    with pytest.raises(UsageError, match="65 px cannot be cut"):
        run.model(65)


def test_a_run_without_weights_says_what_became_of_it(tmp_path: Path) -> None:
    run = create_run(tmp_path, "first", replace(record_of(), status="interrupted"))
    with pytest.raises(CheckpointError, match="first has no weights yet: its status is 'interrupted'"):
        run.model()


def test_other_weights_than_those_recorded_are_refused(tmp_path: Path) -> None:
    run, model = finished_run(tmp_path, "first", record_of())
    with torch.no_grad():
        model.head.bias.add_(1)
    save_weights(run.weights, model)
    with pytest.raises(CheckpointError, match=r"is not the file that run\.json records"):
        run.model()


def test_truncated_weights_are_refused(tmp_path: Path) -> None:
    run, _ = finished_run(tmp_path, "first", record_of())
    run.weights.write_bytes(run.weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        run.model()


def several(root: Path) -> None:
    for name, attention, day in (("b", "softmax", 3), ("a", "linformer", 2), ("c", "softmax", 1)):
        record = record_of(attention, options=(("pool", 2),) if attention == "linformer" else ())
        finished_run(root, name, replace(record, started=f"2026-01-0{day}T00:00:00+00:00"))
    create_run(root, "unfinished", record_of(started="2026-02-01T00:00:00+00:00"))


def test_runs_are_found_by_age_name_and_attention(tmp_path: Path) -> None:
    several(tmp_path)
    assert [run.name for run in find_runs(tmp_path)] == ["c", "a", "b"]
    assert newest_run(tmp_path).name == "b"
    assert newest_run(tmp_path, "linformer").name == "a"
    assert [run.name for run in resolve_runs(tmp_path, [], [])] == ["b"]
    assert [run.name for run in resolve_runs(tmp_path, ["c", str(tmp_path / "a")], ["softmax"])] == ["c", "a", "b"]


def test_a_run_that_does_not_exist_is_named_with_the_way_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no finished run with performer attention") as caught:
        newest_run(tmp_path / "nowhere", "performer")
    assert caught.value.hint == "make one with `effvit finetune --attn performer`"
    with pytest.raises(CheckpointError, match="nothing is not a run"):
        resolve_runs(tmp_path, ["nothing"], [])
