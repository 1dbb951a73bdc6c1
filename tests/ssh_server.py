"""An ssh server of its own on a loopback port, and a client that knows it, for tests; nothing of the user's is read."""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

_SSH = shutil.which("ssh") or "ssh"
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

    def client(self, folder: Path, before: str = "", *options: str) -> Path:
        """Write a program called ssh to `folder`, which is then to be the first of PATH, and return the folder.

        It is the real one with the configuration of this server; the shell's `before` comes before it, as a pipe say.
        """
        folder.mkdir(exist_ok=True)
        words = shlex.join([_SSH, "-F", str(self.config), *options])
        _write_program(folder / "ssh", f'{before or "exec"} {words} "$@"')
        return folder


@contextmanager
def own_user(home: Path) -> Iterator[str]:
    """Yield the name of a new user of this machine with this home; only root can make one."""
    name = f"effvit-test-{os.getpid()}"
    there = ("--no-create-home", "--home-dir", str(home), "--shell", "/bin/sh", "--password", "*")
    subprocess.run(["useradd", *there, name], check=True)
    try:
        yield name
    finally:
        for process in processes_of(name):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        subprocess.run(["userdel", "--force", name], check=True, capture_output=True)


def processes_of(user: str, word: str = "") -> list[psutil.Process]:
    """Return what runs as a user with `word` in its command line, zombies aside."""
    number, found = pwd.getpwnam(user).pw_uid, []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess):
            alive = process.uids().real == number and process.status() != psutil.STATUS_ZOMBIE
            if alive and word in " ".join(process.cmdline()):
                found.append(process)
    return found


@contextmanager
def running_server(
    folder: Path, python: Path, *, home: Path | None = None, user: str | None = None, path: str = "/usr/bin:/bin"
) -> Iterator[Server]:
    """Start a server that lets `user` in, the present one if not named, where `python3` is `python`.

    Commands start in `home`, which is made unless it is there, with `path` behind the folder of that python3. There is
    no sftp.
    """
    assert SSHD is not None
    keys, home = folder / "keys", home or folder / "home"
    keys.mkdir(parents=True)
    home.mkdir(exist_ok=True)
    keys.chmod(stat.S_IRWXU)
    for name in ("host", "user", "stranger"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)], check=True)
    shutil.copy(keys / "user.pub", folder / "authorised")
    programs = folder / "bin"
    programs.mkdir()
    _write_program(programs / "python3", f'exec {shlex.quote(str(python))} "$@"')
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    # Commands start in a home of their own, whoever the user is.
    start = _write_program(
        folder / "start",
        f"export HOME={shlex.quote(str(home))} PATH={shlex.quote(f'{programs}:{path}')}\n"
        'cd "$HOME"\nexec /bin/sh -c "$SSH_ORIGINAL_COMMAND"',
    )
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys / 'host'}\nAuthorizedKeysFile {folder / 'authorised'}\n"
        f"PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n"
        f"PidFile {folder / 'sshd.pid'}\nForceCommand {start}\nPermitRootLogin yes\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "sshd.log").open("w") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", str(folder / "sshd_config")], stderr=log)
    config = folder / "ssh_config"
    user = user or pwd.getpwuid(os.getuid()).pw_name
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
    """End every connection of the server's, but neither the server nor what was started through them."""
    for child in psutil.Process(server.process).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if child.name().startswith("sshd"):
                child.send_signal(signal.SIGKILL)


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "the ssh server did not start"
        time.sleep(0.05)
