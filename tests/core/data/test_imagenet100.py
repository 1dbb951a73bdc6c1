"""ImageNet-100 is 100 classes of ImageNet-1k, whatever else lies in the folder."""

from pathlib import Path

import pytest
from pictures import noise
from timm.data import ImageNetInfo

from effvit.data.base import Sample, load_data
from effvit.data.imagenet100 import WNIDS
from effvit.errors import DataError


@pytest.fixture
def imagenet(tmp_path: Path) -> Path:
    """Return a folder with one image in each part of the 100 classes, and of one other."""
    for part, seed in (("train", 0), ("val", 1)):
        for number, wnid in enumerate([*WNIDS, "n01440764"]):
            (tmp_path / part / wnid).mkdir(parents=True)
            noise(8, 8, seed=2 * number + seed).save(tmp_path / part / wnid / "a.png")
    return tmp_path


def test_the_list_is_100_different_classes_of_imagenet_1k() -> None:
    assert len(WNIDS) == len(set(WNIDS)) == 100
    assert set(WNIDS) <= set(ImageNetInfo().label_names())
    assert (WNIDS[0], WNIDS[-1]) == ("n02869837", "n02090622")


def test_other_classes_are_left_out(imagenet: Path) -> None:
    data = load_data(f"imagenet100:{imagenet}")
    assert data.classes == tuple(sorted(WNIDS))
    assert [sample.label for sample in data.train] == list(range(100))
    assert {folder(sample) for sample in data.train} == set(WNIDS)
    assert len(data.val) == 100


def folder(sample: Sample) -> str:
    assert isinstance(sample.source, Path)
    return sample.source.parent.name


def test_a_class_that_is_not_there_is_named(imagenet: Path) -> None:
    (imagenet / "val" / "n04589890" / "a.png").unlink()
    (imagenet / "val" / "n04589890").rmdir()
    with pytest.raises(DataError) as caught:
        load_data(f"imagenet100:{imagenet}")
    assert str(caught.value) == f"{imagenet}/val has no folder for 1 of the 100 classes: n04589890"


def test_another_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no folder for 100 of the 100 classes: n01558993, n01692333, n01729322"):
        load_data(f"imagenet100:{tmp_path}")
    with pytest.raises(DataError, match="there is no folder nowhere"):
        load_data("imagenet100:nowhere")
