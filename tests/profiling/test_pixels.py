"""Which images runs are judged on, and that they are known again."""

from __future__ import annotations

import pytest
from untrained_runs import make_run

from effvit.profiling.pixels import PixelStore
from effvit.run import Run


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
