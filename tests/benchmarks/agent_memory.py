"""What memory the agent takes beside a model: `python tests/benchmarks/agent_memory.py --help`.

In a virtual environment with numpy and ONNX Runtime alone, the agent measures a kit, and a script of six lines opens
the same graph and runs it once. Of either, the processes are looked at every few milliseconds, and the highest sum of
their proportional shares (PSS) counts. Others on the machine do not change it, so it need not be quiet.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bare_venv import make_bare_venv
from command import run_command
from results import read_report, show_table, write_report
from rich.box import SIMPLE_HEAD
from rich.table import Table
from untrained_runs import make_run

from effvit.cli.options import names_from_text
from effvit.cli.output import say
from effvit.environment import Environment
from effvit.errors import CheckFailedError
from effvit.profiling.agent.archive import build
from effvit.profiling.agent.kit import BLOBS, Kit
from effvit.profiling.agent.packing import Packing, write_kit
from effvit.profiling.calibration import PROGRAM
from effvit.profiling.devices import Device
from effvit.profiling.pixels import PixelStore
from effvit.profiling.plan import Effort, Plan
from effvit.profiling.results import read
from effvit.run import Run
from effvit.spec import Precision

SCHEMA = "effvit.agent-memory-benchmark/1"
LIMIT_BYTES = 60 * 2**20
CALIBRATION = PROGRAM[-1].encode()
_LOOKED_AGAIN_S = 0.005
_SCRIPT = """\
import sys
import numpy, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
side, only = int(sys.argv[2]), session.get_inputs()[0].name
session.run(None, {only: numpy.zeros((1, 3, side, side), numpy.float32)})
"""


@dataclass(frozen=True, slots=True)
class Peak:
    """What each process of a program had at the moment when it was most in all; the first is the program itself.

    Once on a machine, before anything is opened, the agent measures how fast that is at best. The process in which it
    does is none of these: `calibrating_bytes` is its own peak.
    """

    parts_bytes: tuple[int, ...]
    calibrating_bytes: int = 0

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.parts_bytes)


@dataclass(frozen=True, slots=True)
class Weighing:
    """`variants` measured beside one another, each of batch 1: the peaks of all sittings.

    `script` is of the one that needs most memory, and `model_bytes` is the size of its graph.
    """

    variants: tuple[str, ...]
    model_bytes: int
    script: tuple[Peak, ...]
    agent: tuple[Peak, ...]

    @property
    def above_bytes(self) -> int:
        """How much more the agent took at its highest than the script did at its lowest."""
        return max(one.bytes for one in self.agent) - min(one.bytes for one in self.script)


@dataclass(frozen=True, slots=True)
class Report:
    """One variant by itself, and all of them."""

    environment: Environment
    backbone: str
    px: int
    weighings: tuple[Weighing, ...]
    schema: str = SCHEMA


def benchmark(arguments: argparse.Namespace) -> Report:
    """Weigh kits of one variant and of all that were asked for."""
    px, names = arguments.px, names_from_text(arguments.attn)
    with tempfile.TemporaryDirectory(prefix="effvit-") as temporary:
        folder = Path(temporary)
        python = make_bare_venv(folder / "venv", arguments.python)
        build(folder / "agent.pyz")
        runs = [make_run(folder / "runs", name, backbone=arguments.backbone, px=px) for name in names]
        kits = [runs[:1], runs] if len(runs) > 1 else [runs]
        found = [_weighed(arguments, python, several, folder / str(len(several))) for several in kits]
    return Report(found[0][1], arguments.backbone, px, tuple(one for one, _ in found))


def _weighed(
    arguments: argparse.Namespace, python: Path, runs: Sequence[Run], folder: Path
) -> tuple[Weighing, Environment]:
    names = tuple(run.name for run in runs)
    say(f"packing {', '.join(names)}")
    kit = _packed(arguments, runs, folder)
    environment = {"EFFVIT_CACHE": str(folder / "cache"), "PATH": "/usr/bin:/bin", "TMPDIR": str(folder)}
    agent = [str(python), str(folder.parent / "agent.pyz"), "run", str(folder / "kit"), "--out"]
    say("measuring with the agent")
    ours = [peak_of([*agent, str(folder / f"{number}.jsonl")], environment) for number in range(arguments.sittings)]
    say("running the script")
    blobs = [folder / "kit" / BLOBS / one.blob for one in kit.artifacts if one.blob is not None]
    script = [str(python), "-c", _SCRIPT]
    heaviest = max(blobs, key=lambda blob: peak_of([*script, str(blob), str(arguments.px)], environment).bytes)
    bare = [peak_of([*script, str(heaviest), str(arguments.px)], environment) for _ in range(arguments.sittings)]
    outcome = read(folder / "0.jsonl")[0]
    return Weighing(names, heaviest.stat().st_size, tuple(bare), tuple(ours)), outcome.environment


def _packed(arguments: argparse.Namespace, runs: Sequence[Run], folder: Path) -> Kit:
    size = (arguments.px, arguments.px)
    plan = Plan(tuple(runs), (size,), (1,), (Precision.FP32,), ("ort-cpu",), (Device(threads=1),))
    effort = Effort(threads=1, rounds=3, samples=6, least_s=0.5, most_s=2.0, eval_images=arguments.images)
    with PixelStore() as pixels:
        return write_kit(Packing(plan, effort, pixels, lambda _: None), folder / "kit")


def peak_of(command: Sequence[str], environment: dict[str, str]) -> Peak:
    """Run a command to its end, and return the most memory that it and all it started had at one moment.

    Raises:
        CheckFailedError: It failed.
    """
    most, calibrating = [0], 0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd="/"
    ) as process:
        while process.poll() is None:
            family = list(_family(process.pid))
            shares = [_share_bytes(one) for one in family if not _calibrates(one)]
            most = max(most, shares, key=sum)
            calibrating = max([calibrating, *(_share_bytes(one) for one in family if _calibrates(one))])
            time.sleep(_LOOKED_AGAIN_S)
        assert process.stderr is not None
        complaints = process.stderr.read()
    if process.returncode:
        raise CheckFailedError(f"{command[1]} failed: {complaints.strip()[-300:]}", "see what it lacks")
    return Peak(tuple(most), calibrating)


def _family(process: int) -> Iterator[int]:
    yield process
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _family(int(child))


def _calibrates(process: int) -> bool:
    try:
        return CALIBRATION in Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _share_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def table_of(report: Report) -> Table:
    """Return the report as a table."""
    title = f"{report.backbone}, {report.px} px, batch 1, 1 thread, {report.environment.cpu}"
    table = Table(box=SIMPLE_HEAD, title=title)
    for name in ("variants", "file", "script", "agent", "above", "calibration"):
        table.add_column(name, justify="left" if name == "variants" else "right")
    for one in report.weighings:
        sizes = (
            one.model_bytes,
            min(peak.bytes for peak in one.script),
            max(peak.bytes for peak in one.agent),
            one.above_bytes,
        )
        shown = [f"{size / 2**20:.1f} MiB" for size in sizes]
        name = one.variants[0] if len(one.variants) == 1 else f"{len(one.variants)} variants"
        table.add_row(name, *shown, f"{max(peak.calibrating_bytes for peak in one.agent) / 2**20:.1f} MiB")
    return table


def _run(arguments: argparse.Namespace) -> None:
    """Weigh, or show an earlier result.

    Raises:
        CheckFailedError: The agent takes more than the limit.
    """
    report = read_report(arguments.show, Report) if arguments.show else benchmark(arguments)
    if arguments.out:
        write_report(arguments.out, report)
    show_table(table_of(report), markdown=arguments.show is not None)
    heavy = [one for one in report.weighings if one.above_bytes >= LIMIT_BYTES]
    if heavy:
        raise CheckFailedError(
            f"the agent takes {heavy[0].above_bytes / 2**20:.1f} MiB more than the script", "see what it holds"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--attn", default="softmax,linformer", help="the first by itself, then all beside one another")
    parser.add_argument("--px", type=int, default=224)
    parser.add_argument("--images", type=int, default=500, help="on which accuracy is measured")
    parser.add_argument("--sittings", type=int, default=3)
    parser.add_argument("--python", default="/usr/bin/python3", help="what makes the virtual environment")
    parser.add_argument("--out", type=Path, help="result file")
    parser.add_argument("--show", type=Path, help="show this result file as Markdown instead of measuring")
    return parser


if __name__ == "__main__":
    run_command(_parser(), _run)
