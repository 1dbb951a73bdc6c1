"""Checkpoints from the hub: off-line, from a cache made here, and refused."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_for_tests import COMMIT, PLAIN, small_vit
from huggingface_hub import constants

from effvit.errors import CheckpointError, UnavailableError, UsageError
from effvit.weights import initial_model


def cached(hub: Path, **choices: Any) -> Path:
    """Lay a checkpoint out as a download of hf:someone/small would have left it."""
    repository = hub / "models--someone--small"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    small_vit(repository / "snapshots" / COMMIT, **choices)
    return repository / "snapshots" / COMMIT


@pytest.mark.parametrize("revision", ["", "@main", f"@{COMMIT}"])
@pytest.mark.parametrize("choices", [{}, {"max_shard_size": "200KB"}])
def test_a_cached_checkpoint_is_found_without_network(choices: dict[str, str], revision: str, hub: Path) -> None:
    folder = cached(hub, **choices)
    initial = initial_model(PLAIN, f"hf:someone/small{revision}")
    assert initial.weights.asked == f"hf:someone/small{revision}"
    assert (initial.weights.revision, initial.weights.fresh) == (COMMIT, ())
    again = initial_model(PLAIN, str(folder)).model
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in initial.model.state_dict().items())
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("lost", [None, "config.json", "model.safetensors"])
def test_a_checkpoint_that_cannot_be_had_is_one_sentence(lost: str | None, hub: Path) -> None:
    if lost is not None:
        (cached(hub) / lost).unlink()
    with pytest.raises(
        UnavailableError, match=r"^the weights of hf:someone/small are not in the local cache"
    ) as caught:
        initial_model(PLAIN, "hf:someone/small")
    assert "--weights PATH" in caught.value.hint
    assert caught.value.exit_code == 3


def test_a_part_that_is_not_cached_is_one_sentence(hub: Path) -> None:
    next(cached(hub, max_shard_size="200KB").glob("*-of-*")).unlink()
    with pytest.raises(UnavailableError, match="are not in the local cache"):
        initial_model(PLAIN, "hf:someone/small")


def test_what_does_not_fit_is_refused_before_its_weights_are_asked_for(hub: Path) -> None:
    (cached(hub) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"^hf:someone/small does not fit deit_tiny_patch16_224: its width"):
        initial_model(replace(PLAIN, backbone="deit_tiny_patch16_224"), "hf:someone/small")


@pytest.mark.parametrize("identifier", ["hf:", "hf:small", "hf:a/b/c", "hf:a/b@", "hf:a b/c", "hf:../..", "hf:a/b--c"])
def test_a_malformed_identifier_is_refused(identifier: str, hub: Path) -> None:
    with pytest.raises(UsageError, match="does not name a checkpoint on the hub") as caught:
        initial_model(PLAIN, identifier)
    assert "hf:OWNER/NAME" in caught.value.hint


def test_the_hubs_refusal_is_one_sentence(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object, **_choices: object) -> str:
        raise OSError("404 Client Error.\nRepository Not Found")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(UnavailableError, match=r"^the hub did not give hf:someone/small: 404 Client Error\.$"):
        initial_model(PLAIN, "hf:someone/small")


def test_the_hubs_own_variables_are_obeyed(tmp_path: Path) -> None:
    cached(tmp_path / "hub")
    code = """
from effvit.errors import UnavailableError
from effvit.hub import download_config, download_weights
snapshot = download_config("hf:someone/small")
download_weights("hf:someone/small", snapshot)
print(snapshot.revision)
try:
    download_config("hf:someone/large")
except UnavailableError as error:
    print(error.exit_code)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [COMMIT, "3"]
