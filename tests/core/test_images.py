"""Batches for training and arrays for evaluation, and what happens when a file goes missing meanwhile."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import noise, write_folder
from PIL import Image
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from effvit.data.base import Sample
from effvit.decoding import decode
from effvit.errors import DataError
from effvit.images import EvaluationBatches, ImageDataset, ImageLoader, evaluation_pixels, labels_of
from effvit.preprocessing import Preprocessing, evaluation_transform
from effvit.team import ALONE, Place

PREPROCESSING = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), crop_fraction=1.0, interpolation="bicubic")


def to_tensor(image: Image.Image) -> Tensor:
    return pil_to_tensor(image)


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    root = write_folder(tmp_path, {"a": 6, "b": 6})
    return [Sample(path, int(path.parent.name == "b")) for path in sorted(root.rglob("*.png"))]


def loader(dataset: ImageDataset, workers: int, *, seed: int = 0, drop_last: bool = False) -> ImageLoader:
    return ImageLoader(dataset, batch=5, workers=workers, seed=seed, drop_last=drop_last)


@pytest.fixture(params=[0, 2], ids=["in_process", "2_workers"])
def workers(request: pytest.FixtureRequest) -> int:
    return request.param


def test_an_item_is_the_transformed_image_and_its_label(samples: list[Sample]) -> None:
    image, label = ImageDataset(samples, to_tensor)[7]
    assert torch.equal(image, pil_to_tensor(noise(seed=7)))
    assert label == 1


def test_a_small_part_is_read_from_disk_once(samples: list[Sample]) -> None:
    dataset = ImageDataset(samples, to_tensor)
    for sample in samples:
        assert isinstance(sample.source, Path)
        sample.source.unlink()
    assert len([dataset[index] for index in range(len(dataset))]) == 12


def test_the_limit_of_the_cache_is_in_bytes(samples: list[Sample]) -> None:
    in_all = 12 * 24 * 20 * 3
    assert ImageDataset(samples, to_tensor, cache_bytes=in_all).cached is not None
    assert ImageDataset(samples, to_tensor, cache_bytes=in_all - 1).cached is None


def test_an_epoch_has_every_image_once(samples: list[Sample], workers: int) -> None:
    batches = loader(ImageDataset(samples, to_tensor), workers)
    assert len(batches) == 3
    epoch = list(batches.epoch(0))
    assert [len(labels) for _, labels in epoch] == [5, 5, 2]
    assert epoch[0][0].shape == (5, 3, 20, 24)
    assert sorted(labels.item() for _, batch in epoch for labels in batch) == [0] * 6 + [1] * 6


def test_the_last_incomplete_batch_can_be_left_out(samples: list[Sample]) -> None:
    batches = loader(ImageDataset(samples, to_tensor), 0, drop_last=True)
    assert [len(labels) for _, labels in batches.epoch(0)] == [5, 5]
    assert len(batches) == 2


def test_the_seed_decides_the_order_and_epochs_differ(samples: list[Sample]) -> None:
    dataset = ImageDataset(samples, to_tensor)
    batches = loader(dataset, 0, seed=1)
    first, second = (torch.cat([images for images, _ in batches.epoch(index)]) for index in range(2))
    again = torch.cat([images for images, _ in loader(dataset, 0, seed=1).epoch(0)])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_an_epoch_goes_on_from_any_batch_whatever_the_workers(samples: list[Sample]) -> None:
    def noisy(image: Image.Image) -> Tensor:
        # One draw from each generator that a transform may use.
        noise = torch.rand(()) + np.random.rand() + random.random()
        return pil_to_tensor(image) + noise

    dataset = ImageDataset(samples, noisy)
    whole = [images for images, _ in loader(dataset, 0).epoch(3)]
    used = loader(dataset, 2)
    list(used.epoch(0))
    torch.rand(1), np.random.rand(), random.random()
    rest = [images for images, _ in used.epoch(3, first=1)]
    assert len(rest) == 2
    assert all(torch.equal(*pair) for pair in zip(rest, whole[1:], strict=True))
    assert not torch.equal(whole[0], next(iter(loader(dataset, 0).epoch(4)))[0])


def test_making_batches_leaves_the_generators_as_they_were(samples: list[Sample]) -> None:
    dataset = ImageDataset(samples, lambda image: to_tensor(image) + torch.rand(()) + random.random())
    torch.manual_seed(4), np.random.seed(4), random.seed(4)
    expected = torch.rand(1).item(), np.random.rand(), random.random()
    torch.manual_seed(4), np.random.seed(4), random.seed(4)
    list(loader(dataset, 0).epoch(0))
    assert (torch.rand(1).item(), np.random.rand(), random.random()) == expected


def test_a_file_that_vanishes_while_training_is_named_with_its_hint(samples: list[Sample], workers: int) -> None:
    batches = loader(ImageDataset(samples, to_tensor, cache_bytes=0), workers)
    list(batches.epoch(0))
    gone = samples[4].source
    assert isinstance(gone, Path)
    gone.unlink()
    with pytest.raises(DataError) as caught:
        list(batches.epoch(0))
    assert str(caught.value) == f"{gone} cannot be used as an image: no such file or directory"
    assert caught.value.hint == "repair or remove the file"


def test_a_file_missing_from_the_start_is_named(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"gone\.png"):
        ImageDataset([*samples, Sample(Path("gone.png"), 0)], to_tensor)


def test_evaluation_pixels_are_each_images_own_in_order(samples: list[Sample]) -> None:
    seen: list[tuple[int, int]] = []
    pixels = evaluation_pixels(samples, PREPROCESSING, 16, 12, lambda done, total: seen.append((done, total)))
    transform = evaluation_transform(PREPROCESSING, 16, 12)
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.stack([transform(decode(sample.source)) for sample in samples]))
    assert seen[-1] == (12, 12)
    assert labels_of(samples).tolist() == [0] * 6 + [1] * 6


@pytest.mark.parametrize("cache_bytes", [12 * 16 * 12 * 3, 12 * 16 * 12 * 3 - 1], ids=["kept", "read_again"])
def test_evaluation_batches_are_all_pixels_in_order_every_time(samples: list[Sample], cache_bytes: int) -> None:
    whole = evaluation_pixels(samples, PREPROCESSING, 16, 12)
    batches = EvaluationBatches(samples, PREPROCESSING, 16, 12, batch=5, cache_bytes=cache_bytes)
    for _ in range(2):
        epoch = list(batches)
        assert [len(labels) for _, labels in epoch] == [5, 5, 2]
        assert np.array_equal(np.concatenate([pixels for pixels, _ in epoch]), whole)
        assert np.concatenate([labels for _, labels in epoch]).tolist() == labels_of(samples).tolist()


def test_evaluation_pixels_that_fit_are_read_once_and_others_every_time(samples: list[Sample]) -> None:
    kept = EvaluationBatches(samples, PREPROCESSING, 16, 12, batch=5)
    read = EvaluationBatches(samples, PREPROCESSING, 16, 12, batch=5, cache_bytes=0)
    next(iter(kept))  # an iteration that is broken off
    list(kept), list(read)
    samples[-1].source.unlink()  # type: ignore[union-attr]
    assert len(list(kept)) == 3
    with pytest.raises(DataError, match="no such file"):
        list(read)


def test_evaluation_names_a_file_that_vanished(samples: list[Sample]) -> None:
    with pytest.raises(DataError, match=r"gone\.png cannot be used as an image: no such file"):
        evaluation_pixels([Sample(Path("gone.png"), 0), *samples], PREPROCESSING, 16, 16)


def test_processes_take_the_images_of_one_with_so_much_larger_a_batch(samples: list[Sample]) -> None:
    dataset = ImageDataset(samples, to_tensor)
    whole = ImageLoader(dataset, batch=4, workers=0, seed=3, drop_last=True)
    parts = [ImageLoader(dataset, batch=2, workers=0, seed=3, place=Place(rank, 2)) for rank in range(2)]
    assert [len(part) for part in parts] == [len(whole)] * 2
    for index in range(2):
        for (images, _), *dealt in zip(whole.epoch(index), *(part.epoch(index) for part in parts), strict=True):
            assert torch.equal(torch.cat([some for some, _ in dealt]), images)


def test_processes_do_not_draw_the_same(samples: list[Sample]) -> None:
    def drawn(place: Place) -> float:
        dataset = ImageDataset(samples, lambda _: torch.rand(()))
        images, _ = next(iter(ImageLoader(dataset, batch=2, workers=0, seed=3, place=place).epoch(0)))
        return float(images[0])

    assert drawn(Place(0, 2)) == drawn(Place(0, 3)) == drawn(ALONE)
    assert len({drawn(Place(rank, 3)) for rank in range(3)}) == 3


def test_evaluation_batches_are_dealt_out_whole(samples: list[Sample]) -> None:
    whole = [labels for _, labels in EvaluationBatches(samples, PREPROCESSING, 16, 12, batch=5)]
    dealt = [
        [pixels for pixels, _ in EvaluationBatches(samples, PREPROCESSING, 16, 12, batch=5, place=Place(rank, 2))]
        for rank in range(2)
    ]
    assert [[len(pixels) for pixels in part] for part in dealt] == [[5, 2], [5]]
    assert [len(labels) for labels in whole] == [5, 5, 2]
    assert np.array_equal(dealt[1][0], evaluation_pixels(samples[5:10], PREPROCESSING, 16, 12))
