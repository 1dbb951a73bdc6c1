"""Tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from effvit.accuracy import Accuracy, balanced_top1, top1, top5
from effvit.cli.cmd_doctor import Diagnosis
from effvit.export.base import Artifact


def diagnosis_tables(diagnosis: Diagnosis) -> list[Table]:
    """Return the machine, then the backends."""
    environment = diagnosis.environment
    machine = _plain("this machine", "")
    ram = environment.ram_bytes
    for name, value in (
        ("processor", f"{environment.cpu}, {environment.cores} usable cores"),
        ("memory", "unknown" if ram is None else f"{ram / 2**30:.0f} GiB"),
        ("GPUs", ", ".join(environment.gpus) or "none that an NVIDIA driver knows of"),
        ("system", f"{environment.os}, Python {environment.python}"),
        ("packages", ", ".join(f"{package} {version}" for package, version in environment.packages)),
    ):
        machine.add_row(name, value)
    backends = _plain("backend", "version", "precisions", "state")
    for status in diagnosis.backends:
        state = (
            "ready" if status.unavailable is None else f"not here: {status.unavailable}; to get it: {status.install}"
        )
        backends.add_row(status.name, status.version or "-", ", ".join(status.precisions), state)
    return [machine, backends]


def names_table(rows: Sequence[tuple[str, str]]) -> Table:
    """Return names with their summaries."""
    table = _plain("name", "summary")
    for row in rows:
        table.add_row(*row)
    return table


def accuracy_table(rows: Sequence[tuple[str, str, Accuracy]], backend: str, precision: str) -> Table:
    """Return accuracies of (run, size, counts), measured through one backend."""
    table = _plain("run", "px", "top-1", "top-5", "class-balanced top-1", "images", title=f"{backend}, {precision}")
    for run, size, accuracy in rows:
        rates = (top1(accuracy), top5(accuracy), balanced_top1(accuracy))
        shown = ["-" if rate is None else f"{rate:.1%}" for rate in rates]
        table.add_row(run, size, *shown, f"{accuracy.images} of {accuracy.of_images}")
    return table


def artifacts_table(artifacts: Sequence[Artifact]) -> Table:
    """Return artifacts with their agreement with PyTorch."""
    table = _plain("file", "attention", "px", "precision", "size", "largest logit difference", "same top-1")
    for artifact in artifacts:
        parity = artifact.parity
        table.add_row(
            _relative(Path(artifact.path)),
            artifact.model.attention,
            f"{artifact.height}x{artifact.width}",
            str(artifact.precision),
            f"{artifact.size_bytes / 2**20:.1f} MiB",
            "-" if parity is None else f"{parity.max_abs:.2g}",
            "-" if parity is None else f"{parity.agreement:.1%} of {parity.images}",
        )
    return table


def _relative(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _plain(*columns: str, title: str | None = None) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
