"""Data sets on the Hugging Face hub, downloaded whole by the package `datasets`."""

from __future__ import annotations

import re

from effvit.columns import IMAGE, LABEL, OPTIONS, found_in, require_datasets, without_options
from effvit.data.base import DataSource, Found
from effvit.errors import DataError, UnavailableError, first_line
from effvit.hub import HUB_PREFIX, hub_answers_or_cache_only

NAME = HUB_PREFIX.removesuffix(":")
CONFIG = "config"
FORM = f"{HUB_PREFIX}NAME[@REVISION]"


def find(name: str) -> Found:
    """Return the data set that `hf:NAME[@REVISION]`, with its options behind commas, names.

    Raises:
        DataError: The name has another form, or the data set cannot be used.
        UnavailableError: The package `datasets` is missing, or neither the hub nor its cache gives the data set.
    """
    repository, options = without_options(name, (CONFIG, IMAGE, LABEL))
    form = re.fullmatch(rf"{HUB_PREFIX}([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?", repository)
    if form is None:
        raise DataError(
            f"{name!r} does not name a data set on the hub", f"write {FORM}[,{CONFIG}=NAME]{OPTIONS}, without spaces"
        )
    require_datasets(name)
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError, DatasetsError

    try:
        with hub_answers_or_cache_only():
            tables = load_dataset(form[1], options.get(CONFIG), revision=form[2])
    except DatasetNotFoundError as error:
        raise UnavailableError(
            f"the hub did not give {repository}: {first_line(error)}",
            "check the name and the revision, or log in with `hf auth login` for a private one",
        ) from error
    # ValueError: a configuration that is missing, or none of its own.
    except (DatasetsError, ValueError) as error:
        raise DataError(
            f"{repository} cannot be used: {first_line(error)}", f"name one of its parts with {name},{CONFIG}=NAME"
        ) from error
    except OSError as error:
        raise UnavailableError(
            f"{repository} is not in the local cache, and the hub cannot be reached: {first_line(error)}",
            "connect to the internet once, or give a local folder with --data PATH",
        ) from error
    return found_in(name, dict(tables), options)


SOURCE = DataSource(
    name=NAME,
    form=FORM,
    summary=f"a data set on the Hugging Face hub, downloaded once; what cannot be found is named behind it: "
    f"[,{CONFIG}=NAME]{OPTIONS}",
    find=find,
)
