"""Tables of images: parquet files, what `save_to_disk` wrote, and data sets of the hub."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import create_autospec

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, Value
from datasets.exceptions import DatasetNotFoundError
from pictures import noise, truncate

from effvit import hub as hub_module
from effvit.data.base import load_data
from effvit.decoding import decode
from effvit.errors import DataError, UnavailableError, UnknownNameError


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(hub_module, "_answers", lambda _url: True)
    datasets.disable_progress_bars()


def png(seed: int) -> bytes:
    stream = io.BytesIO()
    noise(24, 20, seed).save(stream, "PNG")
    return stream.getvalue()


def table(labels: Sequence[object], label: object, image: str = "image", name: str = "label") -> Dataset:
    """Return a table with an image of noise for each label, drawn with the row as seed."""
    cells = [{"bytes": png(row), "path": None} for row in range(len(labels))]
    return Dataset.from_dict({name: labels, image: cells}, features=Features({name: label, image: Image()}))


PETS = ClassLabel(names=["dog", "cat"])


def test_a_saved_table_is_split_and_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    table([0, 1, 1, 0, 1, 0], PETS).save_to_disk(tmp_path / "pets")
    data = load_data(f"table:{tmp_path / 'pets'}")
    assert data.classes == ("dog", "cat")
    assert [sample.label for sample in data.val] == [0, 1] or [sample.label for sample in data.val] == [1, 0]
    assert len(data.train) == 4
    assert load_data(str(tmp_path / "pets")).fingerprint == data.fingerprint


def test_saved_splits_are_kept_and_rows_are_their_own_images(tmp_path: Path) -> None:
    DatasetDict(train=table([0, 1, 1], PETS), validation=table([1, 0], PETS), test=table([-1], PETS)).save_to_disk(
        tmp_path / "pets"
    )
    data = load_data(str(tmp_path / "pets"))
    assert [sample.label for sample in data.train] == [0, 1, 1]
    assert [sample.label for sample in data.val] == [1, 0]
    assert np.array_equal(np.asarray(decode(data.train[2].source)), np.asarray(noise(24, 20, seed=2)))


def test_parquet_files_of_a_folder_are_split_by_their_names(tmp_path: Path) -> None:
    table([0, 1], PETS).to_parquet(tmp_path / "train-00000-of-00002.parquet")
    table([1, 1], PETS).to_parquet(tmp_path / "train-00001-of-00002.parquet")
    table([1, 0], PETS).to_parquet(tmp_path / "test-00000-of-00001.parquet")
    data = load_data(str(tmp_path))
    assert [sample.label for sample in data.train] == [0, 1, 1, 1]
    assert [sample.label for sample in data.val] == [1, 0]


def test_a_plain_parquet_file_may_hold_bytes_and_names(tmp_path: Path) -> None:
    plain = pyarrow.table({"picture": [png(row) for row in range(4)], "kind": ["cat", "dog", "cat", "dog"]})
    pyarrow.parquet.write_table(plain, tmp_path / "a,b.parquet")
    data = load_data(f"table:{tmp_path}/a,b.parquet,image=picture,label=kind")
    assert data.classes == ("cat", "dog")
    assert sorted(sample.label for sample in (*data.train, *data.val)) == [0, 0, 1, 1]
    assert data.fingerprint == load_data(f"{tmp_path}/a,b.parquet").fingerprint


def test_numbers_are_classes_called_by_themselves(tmp_path: Path) -> None:
    table([30, 4, 30, 4], Value("int16")).save_to_disk(tmp_path / "numbers")
    assert load_data(str(tmp_path / "numbers")).classes == ("4", "30")


def test_an_image_whose_size_stays_but_whose_label_changes_has_another_fingerprint(tmp_path: Path) -> None:
    table([0, 1, 0, 1], PETS).save_to_disk(tmp_path / "one")
    table([1, 0, 0, 1], PETS).save_to_disk(tmp_path / "two")
    assert load_data(str(tmp_path / "one")).fingerprint != load_data(str(tmp_path / "two")).fingerprint


def test_a_damaged_cell_is_named_by_its_row(tmp_path: Path) -> None:
    cells = [{"bytes": png(row) if row != 2 else b"", "path": None} for row in range(4)]
    damaged = Dataset.from_dict(
        {"image": cells, "label": [0, 1, 0, 1]}, features=Features({"image": Image(), "label": PETS})
    )
    damaged.save_to_disk(tmp_path / "pets")
    with pytest.raises(DataError, match=r"1 of 4 images of .* cannot be used: whole/2 \(the file is empty\)"):
        load_data(str(tmp_path / "pets"))


def test_a_cell_without_an_image_is_named_by_its_row(tmp_path: Path) -> None:
    cells = [{"bytes": png(0), "path": None}, None, {"bytes": png(2), "path": None}, {"bytes": png(3), "path": None}]
    Dataset.from_dict(
        {"image": cells, "label": [0, 0, 1, 1]}, features=Features({"image": Image(), "label": PETS})
    ).save_to_disk(tmp_path / "pets")
    with pytest.raises(DataError, match=r"whole/1 \(the cell is empty\)"):
        load_data(str(tmp_path / "pets"))


def refused(name: object) -> DataError:
    with pytest.raises(DataError) as caught:
        load_data(str(name))
    assert caught.value.hint
    return caught.value


def test_a_label_that_is_no_class_is_named_with_its_row(tmp_path: Path) -> None:
    table([0, 1, -1], PETS).save_to_disk(tmp_path / "pets")
    assert str(refused(tmp_path / "pets")) == (
        f"'label' in row 2 of the whole part of {tmp_path}/pets is -1, which is none of its 2 classes: dog, cat"
    )


def test_a_label_beyond_the_names_in_parquet_is_one_sentence(tmp_path: Path) -> None:
    features = table([0, 1], PETS).data.schema.metadata
    wrong = pyarrow.table({"label": [0, 5], "image": [png(0), png(1)]}).replace_schema_metadata(features)
    pyarrow.parquet.write_table(wrong, tmp_path / "a.parquet")
    message = str(refused(tmp_path / "a.parquet"))
    assert message.startswith("'label' in row 1 of the whole part of ")
    assert message.endswith(" is 5, which is none of its 2 classes: dog, cat")


def test_a_label_that_training_has_not_is_refused(tmp_path: Path) -> None:
    DatasetDict(train=table(["a", "b"], Value("string")), test=table(["a", "c"], Value("string"))).save_to_disk(
        tmp_path / "letters"
    )
    assert "row 1 of the test part" in str(refused(tmp_path / "letters"))
    assert "'c', which is none of its 2 classes: a, b" in str(refused(tmp_path / "letters"))


def test_a_class_that_is_missing_in_the_held_out_part_is_named(tmp_path: Path) -> None:
    DatasetDict(train=table([0, 1], PETS), test=table([0, 0], PETS)).save_to_disk(tmp_path / "pets")
    assert str(refused(tmp_path / "pets")) == (
        f"the class cat of the test part of {tmp_path}/pets cannot be used: it has no images there"
    )


def test_a_column_that_is_not_there_has_a_closest_name(tmp_path: Path) -> None:
    table([0, 1], PETS, name="animal").save_to_disk(tmp_path / "pets")
    with pytest.raises(UnknownNameError, match=r"no column of .* named 'anmal'") as caught:
        load_data(f"table:{tmp_path}/pets,label=anmal")
    assert caught.value.hint == "did you mean animal?"


def test_a_column_of_another_kind_is_refused(tmp_path: Path) -> None:
    table([0, 1], PETS).save_to_disk(tmp_path / "pets")
    assert "the column 'image'" in str(refused(f"table:{tmp_path}/pets,label=image"))
    assert refused(f"table:{tmp_path}/pets,label=image").hint == "name another: label"


def test_two_columns_that_could_be_labels_are_named(tmp_path: Path) -> None:
    both = table([0, 1, 0, 1], PETS, name="fine").add_column("coarse", [0, 0, 1, 1]).cast_column("coarse", PETS)
    both.save_to_disk(tmp_path / "pets")
    assert "2 columns that could be its label: fine, coarse" in str(refused(tmp_path / "pets"))
    assert len(load_data(f"table:{tmp_path}/pets,label=fine").train) == 2


def test_a_table_without_rows_is_refused(tmp_path: Path) -> None:
    table([], Value("string")).save_to_disk(tmp_path / "saved")
    assert f"the tables at {tmp_path}/saved cannot be read" in str(refused(tmp_path / "saved"))


def test_splits_of_other_names_are_named(tmp_path: Path) -> None:
    DatasetDict(train=table([0, 1], PETS), extra=table([0, 1], PETS)).save_to_disk(tmp_path / "pets")
    assert "has the splits train, extra, not train and val" in str(refused(tmp_path / "pets"))


def test_tables_that_are_none_or_damaged_are_one_sentence(tmp_path: Path) -> None:
    assert str(refused("table:nowhere")) == "there are no tables at nowhere"
    table([0, 1], PETS).to_parquet(tmp_path / "a.parquet")
    truncate(tmp_path / "a.parquet")
    assert f"the tables at {tmp_path}/a.parquet cannot be read: " in str(refused(tmp_path / "a.parquet"))
    table([0, 1], PETS).save_to_disk(tmp_path / "pets")
    (tmp_path / "pets/state.json").write_text("{")
    assert f"the tables at {tmp_path}/pets cannot be read: " in str(refused(tmp_path / "pets"))


@pytest.fixture
def load_dataset(monkeypatch: pytest.MonkeyPatch) -> object:
    """Stand in for what asks the hub."""
    fake = create_autospec(datasets.load_dataset)
    monkeypatch.setattr(datasets, "load_dataset", fake)
    return fake


def test_a_data_set_of_the_hub_is_asked_for_by_name_configuration_and_revision(load_dataset: object) -> None:
    load_dataset.return_value = DatasetDict(train=table([0, 1], PETS), test=table([1, 0], PETS))  # type: ignore[attr-defined]
    data = load_data("hf:owner/pets@v1.0,config=small,label=label")
    load_dataset.assert_called_once_with("owner/pets", "small", revision="v1.0")  # type: ignore[attr-defined]
    assert data.name == "hf:owner/pets@v1.0,config=small,label=label"
    assert (len(data.train), len(data.val)) == (2, 2)


def test_a_data_set_of_the_hub_without_rows_is_refused(load_dataset: object) -> None:
    load_dataset.return_value = DatasetDict(train=table([], PETS))  # type: ignore[attr-defined]
    assert str(refused("hf:owner/pets")) == "hf:owner/pets has no rows"


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (ConnectionError("Couldn't reach it"), UnavailableError, "the hub cannot be reached: Couldn't reach it"),
        (DatasetNotFoundError("doesn't exist"), UnavailableError, "the hub did not give hf:owner/pets"),
        (ValueError("Config name is missing"), DataError, "hf:owner/pets cannot be used: Config name is missing"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    load_dataset: object, error: Exception, kind: type[Exception], words: str
) -> None:
    load_dataset.side_effect = error  # type: ignore[attr-defined]
    with pytest.raises(kind, match=words):
        load_data("hf:owner/pets")


def test_a_machine_without_network_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "_answers", lambda _url: False)
    with pytest.raises(UnavailableError, match="hf:owner/pets is not in the local cache, and the hub") as caught:
        load_data("hf:owner/pets")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("name", ["hf:", "hf:a/b/c", "hf:a b", "hf:pets,lable=x"])
def test_a_name_in_another_form_is_refused(name: str) -> None:
    assert "does not name a data set on the hub" in str(refused(name))


def test_without_the_package_the_way_to_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effvit.columns.importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UnavailableError, match="hf:pets needs the package datasets") as caught:
        load_data("hf:pets")
    assert caught.value.hint == "install it with pip install 'effvit[datasets]'"
