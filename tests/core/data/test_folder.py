"""Folders of images: layouts that load, and one clear sentence for each that does not."""

import os
from collections import Counter
from pathlib import Path

import pytest
from pictures import noise, truncate, write_folder

from effvit.data.base import ImageData, Sample, load_data
from effvit.errors import DataError


def names(samples: tuple[Sample, ...], root: Path) -> list[str]:
    return [sample.source.relative_to(root).as_posix() for sample in samples if isinstance(sample.source, Path)]


def refused(root: Path) -> DataError:
    with pytest.raises(DataError) as caught:
        load_data(str(root))
    assert caught.value.hint
    return caught.value


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path, {"train/cat": 3, "train/dog": 2, "val/cat": 1, "val/dog": 1})


def test_a_split_by_the_user_is_kept(pets: Path) -> None:
    data = load_data(str(pets))
    assert data.classes == ("cat", "dog")
    assert names(data.train, pets) == [f"train/{name}.png" for name in ("cat/0", "cat/1", "cat/2", "dog/0", "dog/1")]
    assert names(data.val, pets) == ["val/cat/0.png", "val/dog/0.png"]
    assert [sample.label for sample in data.train] == [0, 0, 0, 1, 1]
    assert (data.name, data.skipped) == (str(pets), ())


@pytest.mark.parametrize("held_out", ["validation", "valid", "test"])
def test_the_held_out_part_may_have_another_name(tmp_path: Path, held_out: str) -> None:
    write_folder(tmp_path, {"train/a": 1, "train/b": 1, f"{held_out}/a": 1, f"{held_out}/b": 1})
    assert names(load_data(str(tmp_path)).val, tmp_path) == [f"{held_out}/a/0.png", f"{held_out}/b/0.png"]


def test_val_is_taken_before_test(pets: Path) -> None:
    write_folder(pets, {"test/cat": 1, "test/dog": 1})
    assert names(load_data(str(pets)).val, pets) == ["val/cat/0.png", "val/dog/0.png"]


def test_a_folder_that_is_not_split_gives_a_fifth_of_each_class(tmp_path: Path) -> None:
    data = load_data(str(write_folder(tmp_path, {"a": 10, "b": 5, "c": 2})))
    assert Counter(sample.label for sample in data.val) == {0: 2, 1: 1, 2: 1}
    assert not set(names(data.train, tmp_path)) & set(names(data.val, tmp_path))
    assert len(data.train) + len(data.val) == 17


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert load_data(str(write_folder(tmp_path, {"boat": 2, "train": 2}))).classes == ("boat", "train")


def test_hidden_files_and_other_files_are_ignored(pets: Path) -> None:
    before = load_data(str(pets))
    (pets / "train/cat/notes.txt").write_text("no image")
    (pets / "train/cat/._0.png").write_bytes(b"no image either")
    write_folder(pets, {"train/.thumbnails": 1, "train/cat/.cache": 1})
    (pets / "train/readme.md").write_text("no class")
    assert load_data(str(pets)).fingerprint == before.fingerprint


def test_images_in_folders_below_a_class_and_capital_extensions_count(pets: Path) -> None:
    write_folder(pets, {"train/cat/persian": 1})
    noise().save(pets / "train/dog/9.JPG")
    train = names(load_data(str(pets)).train, pets)
    assert "train/cat/persian/0.png" in train
    assert "train/dog/9.JPG" in train


def test_links_to_images_and_folders_are_followed(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write_folder(tmp_path_factory.mktemp("elsewhere"), {"cow": 1})
    for part in ("train", "val"):
        (pets / part / "cow").symlink_to(elsewhere / "cow")
    (pets / "train/cat/link.png").symlink_to(pets / "val/cat/0.png")
    data = load_data(str(pets))
    assert data.classes == ("cat", "cow", "dog")
    assert "train/cat/link.png" in names(data.train, pets)


def test_a_link_in_a_circle_is_followed_once(pets: Path) -> None:
    (pets / "train/cat/again").symlink_to(pets / "train/cat")
    assert len(load_data(str(pets)).train) == 5


def test_the_order_does_not_depend_on_the_order_of_creation(tmp_path: Path) -> None:
    forward = write_folder(tmp_path / "forward", {"a": 12, "b": 12})
    backward = tmp_path / "backward"
    for path in sorted(forward.rglob("*.png"), reverse=True):
        copy = backward / path.relative_to(forward)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    data = [load_data(str(root)) for root in (forward, backward)]
    assert names(data[0].val, forward) == names(data[1].val, backward)
    assert data[0].fingerprint == data[1].fingerprint


def test_a_replaced_image_changes_the_fingerprint(pets: Path) -> None:
    before = load_data(str(pets)).fingerprint
    noise(40, 40).save(pets / "val/cat/0.png")
    assert load_data(str(pets)).fingerprint != before


def test_progress_counts_every_image(pets: Path) -> None:
    seen: list[tuple[int, int]] = []
    load_data(str(pets), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 7) for done in range(1, 8)]


def test_hints_suit_photographs(pets: Path) -> None:
    hints = load_data(str(pets)).hints
    assert (hints.model, hints.resolution, hints.horizontal_flip) == ("vit_tiny_patch16_224", None, 0.5)
    assert hints.auto_augment is not None
    assert hints.auto_augment.startswith("rand-")


