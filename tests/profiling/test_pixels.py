"""Which images runs are judged on, and that they are known again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from pictures import noise, truncate, write_folder
from PIL import Image
from untrained_runs import make_run

from effvit import decoded, decoding
from effvit.cached import Where
from effvit.data.base import load_data
from effvit.decoding import Source
from effvit.errors import StorageError, UsageError
from effvit.profiling.pixels import PixelStore
from effvit.run import DataRecord, Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, "softmax"), make_run(root, "linformer")]


def test_the_same_images_have_one_key_whatever_the_model_and_the_size(runs: list[Run]) -> None:
    with PixelStore() as pixels:
        keys = {pixels.get(run, px, px, 20).key for run in runs for px in (32, 48)}
    with PixelStore() as later:
        assert {later.get(runs[0], 32, 32, 20).key} == keys


def test_other_images_have_another_key(runs: list[Run]) -> None:
    with PixelStore() as pixels:
        assert pixels.get(runs[0], 32, 32, 20).key != pixels.get(runs[0], 32, 32, 21).key


@pytest.fixture
def photographed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a run on image files of 24 x 20 px, with a cache of its own."""
    monkeypatch.setenv("EFFVIT_CACHE", str(tmp_path / "cache"))
    data = load_data(str(write_folder(tmp_path / "pictures", {"cat": 10, "dog": 10}, "bmp")))
    run = make_run(tmp_path / "runs", "softmax")
    record = DataRecord(data.name, data.fingerprint, data.classes, len(data.train), len(data.val))
    return run.updated(replace(run.record, data=record))


@pytest.fixture
def opened(photographed: Run, monkeypatch: pytest.MonkeyPatch) -> list[Source]:
    """Return a list to which every image is added that is decoded from now on."""
    honest, sources = decoding._read, []

    def read(source: Path) -> Image.Image:
        sources.append(source)
        return honest(source)

    monkeypatch.setattr(decoding, "_read", read)
    return sources


@pytest.mark.parametrize("cache", ["ram", "disk"])
def test_a_cache_changes_nothing_of_what_a_model_sees(photographed: Run, cache: Where) -> None:
    for px, images in ((32, 0), (48, 0), (32, 3)):
        with PixelStore() as plain, PixelStore(cache=cache) as cached:
            ours, theirs = (store.get(photographed, px, px, images) for store in (cached, plain))
            np.testing.assert_array_equal(np.load(ours.path), np.load(theirs.path))
            assert replace(ours, path=theirs.path) == theirs


@pytest.mark.parametrize(("cache", "decoded"), [(None, 2 * (3 + 4)), ("ram", 4)])
def test_decoded_images_in_memory_serve_every_size(
    photographed: Run, cache: Where | None, decoded: int, opened: list[Source]
) -> None:
    with PixelStore(cache=cache) as store:
        for px in (32, 48):
            store.get(photographed, px, px, 3)
            store.get(photographed, px, px, 0)
    assert len(opened) == decoded


def test_a_file_of_prepared_images_is_made_once_for_the_same_contents(photographed: Run, opened: list[Source]) -> None:
    paths = []
    for _ in range(2):
        with PixelStore(cache="disk") as store:
            paths.append(store.get(photographed, 32, 32, 0).path)
    assert paths[0] == paths[1]
    assert len(opened) == 4
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    with PixelStore(cache="disk") as store:  # torn: made again
        assert np.load(store.get(photographed, 32, 32, 0).path).shape == (4, 32, 32, 3)
    assert len(opened) == 8


def test_an_image_of_another_content_is_another_file(photographed: Run) -> None:
    paths = []
    for _ in range(2):
        with PixelStore(cache="disk") as store:
            pixels = store.get(photographed, 32, 32, 0)
        paths.append(pixels.path)
        noise(seed=99).save(pixels.names[0])  # of as many bytes, which is what a data set is known by
    assert paths[0] != paths[1]


def test_what_does_not_fit_is_said_before_anything_is_decoded(
    photographed: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four images of 24 x 20 px, three bytes each: 5760 bytes.
    monkeypatch.setattr(decoded, "available_bytes", lambda: 5759 / decoded.MEMORY_SHARE)
    with PixelStore(cache="ram") as store, pytest.raises(UsageError, match="decoded held-out images take 0 MiB"):
        store.get(photographed, 32, 32, 0)
    monkeypatch.setattr(decoded.shutil, "disk_usage", lambda _: SimpleNamespace(free=4 * 32 * 32 * 3 - 1))
    with PixelStore(cache="disk") as store, pytest.raises(StorageError, match="prepared held-out images take 0 MiB"):
        store.get(photographed, 32, 32, 0)


def test_images_that_were_left_out_are_left_out_again(photographed: Run, tmp_path: Path) -> None:
    truncate(tmp_path / "pictures" / "cat" / "0.bmp")
    data = load_data(str(tmp_path / "pictures"), skip_corrupt=True)
    record = DataRecord(data.name, data.fingerprint, data.classes, len(data.train), len(data.val), data.skipped)
    run = photographed.updated(replace(photographed.record, data=record))
    assert [str(sample.source) for sample in run.data().val] == [str(sample.source) for sample in data.val]
    assert run.data().skipped == ("cat/0.bmp",)
