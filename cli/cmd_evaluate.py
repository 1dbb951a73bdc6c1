"""`effvit evaluate`: accuracy of a run, or of one of its artifacts, through any backend."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from effvit.cli.artifacts import is_file, run_around, verified_file
from effvit.cli.launched import alone
from effvit.cli.options import (
    DEFAULT_RUNS,
    ClassesOption,
    FallbackOption,
    JsonOption,
    PinsOption,
    ResolutionsOption,
    RunsOption,
    ThreadsOption,
    pins_from_text,
    precisions_from_text,
    resolutions_from_text,
)
from effvit.cli.output import CountingBar, progress_bars, say, show, warn, write_json
from effvit.errors import ArtifactError, UsageError
from effvit.spec import Precision

if TYPE_CHECKING:
    from effvit.accuracy import Accuracy
    from effvit.export.base import Artifact, Backend, Source
    from effvit.profiling.pixels import PixelStore
    from effvit.run import Run


VERIFIED_IMAGES = 64


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An artifact of a run and how it answers through `backend`; `fallback` is what that did otherwise than asked."""

    run: Run
    artifact: Artifact
    backend: str
    accuracy: Accuracy
    fallback: str | None


@alone
def evaluate(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="RUN|ARTIFACT",
            help="runs, or files that `effvit export` wrote of them [default: the newest run]",
            show_default=False,
        ),
    ] = None,
    backend: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="runtime, see `effvit list backends` [default: torch; for a file, the one that verified it]",
        ),
    ] = None,
    precision: Annotated[str | None, typer.Option(metavar="NAME", help="type to compute in [default: fp32]")] = None,
    res: ResolutionsOption = None,
    pin_fp32: PinsOption = None,
    eval_images: Annotated[
        int, typer.Option(metavar="N", min=0, help="held-out images, evenly over the classes; 0 is all of them")
    ] = 0,
    cache: Annotated[
        Literal["ram", "disk"] | None,
        typer.Option(
            metavar="ram|disk",
            help="decode held-out images once for all sizes, or keep them prepared for the next time",
            show_default=False,
        ),
    ] = None,
    allow_fallback: FallbackOption = False,
    threads: ThreadsOption = None,
    classes: ClassesOption = False,
    runs: RunsOption = DEFAULT_RUNS,
    json: JsonOption = False,
) -> None:
    """Measure top-1, top-5 and class-balanced accuracy on the held-out images, through any backend.

    A runtime that does something else than it was asked for, such as computing in another type, ends with exit code 4.
    With --pin-fp32 auto, what an `effvit export` with it has found to have to stay in fp32 does.
    """
    kind, *others = precisions_from_text(precision or Precision.FP32)
    if others:
        raise UsageError(
            f"accuracy is measured in one precision at a time, not in {precision}", f"choose --precision {kind}"
        )
    sizes = resolutions_from_text(res) if res is not None else []
    pins = pins_from_text(pin_fp32, [kind])
    files = [Path(name) for name in run or [] if is_file(name, runs)]
    if files and (precision or res or pins):
        raise UsageError(
            f"{files[0]} is made already, and --precision, --res and --pin-fp32 say what is to be made of a run",
            "leave them away, or name a run",
        )

    from effvit.environment import usable_cores
    from effvit.export.base import pick_backend
    from effvit.profiling.pixels import PixelStore
    from effvit.runs import resolve_runs

    chosen = pick_backend(backend or "torch")
    names = [name for name in run or [] if not is_file(name, runs)]
    if names or not files:
        chosen.require(kind)
    found: list[Evaluated] = []
    with (
        progress_bars() as progress,
        PixelStore(CountingBar(progress, "preparing images", "prepared"), cache) as pixels,
    ):
        evaluation = _Evaluation(pixels, eval_images, threads or usable_cores(), allow_fallback)
        for path in files:
            found.append(evaluation.of_file(path, backend))
        for one in resolve_runs(runs, names, []) if names or not files else []:
            found += [evaluation.of_source(source, chosen) for source in _sources(one, chosen, kind, sizes, pins)]
    _show(found, classes=classes, json=json)