def test_a_file_is_not_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.zip").touch()
    assert str(refused(tmp_path / "a.zip")) == f"{tmp_path}/a.zip is a file, not a folder"


def test_a_folder_that_vanished_since_is_named(tmp_path: Path) -> None:
    from effvit.data.folder import find

    with pytest.raises(DataError, match=f"there is no folder {tmp_path}/gone"):
        find(f"{tmp_path}/gone")


def test_a_path_the_system_rejects_is_a_data_error(tmp_path: Path) -> None:
    from effvit.data.folder import find

    with pytest.raises(DataError, match="cannot be read: File name too long"):
        find(f"{tmp_path}/{'x' * 300}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_without_permission_is_named(pets: Path) -> None:
    (pets / "train/cat").chmod(0)
    assert str(refused(pets)) == f"{pets}/train/cat cannot be read: Permission denied"


def test_an_empty_folder_has_no_classes(tmp_path: Path) -> None:
    assert str(refused(tmp_path)) == f"{tmp_path} has no class folders"


def test_loose_images_are_no_classes(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    assert str(refused(tmp_path)) == f"{tmp_path} has no class folders"


def test_one_class_is_no_task(tmp_path: Path) -> None:
    assert str(refused(write_folder(tmp_path, {"cat": 3}))) == f"{tmp_path} has a single class, cat"


def test_train_alone_is_refused(tmp_path: Path) -> None:
    error = refused(write_folder(tmp_path, {"train/a": 2, "train/b": 2}))
    assert str(error) == f"{tmp_path} has train/ but no val/ with class folders"
    assert f"{tmp_path}/train" in error.hint


def test_val_alone_is_refused(tmp_path: Path) -> None:
    error = refused(write_folder(tmp_path, {"validation/a": 2, "validation/b": 2}))
    assert str(error) == f"{tmp_path} has validation/ but no train/ with class folders"


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_class_folder_without_images_is_named(pets: Path, part: str) -> None:
    for side in ("train", "val"):
        (pets / side / "cow").mkdir()
    noise().save(pets / ("val" if part == "train" else "train") / "cow/0.png")
    assert str(refused(pets)) == f"the class cow of the {part} part of {pets} cannot be used: it has no image files"


def test_different_classes_are_named(pets: Path) -> None:
    write_folder(pets, {"train/cow": 1, "val/emu": 1})
    assert str(refused(pets)) == (f"train/ and val/ in {pets} have different classes: there is no val/cow, train/emu")


def test_many_missing_classes_are_counted(pets: Path) -> None:
    write_folder(pets, {f"train/{name}": 1 for name in "pqrst"})
    assert str(refused(pets)).endswith("there is no val/p, val/q, val/r and 2 more")


def test_a_single_image_cannot_be_split(tmp_path: Path) -> None:
    error = refused(write_folder(tmp_path, {"cat": 4, "dog": 1}))
    assert str(error) == f"the class dog of {tmp_path} has 1 usable image, too few to hold one out"


def with_damage(root: Path) -> Path:
    """Four cats, of which one is cut, one empty and one text; three dogs."""
    write_folder(root, {"cat": 6, "dog": 3}, extension="jpg")
    truncate(root / "cat/1.jpg")
    (root / "cat/2.jpg").write_bytes(b"")
    (root / "cat/3.jpg").write_text("not an image")
    return root


def test_damaged_images_are_named_with_reasons(tmp_path: Path) -> None:
    error = refused(with_damage(tmp_path))
    assert str(error).startswith(f"3 of 9 images of {tmp_path} cannot be used: cat/1.jpg (")
    assert "cat/2.jpg (the file is empty), cat/3.jpg (no image format fits its contents)" in str(error)
    assert "--skip-corrupt" in error.hint


def test_only_the_first_damaged_images_are_named(tmp_path: Path) -> None:
    with_damage(tmp_path)
    for index in range(3):
        truncate(tmp_path / f"dog/{index}.jpg")
    assert str(refused(tmp_path)).endswith(" and 3 more")


def load_skipping(root: Path) -> ImageData:
    return load_data(str(root), skip_corrupt=True)


def test_damaged_images_are_left_out_on_request(tmp_path: Path) -> None:
    data = load_skipping(with_damage(tmp_path))
    assert data.skipped == ("cat/1.jpg", "cat/2.jpg", "cat/3.jpg")
    kept = names(data.train, tmp_path) + names(data.val, tmp_path)
    assert sorted(kept) == ["cat/0.jpg", "cat/4.jpg", "cat/5.jpg", "dog/0.jpg", "dog/1.jpg", "dog/2.jpg"]


def test_a_class_that_loses_every_image_is_an_error(pets: Path) -> None:
    truncate(pets / "val/dog/0.png")
    with pytest.raises(
        DataError, match=f"the class dog of the val part of {pets} cannot be used: every image in it is corrupt"
    ):
        load_skipping(pets)


def test_a_class_left_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    write_folder(tmp_path, {"cat": 2, "dog": 2})
    truncate(tmp_path / "dog/0.png")
    with pytest.raises(DataError, match=r"the class dog of .* has 1 usable image"):
        load_skipping(tmp_path)
