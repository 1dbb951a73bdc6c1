"""An ssh server of its own on a loopback port, and a client that knows it, for tests; nothing of the user's is read."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; `config` is the client's, `home` where commands start, `process` the server's."""

    port: int
    config: Path
    home: Path
    keys: Path
    process: int

    @property
    def program(self) -> tuple[str, ...]:
        return ("ssh", "-F", str(self.config), "-T", "-o", "BatchMode=yes")


@contextmanager
def running_server(folder: Path, python: Path) -> Iterator[Server]:
    """Start a server that lets the present user in, with a home in `folder` and `python3` being `python`."""
    assert SSHD is not None
    keys, home = folder / "keys", folder / "home"
    keys.mkdir(parents=True)
    home.mkdir()
    keys.chmod(stat.S_IRWXU)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    shutil.copy(keys / "user.pub", keys / "authorised")
    programs = folder / "bin"
    programs.mkdir()
    _write_program(programs / "python3", f'exec "{python}" "$@"')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    # Commands start in a home of their own, whoever the user is.
    start = _write_program(
        folder / "start",
        f'export HOME="{home}" PATH="{programs}:/usr/bin:/bin"\ncd "$HOME"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
    )
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys / 'host'}\nAuthorizedKeysFile {keys / 'authorised'}\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
        f"PidFile {folder / 'sshd.pid'}\nForceCommand {start}\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "sshd.log").open("w") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    config = folder / "ssh_config"
    user = pwd.getpwuid(os.getuid()).pw_name
    host_key = (keys / "host.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key[0]} {host_key[1]}\n")
    config.write_text(
        f"Host *\n  User {user}\n  IdentityFile {keys / 'user'}\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n  ConnectTimeout 10\n"
    )
    try:
        _wait_for(port)
        yield Server(port, config, home, keys, process.pid)
    finally:
        process.terminate()
        process.wait()


def _write_program(path: Path, lines: str) -> Path:
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def cut_connections(server: Server) -> None:
    """End every connection of the server's, but not the server."""
    children = Path(f"/proc/{server.process}/task/{server.process}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the ssh server did not start"
        time.sleep(0.05)
