"""What several tests of exporting share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from trained_runs import trained_run

from effvit.run import Run


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Return a function from a variant to its run on the digits, each trained once, when it is first asked for."""
    root: Path = tmp_path_factory.mktemp("trained")
    return lambda attention: trained_run(root, attention)
