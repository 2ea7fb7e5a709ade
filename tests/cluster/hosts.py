"""Hosts of a cluster on one machine: network namespaces with names and addresses of their own.

They share the file system, as the nodes of a cluster do. A control host joins the others as a
switch; nothing of it is visible outside of the namespaces, so any number of clusters may run beside
each other. It takes root, `ip` (iproute2) and `nsenter`, `unshare` (util-linux).
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

CONTROL = "control"


@dataclass(frozen=True)
class Host:
    """A namespace; whatever runs in it sees this name, and the other hosts by theirs."""

    name: str
    address: str
    namespace: str
    etc: Path
    """Its files stand in for those of the same place in /etc."""

    def command(self, *command: str | Path) -> list[str]:
        """The same command on this host."""
        files = [path for path in sorted(self.etc.rglob("*")) if path.is_file()]
        mounts = [f"mount --bind {path} /etc/{path.relative_to(self.etc)}" for path in files]
        within = "; ".join(["set -e", f"hostname {self.name}", *mounts, 'exec "$@"'])
        enter = ["nsenter", f"--net=/run/netns/{self.namespace}", "unshare", "--uts", "--mount"]
        return [*enter, "sh", "-c", within, "sh", *map(str, command)]

    def start(
        self, *command: str | Path, log: Path, cwd: Path | None = None
    ) -> "subprocess.Popen[bytes]":
        """Begin it; all that it prints goes to the end of `log`."""
        with log.open("ab") as out:
            return subprocess.Popen(
                self.command(*command), stdout=out, stderr=out, cwd=cwd, stdin=subprocess.DEVNULL
            )

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """What it prints; it must succeed."""
        done = subprocess.run(
            self.command(*command), capture_output=True, text=True, check=False, cwd=cwd
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def processes(self) -> list[int]:
        """Ids of all that runs on it."""
        shown = subprocess.run(
            ["ip", "netns", "pids", self.namespace], capture_output=True, text=True, check=True
        )
        return [int(pid) for pid in shown.stdout.split()]

    def kill(self) -> None:
        """SIGKILL whatever runs on it, as a loss of power does."""
        while pids := self.processes():
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)


def missing(*programs: str) -> str | None:
    """Why no cluster can be started here, if it cannot."""
    if os.geteuid() != 0:
        return "network namespaces take root"
    absent = [name for name in ("ip", "nsenter", "unshare", *programs) if find(name) is None]
    if absent:
        return f"not installed: {', '.join(absent)}; see tests/cluster/install.sh"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False)
    return "no network namespaces here" if tried.returncode else None


def find(program: str) -> str | None:
    """Its path; daemons are not in everybody's PATH."""
    return shutil.which(program, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextlib.contextmanager
def hosts(folder: Path, *names: str) -> Iterator[dict[str, Host]]:
    """The control host and those with the given names; all that runs on them ends with them."""
    etc = folder / "etc"
    etc.mkdir()
    made = {
        name: Host(name, f"10.77.0.{number}", f"t{os.getpid()}-{folder.name[-20:]}-{name}", etc)
        for number, name in enumerate((CONTROL, *names), start=1)
    }
    lines = ["127.0.0.1 localhost", *(f"{host.address} {host.name}" for host in made.values())]
    (etc / "hosts").write_text("\n".join(lines) + "\n")
    (etc / "nsswitch.conf").write_text("hosts: files\n")  # no name server can be reached
    with contextlib.ExitStack() as stack:
        for host in made.values():
            _ip("netns", "add", host.namespace)
            stack.callback(_ip, "netns", "del", host.namespace)
            stack.callback(host.kill)
            _ip("-n", host.namespace, "link", "set", "lo", "up")
        control = made[CONTROL]
        switch = ("-n", control.namespace)
        _ip(*switch, "link", "add", "switch", "type", "bridge")
        _ip(*switch, "address", "add", f"{control.address}/24", "dev", "switch")
        _ip(*switch, "link", "set", "switch", "up")
        for name in names:
            inside = ("-n", made[name].namespace)
            peer = ("type", "veth", "peer", "name", "eth0", "netns", made[name].namespace)
            _ip(*switch, "link", "add", name, *peer)
            _ip(*switch, "link", "set", name, "master", "switch", "up")
            _ip(*inside, "address", "add", f"{made[name].address}/24", "dev", "eth0")
            _ip(*inside, "link", "set", "eth0", "up")
        yield made


def wait_for(what: str, condition: Callable[[], bool], seconds: float) -> None:
    """Until the condition holds; the test fails where it never does."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.3)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
