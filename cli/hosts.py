"""The devices of `--device` that are other machines, reached by ssh."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from effvit.profiling.agent.ssh import Host, host_from_text, names_host


def split_devices(texts: Sequence[str] | None, threads: int | None) -> tuple[list[Host], list[str]]:
    """Return the hosts among `--device`, whose devices have `threads` where they do not say, and what is of here.

    Raises:
        UsageError: A host that cannot be.
    """
    hosts = [host_from_text(text) for text in texts or [] if names_host(text)]
    hosts = [replace(host, device=replace(host.device, threads=host.device.threads or threads)) for host in hosts]
    return hosts, [text for text in texts or [] if not names_host(text)]
