"""Settings of every test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Tiny models on one thread: with more, threads that wait for one another on a busy machine take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing reaches for the network unless a test says so.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What is kept between commands is kept for these tests alone.
if "EFFVIT_CACHE" not in os.environ:
    os.environ["EFFVIT_CACHE"] = tempfile.mkdtemp(prefix="effvit-test-cache-")
    atexit.register(shutil.rmtree, os.environ["EFFVIT_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _written_files_are_of_the_schema(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold every result file that a test writes into its folder against the published schema."""
    folder: Path | None = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else None
    yield
    if folder is not None:
        from schemas import check_result_files

        check_result_files(folder)
