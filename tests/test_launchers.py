"""The scripts that start runs: what they refuse, what they would run, when they start it again."""

import os
import shutil
import signal
import site
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.launching import LAUNCHERS, ROOT, end, fill, port, run, steps, wait_for_step
from tests.runs import make_run, read_lines

SCRIPTS = ("slurm.sbatch", "deepspeed.sh", "torchrun.sh")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


def test_shellcheck_finds_nothing() -> None:
    scripts = [*LAUNCHERS.iterdir(), *(ROOT / "tests" / "cluster").glob("*.sh")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_script_is_tested() -> None:
    assert sorted(SCRIPTS) == sorted(path.name for path in LAUNCHERS.iterdir())
    assert all(os.access(path, os.X_OK) for path in LAUNCHERS.iterdir())


@pytest.mark.parametrize(
    ("script", "arguments", "environment", "says"),
    [
        ("slurm.sbatch", [], {}, "which run?"),
        ("slurm.sbatch", ["other.yaml"], {}, "no configuration other.yaml"),
        ("slurm.sbatch", ["run.yaml"], {}, "not in a job: start it with sbatch"),
        ("slurm.sbatch", ["--dry", "run.yaml"], {}, "no such option: --dry"),
        ("slurm.sbatch", ["run.yaml"], {"PYTHONPATH": "", "PATH": "/usr/bin:/bin"}, "taidscale"),
        ("deepspeed.sh", ["hosts"], {}, "which run?"),
        ("deepspeed.sh", ["nodes", "run.yaml"], {}, "no hostfile nodes"),
        ("deepspeed.sh", ["hosts", "other.yaml"], {}, "no configuration other.yaml"),
        ("deepspeed.sh", ["bad", "run.yaml"], {}, "'node1 slots=x' is not NAME slots=GPUS"),
        ("deepspeed.sh", ["none", "run.yaml"], {}, "none names no node"),
        ("deepspeed.sh", ["twice", "run.yaml"], {}, "twice names node1 twice"),
        *(
            ("deepspeed.sh", ["hosts", "run.yaml"], {"DEEPSPEED_ARGS": given}, "names no node3")
            for given in ("--include node1@node3", "--exclude=node3:0", "-e node3")
        ),
        ("torchrun.sh", [], {}, "which run?"),
        ("torchrun.sh", ["other.yaml"], {}, "no configuration other.yaml"),
        ("torchrun.sh", ["run.yaml"], {"NNODES": "2", "NODE_RANK": "1"}, "MASTER_ADDR"),
        ("torchrun.sh", ["run.yaml"], {"RANKS_PER_NODE": "0"}, "set RANKS_PER_NODE"),
        ("torchrun.sh", ["run.yaml"], {"RANKS_PER_NODE": "two"}, "RANKS_PER_NODE: two is not"),
        ("torchrun.sh", ["run.yaml"], {"NNODES": "two"}, "NNODES: two is not"),
        ("torchrun.sh", ["run.yaml"], {"NODE_RANK": "first"}, "NODE_RANK: first is not"),
        (
            "torchrun.sh",
            ["run.yaml"],
            {"NODE_RANK": "5", "NNODES": "2", "MASTER_ADDR": "a"},
            "NODE_RANK: 5 is not the number of one of 2 nodes",
        ),
        ("torchrun.sh", ["run.yaml"], {"MASTER_PORT": "abc"}, "MASTER_PORT: abc is not a port"),
        *(
            ("deepspeed.sh", ["hosts", "run.yaml"], {"DEEPSPEED_ARGS": given}, says)
            for given, says in (
                ("--exclude node1@node2", "of hosts no node is left"),
                ("--include node1 --exclude node2", "exclude each other"),
            )
        ),
    ],
)
def test_wrong_input_is_said(
    script: str, arguments: list[str], environment: dict[str, str], says: str, folder: Path
) -> None:
    (folder / "bad").write_text("node1 slots=x\n")
    (folder / "none").write_text("# nothing\n")
    (folder / "twice").write_text("node1 slots=4\nnode2 slots=8\nnode1 slots=8 # the rest\n")
    status, out, errors = run(script, *arguments, cwd=folder, **environment)
    assert status == 2, errors
    assert out == ""
    assert errors.splitlines()[-1].startswith("error: ")
    assert says in errors.splitlines()[-1]


def test_line_that_deepspeed_would_die_of_is_said(folder: Path) -> None:
    (folder / ".deepspeed_env").write_text("HF_HOME=/shared/hf\n\n# mine\nNCCL_DEBUG=INFO\n")
    status, _, errors = run("deepspeed.sh", "--dry-run", "hosts", "run.yaml", cwd=folder)
    assert (status, errors) == (2, "error: .deepspeed_env: these lines are not NAME=VALUE: 2 3\n")


def test_a_node_without_gpus_is_said_without_nvidia_smi(folder: Path) -> None:
    """Where there are GPUs too: the program is not in this PATH."""
    programs = folder / "bin"
    programs.mkdir()
    for name in ("bash", "grep", "cat"):
        (programs / name).symlink_to(shutil.which(name) or name)
    (programs / "python").symlink_to(sys.executable)
    path = {"PATH": str(programs), "PYTHONPATH": f"{ROOT}:{site.getsitepackages()[0]}"}
    status, _, errors = run("torchrun.sh", "--dry-run", "run.yaml", cwd=folder, **path)
    assert (status, errors) == (2, "error: nvidia-smi shows no GPUs here: set RANKS_PER_NODE\n")


def test_dry_run_shows_the_commands(folder: Path) -> None:
    """And an argument of several words arrives as one."""
    config = ["run.yaml", "loss={objective: reverse_kl}"]
    quoted = "run.yaml loss=\\{objective:\\ reverse_kl\\}"
    status, out, errors = run(
        "slurm.sbatch", "--dry-run", "--check", "--verify", *config, cwd=folder
    )
    assert status == 0, errors
    right, make_logs, check, verify, train = out.splitlines()
    assert right.rstrip() == f"python -m taidscale check {quoted}"
    assert make_logs.split() == ["mkdir", "-p", "logs/taidscale-JOB"]
    assert train.startswith("srun --nodes=NODES --ntasks-per-node=1 --cpus-per-task=CPUS")
    assert "--nproc-per-node=GPUS --master-addr=FIRST_NODE" in train
    assert train.rstrip().endswith(f"-m taidscale train {quoted}")
    assert check.rstrip().endswith(f"-m taidscale nodes {quoted}")
    assert verify.rstrip().endswith(f"-m taidscale verify {quoted}")

    (folder / ".deepspeed_env").write_text("HF_HOME=/shared/hf\nNCCL_DEBUG=INFO\n")
    status, out, errors = run("deepspeed.sh", "--dry-run", "--verify", "hosts", *config, cwd=folder)
    assert status == 0, errors
    right, verify, train = out.splitlines()
    assert right.rstrip() == f"python -m taidscale check {quoted}"
    assert verify.rstrip().endswith(f"--module taidscale verify {quoted}")
    assert train.split(" --module")[0] == "deepspeed --hostfile hosts --force_multi"
    assert train.rstrip().endswith(f"--module taidscale train {quoted}")

    status, out, errors = run(
        "torchrun.sh",
        "--dry-run",
        "--check",
        *config,
        cwd=folder,
        NNODES="2",
        NODE_RANK="1",
        MASTER_ADDR="node0",
        RANKS_PER_NODE="8",
    )
    assert status == 0, errors
    assert "--nnodes=2 --node-rank=1 --nproc-per-node=8 --master-addr=node0" in out
    assert out.rstrip().endswith(f"-m taidscale train {quoted}")
    assert not list(folder.glob("logs*"))


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_configuration_starts_nothing(script: str, folder: Path) -> None:
    """Said once, before any node is looked for."""
    (folder / "run.yaml").write_text("seed: many\n")
    hosts = ["hosts"] if script == "deepspeed.sh" else []
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_JOB_NODELIST": "n1"}
    job |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "2", "RANKS_PER_NODE": "1"}
    (folder / "scontrol").write_text("#!/bin/sh\necho n1\n")
    (folder / "scontrol").chmod(0o755)
    job["PATH"] = f"{folder}:{os.environ['PATH']}"
    status, out, errors = run(script, *hosts, "run.yaml", cwd=folder, **job)
    assert (status, out) == (2, "")
    assert errors.startswith("error: run.yaml: ")
    assert errors.count("seed: ") == 1
    assert not (folder / "logs").exists()


