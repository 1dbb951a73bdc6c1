"""Training images that are decoded once: what is kept, where, and that nothing else changes."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import noise
from PIL import Image
from torchvision.transforms.functional import pil_to_tensor
from training_program import request

from effvit import decoded
from effvit.cached import Asked, Cached, Where
from effvit.data.base import ImageData, load_data
from effvit.decoded import cached_for, with_cache, worth_keeping
from effvit.decoding import MappedImage, decode
from effvit.errors import DataError, StorageError, UsageError
from effvit.finetune import Finetuning, Listener, finetune
from effvit.images import ImageDataset, ImageLoader
from effvit.optimisation import Step
from effvit.progress import silent
from effvit.resume import resume
from effvit.run import WEIGHTS, open_run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EFFVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "images"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of 16 images in all, half of them larger than 40 px, half of them smaller."""
    for number in range(16):
        path = tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(*((60, 50) if number < 8 else (30, 36)), seed=number).save(path)
    return tmp_path / "pets"


@pytest.fixture
def data(folder: Path) -> ImageData:
    return load_data(str(folder))


def pixels(data: ImageData) -> list[np.ndarray]:
    return [np.asarray(decode(sample.source)) for sample in data.train]


@pytest.mark.parametrize(
    ("resolution", "crop_scale", "shorter_side"),
    [
        ((224, 224), (0.08, 1.0), 305),  # 224 / sqrt(0.54) = 304.8
        ((64, 32), (0.9, 1.0), 66),  # 64 / sqrt(0.95) = 65.7
        ((224, 224), (1.0, 1.0), 224),
    ],
)
def test_a_crop_of_the_middle_share_has_as_many_pixels_as_the_input(
    resolution: tuple[int, int], crop_scale: tuple[float, float], shorter_side: int
) -> None:
    assert cached_for("ram", resolution, crop_scale) == Cached("ram", shorter_side)


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_larger_images_are_resized_once_and_smaller_ones_kept_as_they_are(data: ImageData, where: Where) -> None:
    kept = with_cache(data, Cached(where, 40), silent)
    sizes = set()
    for sample, array in zip(data.train, pixels(kept), strict=True):
        assert isinstance(sample.source, Path)
        image = Image.open(sample.source)
        sizes.add(image.size)
        expected = image.resize((48, 40), Image.Resampling.BICUBIC) if image.size == (60, 50) else image
        assert np.array_equal(array, np.asarray(expected))
    assert sizes == {(60, 50), (30, 36)}
    assert [sample.label for sample in kept.train] == [sample.label for sample in data.train]
    assert kept.val is data.val
    assert kept.fingerprint == data.fingerprint


def test_the_file_is_made_once_for_the_same_contents_wherever_they_lie(
    data: ImageData, folder: Path, cache: Path
) -> None:
    with_cache(data, Cached("disk", 40), silent)
    (made,) = cache.glob("*.bin")
    before = made.stat()
    moved = load_data(str(folder.rename(folder.with_name("animals"))))
    calls: list[int] = []
    kept = with_cache(moved, Cached("disk", 40), lambda *counts: calls.append(counts[0]))
    assert (made.stat().st_ino, made.stat().st_mtime_ns, calls) == (before.st_ino, before.st_mtime_ns, [])
    assert all(
        np.array_equal(*pair)
        for pair in zip(pixels(kept), pixels(with_cache(moved, Cached("ram", 40), silent)), strict=True)
    )


def test_other_contents_or_another_size_are_another_file(data: ImageData, cache: Path) -> None:
    with_cache(data, Cached("disk", 40), silent)
    with_cache(data, Cached("disk", 39), silent)
    assert len(list(cache.glob("*.bin"))) == 2
    changed = data.train[0].source
    assert isinstance(changed, Path)
    size = changed.stat().st_size
    with Image.open(changed) as image:
        width, height = image.size
    noise(width, height, seed=99).save(changed)
    assert changed.stat().st_size == size  # names and sizes alone would not tell
    kept = with_cache(data, Cached("disk", 39), silent)
    assert len(list(cache.glob("*.bin"))) == 3
    assert not np.array_equal(pixels(kept)[0], pixels(with_cache(data, Cached("disk", 40), silent))[1])


