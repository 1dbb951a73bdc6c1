"""Engines in a sweep: one for each batch, where other artifacts are one for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from untrained_runs import make_run

from effvit.export.base import Artifact, pick_backend
from effvit.export.engine_options import DEFAULT_ENGINE, engine_for
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Group
from effvit.profiling.preparation import Preparation
from effvit.spec import Precision, Workload

GPU = Device("cuda", index=0)
# Its artifact is the checkpoint, which takes no time to make.
BOUND = replace(pick_backend("torch"), name="bound", format="bound", device_bound=True)


def test_a_cell_is_measured_through_an_engine_of_its_own_batch(tmp_path: Path) -> None:
    run = make_run(tmp_path, "softmax")
    made = []
    with PixelStore() as pixels:
        preparation = Preparation(Effort(threads=1), pixels, lambda _: None)
        for batch in (1, 8, 8):
            artifact = preparation.artifact(Group(BOUND, Precision.FP32, Workload(batch, 32, 32), GPU), run)
            assert isinstance(artifact, Artifact)
            made.append(artifact)
    assert [one.engine for one in made] == [engine_for(1), engine_for(8), engine_for(8)]
    assert made[1] is made[2]


def test_what_is_no_engine_is_made_once_for_all_batches(tmp_path: Path) -> None:
    run = make_run(tmp_path, "softmax")
    sources = {
        Group(pick_backend("ort-cpu"), Precision.FP32, Workload(batch, 32, 32)).source(run).engine for batch in (1, 8)
    }
    assert sources == {DEFAULT_ENGINE}
