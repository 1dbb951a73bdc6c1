"""`effvit doctor`: what this machine can run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from effvit.cli.options import JsonOption
from effvit.cli.output import show, write_json
from effvit.environment import Environment
from effvit.profiling.board import BoardConditions


@dataclass(frozen=True, slots=True)
class BackendStatus:
    """One backend: its version, or why it cannot run here and how to get it; the kinds of devices it computes on."""

    name: str
    summary: str
    precisions: tuple[str, ...]
    version: str | None
    unavailable: str | None
    install: str
    devices: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LibraryStatus:
    """A package that backends need beside their runtime: its version, or why it is of no use here."""

    name: str
    summary: str
    version: str | None
    unavailable: str | None
    install: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What this machine can run; `libraries` reach its GPUs, and TensorRT needs one of them.

    `board` is what its sensors tell now.
    """

    environment: Environment
    backends: tuple[BackendStatus, ...]
    libraries: tuple[LibraryStatus, ...] = ()
    board: BoardConditions | None = None


def diagnose() -> Diagnosis:
    """Look at this machine and at every backend."""
    from effvit.environment import capture_environment, package_version
    from effvit.export.base import backends
    from effvit.export.device import device_libraries
    from effvit.profiling.board import BoardMeter

    return Diagnosis(
        capture_environment(),
        tuple(
            BackendStatus(
                backend.name,
                backend.summary,
                tuple(sorted(backend.precisions)),
                backend.version(),
                backend.unavailable(),
                backend.install,
                backend.devices,
            )
            for backend in backends().values()
        ),
        tuple(
            LibraryStatus(
                library.name,
                library.summary,
                package_version(library.package),
                library.unavailable(),
                library.install,
            )
            for library in device_libraries()
        ),
        BoardMeter().conditions(),
    )


def doctor(
    device: Annotated[
        str | None,
        typer.Option(metavar="ssh://USER@HOST", help="another machine that is asked instead", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Say what this machine can run: its devices, and every backend with its version or what it lacks.

    Of a device behind ssh it says what it is, how hot it is now, and which runtimes it has.
    """
    if device is not None:
        _show_remote(device, json=json)
        return
    diagnosis = diagnose()
    if json:
        import msgspec

        write_json(msgspec.json.encode(diagnosis))
        return
    from effvit.cli.render import diagnosis_tables

    for table in diagnosis_tables(diagnosis):
        show(table)


def _show_remote(text: str, *, json: bool) -> None:
    from effvit.cli.output import say
    from effvit.profiling.agent.remote import RemoteSweep
    from effvit.profiling.agent.ssh import Ssh, host_from_text

    host = host_from_text(text)
    say(f"asking {host} what it has")
    found = RemoteSweep(Ssh(host)).facts()
    if json:
        import msgspec

        write_json(msgspec.json.encode(found))
        return
    from effvit.cli.render import machine_table

    show(machine_table(str(host), found.environment, found.board))
