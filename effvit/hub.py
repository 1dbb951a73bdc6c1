"""The Hugging Face hub: whether it answers, and checkpoints from it or from its cache."""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from effvit.errors import UnavailableError, UsageError, first_line
from effvit.huggingface_config import CONFIG, PROCESSOR, WEIGHT_FILES, shards_of

HUB_PROBE_S = 5.0
HUB_PREFIX = "hf:"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A checkpoint's folder in the hub's cache, and the commit it is of."""

    folder: Path
    revision: str


def download_config(identifier: str) -> Snapshot:
    """Return the snapshot of `hf:OWNER/NAME` or `hf:OWNER/NAME@REVISION` with its `config.json` alone.

    Raises:
        UsageError: The identifier has another form.
        UnavailableError: The configuration can be had neither from the hub nor from its cache.
    """
    form = re.fullmatch(rf"{HUB_PREFIX}([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", identifier)
    if form is None:
        raise UsageError(
            f"{identifier!r} does not name a checkpoint on the hub", "write hf:OWNER/NAME or hf:OWNER/NAME@REVISION"
        )
    with _errors_of(identifier):
        config = _download(form[1], CONFIG, form[2])
    if config is None:
        raise _not_available(identifier)
    # What follows must be of the same commit, even if the branch moves in between.
    return Snapshot(config.parent, config.parent.name)


def download_weights(identifier: str, snapshot: Snapshot) -> None:
    """Complete `snapshot`, which `download_config` returned for `identifier`, with weights and preprocessing.

    Raises:
        UnavailableError: The weights can be had neither from the hub nor from its cache.
    """
    repository, revision = identifier.removeprefix(HUB_PREFIX).partition("@")[0], snapshot.revision
    with _errors_of(identifier):
        _download(repository, PROCESSOR, revision)
        for name in WEIGHT_FILES:
            file = _download(repository, name, revision)
            if file is None:
                continue
            if name.endswith(".index.json"):
                for shard in shards_of(file):
                    if _download(repository, shard, revision) is None:
                        raise _not_available(identifier)
            return
    raise _not_available(identifier)


@contextmanager
def hub_answers_or_cache_only() -> Iterator[None]:
    """Tell the hub's client to use its cache alone where the hub does not answer one short probe.

    Left to itself the client retries every file for the better part of a minute.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    if not before:
        constants.HF_HUB_OFFLINE = not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    # The standard library, because the hub's client has changed its own more than once.
    try:
        urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=HUB_PROBE_S).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError, http.client.HTTPException):
        return False
    return True


def _download(repository: str, name: str, revision: str | None) -> Path | None:
    """Return the path of a file in the cache, or None where neither the hub nor the cache has it."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(hf_hub_download(repository, name, revision=revision))
    except (EntryNotFoundError, OfflineModeIsEnabled):
        return None


@contextmanager
def _errors_of(identifier: str) -> Iterator[None]:
    """Ask the hub, or its cache where it does not answer, and say in one sentence what it refuses."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        with hub_answers_or_cache_only():
            yield
    except HFValidationError as error:
        raise UsageError(
            f"{identifier!r} does not name a checkpoint on the hub: {first_line(error)}", "write hf:OWNER/NAME"
        ) from error
    # HfHubHTTPError: no such repository or revision, or a private one. OSError: a failed download, a full disk.
    except (HfHubHTTPError, OSError) as error:
        raise UnavailableError(
            f"the hub did not give {identifier}: {first_line(error)}",
            "check the name, log in with `hf auth login` for a private one, or name a local folder with --weights PATH",
        ) from error


def _not_available(identifier: str) -> UnavailableError:
    return UnavailableError(
        f"the weights of {identifier} are not in the local cache, and the hub does not have them or cannot be reached",
        "connect to the internet once, or name a local folder with --weights PATH",
    )