@pytest.mark.parametrize("length", [0, 5, 1000, -1])
def test_a_damaged_file_is_made_again(data: ImageData, cache: Path, length: int) -> None:
    whole = pixels(with_cache(data, Cached("disk", 40), silent))
    (made,) = cache.glob("*.bin")
    content = made.read_bytes()
    made.unlink()  # written in place, it would change under those who have mapped it
    made.write_bytes(content[:length] if length >= 0 else content + b"x")
    with_cache(data, Cached("disk", 40), silent)
    assert made.read_bytes() == content
    assert len(whole) == len(data.train)


PROGRAM = """
import os, signal, sys
from effvit.data.base import load_data
from effvit.decoded import with_cache
from effvit.cached import Cached
die_at = int(sys.argv[2])
def progress(done, total):
    if done == die_at:
        os.kill(os.getpid(), signal.SIGKILL)
kept = with_cache(load_data(sys.argv[1]), Cached("disk", 40), progress)
print(sum(int(sample.source.pixels().astype(int).sum()) for sample in kept.train))
"""


def started(folder: Path, die_at: int = 0) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(folder), str(die_at)], stdout=subprocess.PIPE, text=True
    )


def test_a_kill_while_it_is_written_leaves_nothing_that_is_taken_for_it(
    folder: Path, data: ImageData, cache: Path
) -> None:
    with started(folder, die_at=5) as killed:
        killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not list(cache.glob("*.bin"))
    assert list(cache.glob(".*.bin.*"))  # what it had begun
    with_cache(data, Cached("disk", 40), silent)
    assert len(list(cache.glob("*.bin"))) == 1
    assert not list(cache.glob(".*.bin.*"))


@pytest.mark.slow
def test_processes_that_come_at_once_share_one_file(folder: Path, data: ImageData, cache: Path) -> None:
    processes = [started(folder), started(folder)]
    sums = [int(process.communicate()[0]) for process in processes]
    expected = sum(int(array.astype(int).sum()) for array in pixels(with_cache(data, Cached("ram", 40), silent)))
    assert sums == [expected, expected]
    assert len(list(cache.glob("*.bin"))) == 1


def test_too_little_memory_is_said_before_anything_is_decoded(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoded, "available_bytes", lambda: 2**10)
    with pytest.raises(UsageError, match="training images take 0 MiB, and 0 MiB of memory are free") as caught:
        with_cache(data, Cached("ram", 40), silent)
    assert "--cache disk" in caught.value.hint


def test_memory_is_needed_for_what_is_kept_alone(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    large = sum(np.asarray(decode(sample.source)).shape[0] == 50 for sample in data.train)
    kept = 3 * (large * 48 * 40 + (len(data.train) - large) * 30 * 36)
    monkeypatch.setattr(decoded, "available_bytes", lambda: kept / decoded.MEMORY_SHARE)
    with_cache(data, Cached("ram", 40), silent)
    monkeypatch.setattr(decoded, "available_bytes", lambda: (kept - 1) / decoded.MEMORY_SHARE)
    with pytest.raises(UsageError, match="of memory are free"):
        with_cache(data, Cached("ram", 40), silent)


def test_a_disk_that_is_too_full_is_said_before_anything_is_decoded(
    data: ImageData, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda *_: usage(2**30, 2**30 - 9, 9))
    with pytest.raises(StorageError, match="and 0 MiB are free in") as caught:
        with_cache(data, Cached("disk", 40), silent)
    assert "EFFVIT_CACHE" in caught.value.hint
    assert not list(cache.glob("*.bin"))


def test_an_image_that_vanished_is_named(data: ImageData) -> None:
    gone = data.train[3].source
    assert isinstance(gone, Path)
    gone.unlink()
    with pytest.raises(DataError, match=f"{gone} cannot be used as an image: no such file"):
        with_cache(data, Cached("disk", 40), silent)


def test_a_file_that_vanished_before_it_was_mapped_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"an image in .*gone\.bin cannot be used as an image: no such file"):
        decode(MappedImage(tmp_path / "gone.bin", 0, 2, 2))


