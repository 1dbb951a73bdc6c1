"""Settings of every test."""

from __future__ import annotations

import os

# Tiny models on one thread: with more, threads that wait for one another on a busy machine take most of the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing reaches for the network unless a test says so.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
