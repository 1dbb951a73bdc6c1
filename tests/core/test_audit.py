"""What `effvit data check` finds, in folders of which it is known."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pictures import noise, truncate, write_folder
from PIL import Image

from effvit.audit import Audit, Count, Extent, Misnamed, Repeat, audit
from effvit.data.base import find_data
from effvit.progress import silent


def audited(root: Path) -> Audit:
    return audit(find_data(str(root)), silent)


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return write_folder(tmp_path, {"train/cat": 4, "train/dog": 2, "val/cat": 1, "val/dog": 1})


def test_a_sound_folder_is_counted(pets: Path) -> None:
    found = audited(pets)
    assert [(count.name, count.train, count.val) for count in found.classes] == [("cat", 4, 1), ("dog", 2, 1)]
    assert (found.images, found.imbalance) == (8, 2.0)
    assert found.size_bytes == sum(path.stat().st_size for path in pets.rglob("*.png"))
    assert (found.width, found.height) == (Extent(24, 24, 24), Extent(20, 20, 20))
    assert (found.formats, found.modes) == ((Count("PNG", 8),), (Count("RGB", 8),))
    assert (found.unreadable, found.others, found.misnamed, found.repeats, found.problem) == ((), (), (), (), None)


def test_sizes_are_of_images_as_they_are_seen(pets: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(100, 10).save(pets / "train/cat/0.png", exif=exif)
    found = audited(pets)
    assert (found.width, found.height, found.turned) == (Extent(10, 24, 24), Extent(20, 20, 100), 1)


def test_odd_kinds_are_named(pets: Path) -> None:
    noise(seed=90).convert("L").save(pets / "train/cat/0.png", format="JPEG")
    noise(seed=91).convert("CMYK").save(pets / "train/cat/1.png", format="TIFF")
    frames = [noise(seed=seed) for seed in (92, 93)]
    frames[0].save(pets / "train/dog/0.png", save_all=True, append_images=frames[1:])
    (pets / "train/dog/notes.txt").write_text("no image")
    found = audited(pets)
    assert found.misnamed == (Misnamed("train/cat/0.png", "JPEG"), Misnamed("train/cat/1.png", "TIFF"))
    assert found.modes == (Count("RGB", 6), Count("L", 1), Count("CMYK", 1))
    assert (found.animated, found.others) == (1, ("train/dog/notes.txt",))


def test_unreadable_images_are_named_with_their_reasons_and_not_counted(pets: Path) -> None:
    truncate(pets / "train/cat/1.png")
    (pets / "train/cat/2.png").write_bytes(b"")
    found = audited(pets)
    assert [image.name for image in found.unreadable] == ["train/cat/1.png", "train/cat/2.png"]
    assert found.unreadable[1].reason == "the file is empty"
    assert (found.images, found.classes[0].train, sum(count.images for count in found.formats)) == (8, 2, 6)


def test_the_same_pixels_across_the_split_leak_whatever_the_file(pets: Path) -> None:
    Image.open(pets / "train/cat/3.png").save(pets / "val/dog/0.png", compress_level=0)
    assert audited(pets).leaks == (
        Repeat("val/dog/0.png", "val", "dog", "train/cat/3.png", "train", "cat", bits=0, exact=True),
    )


def test_a_copy_within_a_part_is_no_leak(pets: Path) -> None:
    shutil.copy(pets / "train/cat/0.png", pets / "train/cat/9.png")
    found = audited(pets)
    assert found.repeats == (
        Repeat("train/cat/9.png", "train", "cat", "train/cat/0.png", "train", "cat", bits=0, exact=True),
    )
    assert found.leaks == ()


def test_a_picture_resized_is_found_and_one_to_train_on_named_before_one_held_out(pets: Path) -> None:
    picture = noise(8, 8, seed=77)
    picture.resize((160, 160), Image.Resampling.BICUBIC).save(pets / "train/dog/a.png")
    picture.resize((200, 200), Image.Resampling.BICUBIC).save(pets / "val/dog/a.png")
    picture.resize((200, 200), Image.Resampling.BICUBIC).save(pets / "val/dog/b.png")
    found = audited(pets)
    assert [(one.image, one.of, one.exact) for one in found.leaks] == [
        ("val/dog/a.png", "train/dog/a.png", False),
        ("val/dog/b.png", "train/dog/a.png", False),
    ]
    assert all(one.bits <= 10 for one in found.leaks)


def test_what_is_not_split_is_split_as_for_training(tmp_path: Path) -> None:
    found = audited(write_folder(tmp_path, {"cat": 10, "dog": 5}))
    assert [(count.train, count.val) for count in found.classes] == [(8, 2), (4, 1)]


def test_a_class_without_a_readable_image_is_a_problem_and_everything_else_is_told(pets: Path) -> None:
    truncate(pets / "val/dog/0.png")
    found = audited(pets)
    assert found.problem == f"the class dog of the val part of {pets} cannot be used: every image in it is corrupt"
    assert [image.name for image in found.unreadable] == ["val/dog/0.png"]
    assert found.classes[0].val == 1


def test_a_class_that_cannot_be_split_is_a_problem(tmp_path: Path) -> None:
    found = audited(write_folder(tmp_path, {"cat": 4, "dog": 1}))
    assert found.problem == f"the class dog of {tmp_path} has 1 usable image, too few to hold one out"
    assert (found.images, found.classes[1].train) == (5, 1)


def test_images_in_memory_are_audited_too() -> None:
    found = audit(find_data("digits"), silent)
    assert (found.images, found.formats, found.problem) == (1797, (Count("pixels", 1797),), None)
    assert (found.unreadable, found.leaks) == ((), ())


def test_progress_counts_every_image(pets: Path) -> None:
    seen: list[tuple[int, int]] = []
    audit(find_data(str(pets)), lambda done, total: seen.append((done, total)))
    assert seen == [(done, 8) for done in range(1, 9)]
