"""Hosts that are reached by a real sshd, without a password."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.hosts import Host, find, hosts, wait_for

PROGRAMS = ("sshd", "ssh", "ssh-keygen")

SERVER = """\
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PidFile none
"""
CLIENT = """\
Host *
IdentityFile {folder}/user_key
UserKnownHostsFile {folder}/known_hosts
StrictHostKeyChecking no
LogLevel ERROR
"""


@contextlib.contextmanager
def ssh_hosts(folder: Path, *names: str) -> Iterator[dict[str, Host]]:
    """Hosts of these names with an sshd each, and a control host without one."""
    with hosts(folder, *names) as made:
        for key in ("host_key", "user_key"):
            command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
            subprocess.run(command, check=True)
        (folder / "etc" / "ssh").mkdir()
        (folder / "etc" / "ssh" / "ssh_config").write_text(CLIENT.format(folder=folder))
        (folder / "sshd_config").write_text(SERVER.format(folder=folder))
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it, empty
        for name in names:
            server = [find("sshd") or "sshd", "-f", folder / "sshd_config"]
            made[name].run(*server)
            wait_for(f"sshd of {name}", lambda name=name: _answers(made[names[0]], name), 10)
        yield made


def _answers(from_host: Host, name: str) -> bool:
    command = from_host.command("ssh", name, "true")
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
