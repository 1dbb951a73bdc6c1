"""Which runs a folder holds, by name, by attention, and by age."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from effvit.errors import CheckpointError, UnknownNameError
from effvit.run import RECORD, WEIGHTS, Run, open_run


def find_runs(root: Path) -> list[Run]:
    """Return the runs under `root` that have weights, oldest first."""
    folders = [path.parent for path in root.glob(f"*/{RECORD}")] if root.is_dir() else []
    runs = [open_run(folder) for folder in folders if (folder / WEIGHTS).is_file()]
    return sorted(runs, key=lambda run: (run.record.started, run.name))


def newest_run(root: Path, attention: str | None = None) -> Run:
    """Return the newest run under `root`, of one attention variant if named.

    Raises:
        CheckpointError: There is none.
    """
    runs = [run for run in find_runs(root) if attention in (None, run.record.spec.attention)]
    if not runs:
        kind = f" with {attention} attention" if attention else ""
        flag = attention or "linformer"
        raise CheckpointError(
            f"there is no finished run{kind} in {root}", f"make one with `effvit finetune --attn {flag}`"
        )
    return runs[-1]


def resolve_runs(root: Path, names: Sequence[str], attentions: Sequence[str]) -> list[Run]:
    """Return the runs that `names` (folders, or names under `root`) and `attentions` (the newest of each) ask for.

    Neither: the newest run of all.

    Raises:
        CheckpointError, UnknownNameError: One of them does not exist.
    """
    runs = [open_run(_folder_of(root, name)) for name in names]
    runs += [newest_run(root, attention) for attention in attentions]
    return runs or [newest_run(root)]


def _folder_of(root: Path, name: str) -> Path:
    """Return the folder of the run called `name`, which is a path or a name under `root`."""
    known = [run.name for run in find_runs(root)]
    if not Path(name).exists() and not (root / name).exists() and known:
        raise UnknownNameError("run", name, known)
    return Path(name) if (Path(name) / RECORD).is_file() else root / name
