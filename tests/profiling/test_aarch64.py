"""The agent on another kind of processor: a Debian for aarch64 whose programs qemu carries out.

`tests/devices/aarch64_root.sh` makes it, and `$EFFVIT_AARCH64_ROOT` names its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from agents import BRIEF, bare_environment
from untrained_runs import make_run

from effvit.profiling.agent.archive import build
from effvit.profiling.agent.kit import BLOBS, Kit, images_of
from effvit.profiling.agent.packing import Packing, write_kit
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Plan
from effvit.profiling.report.rows import make_rows
from effvit.profiling.results import read
from effvit.run import Run
from effvit.spec import Precision
from effvit.surgery import attention_variants

ROOT = os.environ.get("EFFVIT_AARCH64_ROOT")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(ROOT is None, reason="EFFVIT_AARCH64_ROOT names no root (tests/devices/aarch64_root.sh)"),
    pytest.mark.skipif(os.getuid() != 0, reason="only root changes the root"),
]
# Between two processors: sums of fp32 are made in another order.
CLOSE = 1e-4
_LOGITS = """\
import json, sys
from effvit.profiling.worker import Worker
for artifact, pixels, out in json.load(sys.stdin):
    worker = Worker()
    worker.prepare("ort-cpu", {"threads": 1}, None)
    worker.open("ort-cpu", artifact, 1, 1, pixels)
    worker.predict(pixels, out, 4)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Return a folder in the root."""
    folder = Path(tempfile.mkdtemp(prefix="effvit-", dir=f"{ROOT}/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, place: Path) -> list[Run]:
    """Return a run of every variant; the agent lies in `place`."""
    build(place / "agent.pyz")
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root, attention) for attention in attention_variants()]


def pack(runs: Sequence[Run], folder: Path) -> Kit:
    plan = Plan(tuple(runs), ((32, 32),), (1,), (Precision.FP32,), ("ort-cpu",), (Device(threads=1),))
    with PixelStore() as pixels:
        return write_kit(Packing(plan, replace(BRIEF, timeout_s=600), pixels, lambda _: None), folder)


def there(place: Path, *words: str, stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the root, with a /proc, in the folder's place there."""
    assert ROOT is not None
    inside = f"/{place.relative_to(ROOT)}"
    settings = [f"{name}={value}" for name, value in {"TMPDIR": inside, "HOME": inside, **variables}.items()]
    script = f'mount -t proc proc "{ROOT}/proc" && cd "{place}" && exec chroot "{ROOT}" "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh"]
    command += ["/usr/bin/env", "-i", "-C", inside, *settings, "/usr/bin/python3", *words]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


def test_logits_are_those_of_this_machine(place: Path, runs: list[Run], tmp_path: Path) -> None:
    kit = pack(runs, place / "all")
    found: dict[str, list[np.ndarray]] = {}
    for side in ("here", "there"):
        folder = place if side == "here" else Path("/") / place.relative_to(str(ROOT))
        jobs = []
        for number, one in enumerate(kit.artifacts):
            assert one.artifact is not None
            images = images_of(kit, one.run, one.height, one.width, kit.effort.verify_images)
            blobs = folder / "all" / BLOBS
            artifact = asdict(replace(one.artifact, path=str(blobs / str(one.blob))))
            jobs.append((artifact, str(blobs / images.blob), str(folder / f"{side}-{number}.npy")))
        if side == "here":
            command = [sys.executable, "-c", _LOGITS]
            environment = bare_environment(tmp_path / "bare")
            environment["PYTHONPATH"] = f"{environment['PYTHONPATH']}:{place / 'agent.pyz'}"
            ended = subprocess.run(
                command, input=json.dumps(jobs), env=environment, cwd="/", capture_output=True, text=True, check=False
            )
        else:
            ended = there(place, "-c", _LOGITS, stdin=json.dumps(jobs), PYTHONPATH=str(folder / "agent.pyz"))
        assert ended.returncode == 0, ended.stderr
        found[side] = [np.load(place / f"{side}-{number}.npy") for number in range(len(kit.artifacts))]
    furthest = [float(np.abs(one - other).max()) for one, other in zip(found["here"], found["there"], strict=True)]
    print(f"largest difference of a logit: {max(furthest):.2g}, of {len(furthest)} graphs")
    assert len(furthest) == len(runs)
    assert max(float(np.abs(one).max()) for one in found["here"]) > 0.1
    assert max(furthest) < CLOSE


def test_a_kit_is_measured_and_its_rows_rank_nothing(place: Path, runs: list[Run]) -> None:
    """Two variants: a process takes half a minute to open a graph there."""
    kit = pack([run for run in runs if run.name in ("softmax", "linformer")], place / "kit")
    ended = there(place, "agent.pyz", "run", "kit")
    assert ended.returncode == 0, ended.stderr
    outcomes = read(place / "kit/results.jsonl")
    assert len(outcomes) == len(kit.artifacts)
    for outcome in outcomes:
        assert outcome.status in ("ok", "unstable"), outcome.reason
        assert outcome.environment.emulated
        assert outcome.environment.cpu.startswith("aarch64, emulated on ")
        assert outcome.environment.os.endswith("aarch64")
        assert any(note.startswith("emulated: ") for note in outcome.notes)
        assert outcome.evidence is not None
        assert outcome.evidence.parity is not None
        assert outcome.evidence.parity.max_abs < CLOSE
    rows = make_rows(outcomes)
    assert {one for row in rows for one in row.standings} == {None}
    assert {row.speedup for row in rows} == {None}
