"""What several tests of the core share."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import constants

from effvit import hub as hub_module


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an empty hub cache on a machine without network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_module, "_answers", lambda _url: False)
    return tmp_path / "hub"
