"""`effvit refit`: the weights of a run in an engine that was built for another of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from effvit.cli.artifacts import verified_file
from effvit.cli.engines import engine_summary
from effvit.cli.options import (
    DEFAULT_RUNS,
    FallbackOption,
    JsonOption,
    MaxDropOption,
    RunsOption,
    ThreadsOption,
    VerifyImagesOption,
)
from effvit.cli.output import CountingBar, progress_bars, say, show, warn, write_json
from effvit.errors import ArtifactError

if TYPE_CHECKING:
    from effvit.export.base import Artifact


def refit(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="what `effvit export --trt ... --refit` built")],
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="run whose weights it gets [default: the newest]", show_default=False),
    ] = None,
    verify_images: VerifyImagesOption = 64,
    max_drop: MaxDropOption = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Put the weights of a run into a TensorRT engine whose weights can be exchanged, as after fine-tuning again.

    The engine itself stays as it is: the new one lies among the artifacts of the run, and is compared with the run's
    PyTorch model as `effvit export` does it. It takes seconds, because no kernel is chosen anew. Model, attention,
    classes, size, precision, batches and options are those of the engine, which must not be quantised.
    """
    known = _engine_in(engine)

    from effvit.environment import usable_cores
    from effvit.export.backends.tensorrt import refitting
    from effvit.export.build import Limits, refuse, verified_artifact
    from effvit.export.tensorrt_refit import source_for
    from effvit.profiling.pixels import PixelStore
    from effvit.runs import resolve_runs

    (chosen,) = resolve_runs(runs, [run] if run is not None else [], [])
    backend = refitting(known)
    backend.require()
    source = source_for(known, chosen)
    limits = Limits(max_drop, warn if allow_fallback else refuse)
    with progress_bars() as progress, PixelStore(CountingBar(progress, "preparing images", "prepared")) as pixels:
        images = pixels.get(chosen, source.height, source.width, verify_images)
        say(f"putting the weights of {chosen.name} into {engine.name}")
        made = verified_artifact(source, backend, images.path, threads or usable_cores(), images.truth, limits)
    say(engine_summary(Path(made.path)))
    if json:
        import msgspec

        write_json(msgspec.json.encode(made))
        return
    from effvit.cli.render import artifacts_table

    show(artifacts_table([made]))


def _engine_in(path: Path) -> Artifact:
    """Return the verified engine in the file `path`.

    Raises:
        ArtifactError: It is not there, was never verified, or is no engine.
        DamagedArtifactError, ChangedFileError: It is not whole, or not the file that was verified.
    """
    artifact = verified_file(path)[-1].artifact
    if artifact.format != "tensorrt":
        raise ArtifactError(f"{path} is no TensorRT engine", "name an .engine file that `effvit export --trt` wrote")
    return artifact
