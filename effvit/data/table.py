"""Tables of images on this machine: what `save_to_disk` of the package `datasets` wrote, or parquet files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from effvit.columns import IMAGE, LABEL, OPTIONS, found_in, require_datasets, without_options
from effvit.data.base import HELD_OUT, TRAIN, WHOLE, DataSource, Found
from effvit.errors import DataError, first_line

if TYPE_CHECKING:
    from datasets import Dataset

NAME = "table"
ONE, SEVERAL = "state.json", "dataset_dict.json"
"""What `save_to_disk` writes for a table, and for several of them."""
PARQUET = ".parquet"


def find(name: str) -> Found:
    """Return the data set in the tables of `table:PATH` or `PATH`, with its options behind commas.

    Raises:
        DataError: There are no such tables, they are damaged, or it is not clear what is in them.
        UnavailableError: The package `datasets` is missing.
    """
    place, options = without_options(name.removeprefix(f"{NAME}:"), (IMAGE, LABEL))
    path = Path(place).expanduser()
    if not recognises(path):
        raise DataError(
            f"there are no tables at {path}", f"name a {PARQUET} file, a folder of them, or one of `save_to_disk`"
        )
    require_datasets(name)
    import pyarrow
    from datasets.exceptions import DatasetsError

    try:
        tables = _saved(path) if _is_saved(path) else _parquet(path)
    # IndexError: a table without rows.
    except (DatasetsError, pyarrow.ArrowException, OSError, ValueError, KeyError, IndexError) as error:
        # The package wraps what went wrong into an error that only says that something did.
        raise DataError(
            f"the tables at {path} cannot be read: {first_line(_cause(error))}", "restore or remove the damaged file"
        ) from error
    return found_in(name, tables, options)


def recognises(path: Path) -> bool:
    """Return whether there are tables at `path`, written without options."""
    return _is_saved(path) or path.suffix == PARQUET or any(path.glob(f"*{PARQUET}"))


def _is_saved(path: Path) -> bool:
    return (path / ONE).is_file() or (path / SEVERAL).is_file()


def _saved(path: Path) -> Mapping[str, Dataset]:
    from datasets import DatasetDict, load_from_disk

    loaded = load_from_disk(path)
    return dict(loaded) if isinstance(loaded, DatasetDict) else {WHOLE: loaded}


def _parquet(path: Path) -> Mapping[str, Dataset]:
    from datasets import load_dataset

    files = [path] if path.is_file() else sorted(path.glob(f"*{PARQUET}"))
    splits: dict[str, list[str]] = {}
    for file in files:
        # As on the hub: train-00000-of-00004.parquet.
        split = next((part for part in (TRAIN, *HELD_OUT) if file.name.startswith(part)), WHOLE)
        splits.setdefault(split, []).append(str(file))
    return dict(load_dataset("parquet", data_files=splits))


def _cause(error: BaseException) -> Exception:
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    assert isinstance(error, Exception)
    return error


SOURCE = DataSource(
    name=NAME,
    form=f"{NAME}:PATH",
    summary=f"parquet files, or a folder that `save_to_disk` of the package datasets wrote; {OPTIONS} behind it",
    find=find,
    recognises=recognises,
)
