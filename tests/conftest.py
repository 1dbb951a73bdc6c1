"""Settings of every test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

# Tiny models on one thread: with more, threads that wait for one another on a busy machine take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing reaches for the network unless a test says so.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What is kept between commands is kept for these tests alone.
if "EFFVIT_CACHE" not in os.environ:
    os.environ["EFFVIT_CACHE"] = tempfile.mkdtemp(prefix="effvit-test-cache-")
    atexit.register(shutil.rmtree, os.environ["EFFVIT_CACHE"], ignore_errors=True)
