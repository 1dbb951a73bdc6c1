"""`effvit diff`: where two artifacts of one model part."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.artifacts import run_around
from effvit.cli.options import DEFAULT_RUNS, JsonOption, RunsOption, ThreadsOption, names_from_text
from effvit.cli.output import CountingBar, progress_bars, say, show, write_json
from effvit.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from effvit.export.base import Backend
    from effvit.export.differences import Side
    from effvit.run import Run


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="graph that the other is held against", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="B", help="graph of the same run and size", show_default=False)],
    backend: Annotated[str, typer.Option(metavar="NAME[,NAME]", help="runtime of both, or of A and of B")] = "ort-cpu",
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="run of the graphs [default: whose folder A lies in]")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", min=1, help="held-out images to run")] = 16,
    threads: ThreadsOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Run two graphs of one model on the same real images, and name the first block where they part.

    Parting is a relative error beyond what the coarser of the two precisions explains; it ends with exit code 4. Two
    runtimes of one graph are told apart by --backend.
    """
    names = names_from_text(backend)
    if not 1 <= len(names) <= 2:
        raise UsageError(f"--backend names {len(names)} runtimes", "name one for both graphs, or two")

    import numpy as np

    from effvit.environment import usable_cores
    from effvit.export.base import pick_backend
    from effvit.export.differences import check_comparison, compare_blocks
    from effvit.export.graph_file import check_whole
    from effvit.preprocessing import normalise
    from effvit.profiling.pixels import PixelStore

    paths, chosen = [Path(first), Path(second)], [pick_backend(name) for name in (names * 2)[:2]]
    for path in paths:
        if not path.is_file():
            raise ArtifactError(f"there is no file {path}", "name two .onnx files of one model")
        check_whole(path)
    of = _run_of(paths[0], run, runs)
    sides = [_side(path, of, one) for path, one in zip(paths, chosen, strict=True)]
    size = sides[0].artifact.height, sides[0].artifact.width
    with progress_bars() as progress, PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels:
        some = normalise(np.load(pixels.get(of, *size, images).path), of.record.preprocessing)
        say(f"running both on {len(some)} images")
        comparison = compare_blocks(sides[0], sides[1], some, threads or usable_cores())
    if json:
        import msgspec

        write_json(msgspec.json.encode(comparison))
    else:
        from effvit.cli.inspection import comparison_table

        show(comparison_table(comparison))
    check_comparison(comparison)


def _run_of(path: Path, name: str | None, runs: Path) -> Run:
    """Return the run called `name`, or the one whose artifacts' folder `path` lies in."""
    from effvit.runs import resolve_runs

    if name is not None:
        return resolve_runs(runs, [name], [])[0]
    return run_around(path, "say which run it was made from with --run")


def _side(path: Path, run: Run, backend: Backend) -> Side:
    from effvit.export.differences import Side
    from effvit.export.stray import stray_artifact

    artifact = stray_artifact(path, run)
    backend.require(artifact.precision)
    return Side(artifact, backend)