def test_torchrun_starts_again_what_died_and_ends_when_asked(tmp_path: Path) -> None:
    config = make_run(tmp_path, total_steps=10**6, checkpoint={"every_steps": 5}, evaluation=None)
    log = tmp_path / "log"
    with log.open("wb") as out:
        script = subprocess.Popen(
            [LAUNCHERS / "torchrun.sh", config],
            env={
                **os.environ,
                "RANKS_PER_NODE": "2",
                "MASTER_PORT": port(),
                "PYTHONPATH": str(ROOT),
            },
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        wait_for_step(metrics, 8, script, log)
        ranks = [
            process
            for process in psutil.Process(script.pid).children(recursive=True)
            if {"-m", "taidscale", "train", str(config)} <= set(process.cmdline())
            and "RANK" in process.environ()
        ]
        ranks[0].kill()
        psutil.wait_procs(ranks, timeout=300)
        wait_for_step(metrics, steps(metrics) + 10, script, log)
        assert "yes: the last start" in log.read_text()
        script.send_signal(signal.SIGTERM)
        assert script.wait(300) != 0
    finally:
        end(script)
    assert "SIGTERM" in log.read_text().split("yes: the last start")[1]
    numbers = [entry["step"] for entry in read_lines(metrics)]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert (tmp_path / "run" / "checkpoints" / f"step-{numbers[-1]:08d}").is_dir()
