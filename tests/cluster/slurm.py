"""A real Slurm, on hosts of this machine: slurmctld, one slurmd per node, munged."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.hosts import CONTROL, Host, find, hosts, wait_for

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo")
CONFIGURATION_FILE = "slurm.conf"

# The GPUs are counted and given to jobs, and do not exist. Without process groups of the kernel's
# (cgroups, which want systemd) Slurm follows the parents of processes. A requeued job may start
# once its old credential has run out. A node is down once it has been silent for SlurmdTimeout.
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={control.name}({control.address})
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=100000
SelectType=select/cons_tres
ReturnToService=2
SlurmdTimeout=6
InactiveLimit=0
KillWait=30
GresTypes=gpu
SlurmdParameters=config_overrides
{nodes}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A running cluster."""

    folder: Path
    hosts: dict[str, Host]

    def run(self, *command: str | Path, cwd: Path | None = None) -> str:
        """One of its commands on the control host."""
        return self.hosts[CONTROL].run(
            "env", f"SLURM_CONF={self._configuration}", *command, cwd=cwd
        )

    def start_node(self, name: str) -> None:
        """As at boot."""
        self.hosts[name].run(find("slurmd") or "slurmd", "-f", self._configuration)

    def kill_node(self, name: str) -> None:
        """The host loses its power."""
        self.hosts[name].kill()

    def job(self, number: int) -> dict[str, str]:
        """What `scontrol show job` says of it."""
        shown = self.run("scontrol", "--oneliner", "show", "job", str(number))
        return dict(part.split("=", 1) for part in shown.split() if "=" in part)

    def state(self, number: int) -> str:
        """PENDING, RUNNING, COMPLETED, ..."""
        return self.job(number)["JobState"]

    def idle_nodes(self) -> list[str]:
        """Names of those that could take a job."""
        shown = self.run("sinfo", "--noheader", "--Node", "--format=%N %T")
        return [line.split()[0] for line in shown.splitlines() if line.split()[1] == "idle"]

    @property
    def _configuration(self) -> Path:
        return self.folder / CONFIGURATION_FILE

    def logs(self) -> str:
        """Ends of what its daemons have said."""
        files = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text()[-3000:]}" for file in files)


@contextlib.contextmanager
def slurm_cluster(folder: Path, *nodes: str, gpus: int) -> Iterator[Slurm]:
    """Start it, with so many nodes of two cores and `gpus` each; end it by its hosts' processes."""
    with hosts(folder, *nodes) as made:
        control = made[CONTROL]
        configuration = CONFIGURATION.format(
            folder=folder,
            control=control,
            nodes="\n".join(
                f"NodeName={name} NodeAddr={made[name].address} CPUs=2 RealMemory=4000 "
                f"Gres=gpu:{gpus} State=UNKNOWN"
                for name in nodes
            ),
        )
        (folder / CONFIGURATION_FILE).write_text(configuration)
        devices = [folder / f"gpu{number}" for number in range(gpus)]
        for device in devices:
            device.touch()
        (folder / "gres.conf").write_text(
            "".join(f"Name=gpu File={device}\n" for device in devices)
        )
        (folder / "state").mkdir()
        _start_munge(control, folder)
        control.run(find("slurmctld") or "slurmctld", "-f", folder / CONFIGURATION_FILE)
        cluster = Slurm(folder, made)
        for name in nodes:
            cluster.start_node(name)
        wait_for("idle nodes", lambda: len(cluster.idle_nodes()) == len(nodes), 30)
        yield cluster


def _start_munge(control: Host, folder: Path) -> None:
    """It vouches for who sends a message; all hosts reach it through its socket."""
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    names = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munge.pid"}
    names |= {"log-file": folder / "munge.log", "seed-file": folder / "munge.seed"}
    options = [f"--{name}={path}" for name, path in names.items()]
    subprocess.run(control.command(find("munged") or "munged", "--force", *options), check=True)