def _sources(
    run: Run, backend: Backend, precision: Precision, sizes: Sequence[tuple[int, int]], names: Sequence[str]
) -> Iterator[Source]:
    """Yield what is evaluated of a run at these (height, width) px, its trained size where there are none."""
    from effvit.cli.pinning import pins_named
    from effvit.export.base import Source

    for height, width in sizes or [run.record.spec.trained]:
        source = Source(run, height, width, precision)
        yield replace(source, pins=pins_named(names, source, backend)) if names else source


@dataclass(frozen=True, slots=True)
class _Evaluation:
    """Counts answers on up to `images` held-out images of a run (0: all)."""

    pixels: PixelStore
    images: int
    threads: int
    allow_fallback: bool

    def of_source(self, source: Source, backend: Backend) -> Evaluated:
        """Evaluate the artifact of `source`, made and verified unless it was before."""
        from effvit.export.build import verified_artifact

        some = self.pixels.get(source.run, source.height, source.width, VERIFIED_IMAGES)
        artifact = verified_artifact(source, backend, some.path, self.threads)
        return self._evaluated(source.run, artifact, backend)

    def of_file(self, path: Path, name: str | None) -> Evaluated:
        """Evaluate the artifact in a file through the backend called `name` (None: the last that verified it).

        Raises:
            ArtifactError: It is not there, was never verified by that backend, or lies in no run's folder.
            DamagedArtifactError, ChangedFileError: It is no whole graph, or not the one that was verified.
        """
        from effvit.export.base import pick_backend

        known = verified_file(path)
        fitting = [sidecar for sidecar in known if name in (None, sidecar.backend)]
        if not fitting:
            verifiers = ", ".join(sidecar.backend for sidecar in known)
            raise ArtifactError(f"{path} was verified by {verifiers}, not by {name}", "name one of these as --backend")
        run = run_around(path, "leave it in the folder of the run that it was made from")
        backend = pick_backend(fitting[-1].backend)
        backend.require()
        return self._evaluated(run, fitting[-1].artifact, backend)

    def _evaluated(self, run: Run, artifact: Artifact, backend: Backend) -> Evaluated:
        """Evaluate an artifact that was verified.

        Raises:
            FallbackError: The runtime does something else than it was asked for, and that is not allowed.
        """
        from effvit.export.build import artifact_accuracy, refuse

        images = self.pixels.get(run, artifact.height, artifact.width, self.images)
        fallen: list[str] = []
        accuracy = artifact_accuracy(
            artifact,
            backend,
            images.path,
            images.labels,
            images.of_images,
            self.threads,
            fallback=fallen.append if self.allow_fallback else refuse,
        )
        for text in fallen:
            warn(text)
        return Evaluated(run, artifact, backend.name, accuracy, "; ".join(fallen) or None)


def _show(found: Sequence[Evaluated], *, classes: bool, json: bool) -> None:
    if json:
        import msgspec

        facts = [
            {
                "run": one.run.name,
                "px": f"{one.artifact.height}x{one.artifact.width}",
                "accuracy": one.accuracy,
                "fallback": one.fallback,
                "artifact": Path(one.artifact.path).name,
                "backend": one.backend,
                "precision": one.artifact.precision,
                "pins": () if one.artifact.pinned is None else one.artifact.pinned.modules,
            }
            for one in found
        ]
        write_json(msgspec.json.encode(facts))
        return
    from effvit.cli.render import accuracy_table

    show(accuracy_table([(one.run.name, one.artifact, one.backend, one.accuracy) for one in found]))
    if classes:
        from effvit.cli.curves import classes_table

        for one in found:
            say(f"\n{one.run.name}, {one.artifact.height}x{one.artifact.width}")
            show(classes_table(one.run.record.data.classes, one.accuracy))
