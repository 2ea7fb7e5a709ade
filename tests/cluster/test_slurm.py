"""Jobs of two nodes with two ranks each, on a real Slurm, with the script that users submit."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cluster.conftest import ROOT, num_steps
from tests.cluster.hosts import missing, wait_for
from tests.cluster.slurm import PROGRAMS, Slurm, slurm_cluster
from tests.runs import read_lines

CURVES = ("metrics.jsonl", "evaluations.jsonl")
WAITING = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "NODE_FAIL")

pytestmark = pytest.mark.cluster


@dataclass(frozen=True)
class Job:
    """A run that was submitted."""

    slurm: Slurm
    number: int
    folder: Path
    """Where it was submitted."""
    run_dir: Path

    @classmethod
    def submit(cls, slurm: Slurm, config: Path, folder: Path, *options: str) -> "Job":
        folder.mkdir()
        run_dir = folder / "run"
        command = ["sbatch", "--parsable", "--nodes=2", "--gpus-per-node=2"]
        command += [str(ROOT / "launchers" / "slurm.sbatch"), *options, str(config)]
        number = int(slurm.run(*command, f"run_dir={run_dir}", cwd=folder))
        return cls(slurm, number, folder, run_dir)

    def at_step(self, step: int, restarts: int = 0) -> None:
        """Wait until it is there."""

        def is_there() -> bool:
            job = self.slurm.job(self.number)
            assert (job["JobState"] in WAITING, job["Restarts"]) == (True, str(restarts)), (
                self.output()
            )
            return num_steps(self.run_dir) >= step

        wait_for(f"step {step}", is_there, 300)
        assert self.slurm.state(self.number) == "RUNNING", self.output()

    def requeued(self, restarts: int) -> None:
        """Wait until it has gone back into the queue so many times."""
        wait_for("requeue", lambda: self.slurm.job(self.number)["Restarts"] == str(restarts), 120)

    def saved_at(self) -> int:
        """Step of its newest checkpoint; 0 before the first."""
        folders = self.run_dir.glob("checkpoints/step-????????")
        return max((int(path.name[-8:]) for path in folders), default=0)

    def nodes(self) -> list[str]:
        """Names of those that it runs on, in order."""
        listed = self.slurm.job(self.number)["NodeList"]
        return self.slurm.run("scontrol", "show", "hostnames", listed).split()

    def finish(self, restarts: int) -> None:
        """Wait for its end; it must be good."""
        wait_for("end", lambda: self.slurm.state(self.number) not in WAITING, 400)
        job = self.slurm.job(self.number)
        assert (job["JobState"], job["Restarts"]) == ("COMPLETED", str(restarts)), self.output()

    def output(self) -> str:
        """Ends of all that it has printed, and of Slurm's own logs."""
        files = sorted(self.folder.rglob("*.txt"))
        texts = [f"== {path.name}\n{path.read_text()[-4000:]}" for path in files]
        return "\n".join([*texts, self.slurm.logs()])


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """Two nodes with two GPUs each, which do not exist, and a spare one."""
    if reason := missing(*PROGRAMS):
        pytest.skip(reason)
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), "n1", "n2", "n3", gpus=2) as cluster:
        yield cluster


def expect_the_same(job: Job, undisturbed: Path) -> None:
    """Every number of its curves is that of the run that nothing happened to."""
    for name in CURVES:
        assert read_lines(job.run_dir / name) == read_lines(undisturbed / name), name


def test_usr1_saves_requeues_and_goes_on(
    slurm: Slurm, undisturbed: Path, distillation: Path, tmp_path: Path
) -> None:
    """Sent to the ranks, then to the batch script, as before the time limit."""
    job = Job.submit(slurm, distillation, tmp_path / "job", "--check")
    for restarts, how in enumerate(([], ["--batch"])):
        job.at_step(8 + 10 * restarts, restarts)
        slurm.run("scancel", "--signal=USR1", *how, str(job.number))
        job.requeued(restarts + 1)
        assert job.saved_at() == num_steps(job.run_dir)
    job.finish(restarts=2)
    assert "4 ranks looked at" in job.output()
    expect_the_same(job, undisturbed)


def test_nodes_die(slurm: Slurm, undisturbed: Path, distillation: Path, tmp_path: Path) -> None:
    """One whose ranks the others miss, then the one with the batch script and the first rank."""
    job = Job.submit(slurm, distillation, tmp_path / "job")
    for restarts in range(2):
        job.at_step(8 + 10 * restarts, restarts)
        first, other = job.nodes()
        lost = first if restarts else other
        slurm.kill_node(lost)
        job.requeued(restarts + 1)
        assert job.saved_at() < num_steps(job.run_dir)
        wait_for("start elsewhere", lambda: slurm.state(job.number) == "RUNNING", 60)
        assert lost not in job.nodes()
        slurm.start_node(lost)
    job.finish(restarts=2)
    expect_the_same(job, undisturbed)


def test_cancelled_job_stays_cancelled(slurm: Slurm, distillation: Path, tmp_path: Path) -> None:
    job = Job.submit(slurm, distillation, tmp_path / "job")
    job.at_step(3)
    slurm.run("scancel", str(job.number))
    wait_for("end", lambda: slurm.state(job.number) == "CANCELLED", 60)
    wait_for("end of its steps", lambda: len(slurm.idle_nodes()) >= 2, 60)
    assert slurm.state(job.number) == "CANCELLED"
    assert "ended with status" in (job.folder / f"taidscale-{job.number}.txt").read_text()