def test_processes_are_told_only_where_an_image_lies(data: ImageData) -> None:
    kept = with_cache(data, Cached("disk", 40), silent)
    pixels(kept)  # mapped by now
    assert len(pickle.dumps(kept.train)) < 200 * len(kept.train)


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_processes_that_load_make_the_same_batches(data: ImageData, where: Where) -> None:
    def batches(data: ImageData, workers: int) -> list[torch.Tensor]:
        resized = ImageDataset(data.train, lambda image: pil_to_tensor(image.resize((8, 8))))
        return [images for images, _ in ImageLoader(resized, batch=4, workers=workers, seed=0).epoch(0)]

    kept = with_cache(data, Cached(where, 40), silent)
    assert all(torch.equal(*pair) for pair in zip(batches(kept, 0), batches(kept, 2), strict=True))


class CutAt(Listener):
    """Cuts a training short at a step of its second epoch."""

    def step(self, step: Step) -> None:
        if (step.epoch, step.step) == (1, 2):
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["ram", "disk"])
def test_a_cached_run_that_goes_on_ends_as_one_that_was_never_cut_short(
    data: ImageData, tmp_path: Path, cache: Path, where: Where
) -> None:
    asked = replace(request(batch=4), cache=where, save_every_s=0.0)
    whole = finetune(asked, data, out=tmp_path, name="whole")
    assert whole.record.cached == Cached(where, 37)  # 32 / sqrt(0.75) = 36.95
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, data, out=tmp_path, name="cut", listener=CutAt())
    for made in cache.glob("*"):  # a cache is what can be made again
        made.unlink()
    elsewhere: Where = "ram" if where == "disk" else "disk"  # kept there, images are the same
    resumed = resume(open_run(tmp_path / "cut"), Finetuning((), cache=elsewhere), data)
    assert resumed.record.cached == whole.record.cached
    assert (resumed.folder / WEIGHTS).read_bytes() == (whole.folder / WEIGHTS).read_bytes()
    plain = finetune(replace(asked, cache=None), data, out=tmp_path, name="plain")
    assert plain.record.cached is None
    assert (plain.folder / WEIGHTS).read_bytes() != (whole.folder / WEIGHTS).read_bytes()


def test_a_run_without_a_cache_does_not_go_on_with_one(data: ImageData, tmp_path: Path) -> None:
    asked = replace(request(batch=4), save_every_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        finetune(asked, data, out=tmp_path, name="cut", listener=CutAt())
    with pytest.raises(UsageError, match="the run cut was begun with the cache none, not ram"):
        resume(open_run(tmp_path / "cut"), Finetuning((), cache="ram"), data)


@pytest.mark.parametrize(
    ("preset", "cache", "free", "kept"),
    [
        ("standard", None, 2.0, "ram"),
        ("standard", None, 1.9, None),  # less than half would be left
        ("standard", "none", 9.0, None),
        ("standard", "disk", 9.0, "disk"),
        ("quick", None, 9.0, None),
    ],
)
def test_longer_recipes_keep_images_where_memory_is_plenty(
    data: ImageData,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    preset: str,
    cache: Asked,
    free: float,
    kept: Where,
) -> None:
    asked = replace(request(batch=4, epochs=1), preset=preset, cache=cache)
    # 12 or 13 of 16 are to train on; those of 60 x 50 px become 44 x 37 ones.
    sizes_bytes = sum(3 * (44 * 37 if image.shape[0] == 50 else 30 * 36) for image in pixels(data))
    monkeypatch.setattr(decoded, "available_bytes", lambda: int(free * sizes_bytes))
    monkeypatch.setattr(decoded, "CACHE_LIMIT_BYTES", sizes_bytes)  # they are larger before they are kept
    run = finetune(asked, data, out=tmp_path, name="run")
    assert run.record.cached == (None if kept is None else Cached(kept, 37))


def test_what_is_kept_in_memory_anyway_is_kept_as_it_is(data: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not worth_keeping(data, Cached("ram", 37), 1)
    monkeypatch.setattr(decoded, "CACHE_LIMIT_BYTES", 1)
    assert worth_keeping(data, Cached("ram", 37), 1)
    assert not worth_keeping(data, Cached("ram", 37), 10**9)  # each of the processes keeps its own
    assert not worth_keeping(with_cache(data, Cached("ram", 37), silent), Cached("ram", 37), 1)


def test_nothing_is_kept_in_memory_twice(data: ImageData) -> None:
    kept = with_cache(data, Cached("ram", 40), silent)
    assert ImageDataset(kept.train, pil_to_tensor).cached is None
    assert ImageDataset(data.train, pil_to_tensor).cached is not None
