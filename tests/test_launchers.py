"""The scripts that start runs: what they refuse, what they would run, when they start it again."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.runs import make_run, read_lines

ROOT = Path(__file__).parents[1]
LAUNCHERS = ROOT / "launchers"
SCRIPTS = ("slurm.sbatch", "deepspeed.sh", "torchrun.sh")


def run(script: str, *arguments: str | Path, cwd: Path, **environment: str) -> tuple[int, str, str]:
    """Exit status, output and errors of a script that ends at once."""
    inherited = {name: value for name, value in os.environ.items() if "SLURM" not in name}
    done = subprocess.run(
        ["bash", LAUNCHERS / script, *arguments],
        cwd=cwd,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "run.yaml").touch()
    (tmp_path / "hosts").write_text("# two nodes\n\nnode1 slots=8\nnode2 slots=8\n")
    return tmp_path


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
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
        ("deepspeed.sh", ["bad", "run.yaml"], {}, "'node1 slots=x ' is not NAME slots=GPUS"),
        ("deepspeed.sh", ["none", "run.yaml"], {}, "none names no node"),
        ("torchrun.sh", [], {}, "which run?"),
        ("torchrun.sh", ["other.yaml"], {}, "no configuration other.yaml"),
        ("torchrun.sh", ["run.yaml"], {"NNODES": "2", "NODE_RANK": "1"}, "MASTER_ADDR"),
        ("torchrun.sh", ["run.yaml"], {"RANKS_PER_NODE": "0"}, "set RANKS_PER_NODE"),
    ],
)
def test_wrong_input_is_said(
    script: str, arguments: list[str], environment: dict[str, str], says: str, folder: Path
) -> None:
    (folder / "bad").write_text("node1 slots=x\n")
    (folder / "none").write_text("# nothing\n")
    status, out, errors = run(script, *arguments, cwd=folder, **environment)
    assert status == 2, errors
    assert out == ""
    assert errors.splitlines()[-1].startswith("error: ")
    assert says in errors.splitlines()[-1]


def test_line_that_deepspeed_would_die_of_is_said(folder: Path) -> None:
    (folder / ".deepspeed_env").write_text("HF_HOME=/shared/hf\n\n# mine\nNCCL_DEBUG=INFO\n")
    status, _, errors = run("deepspeed.sh", "--dry-run", "hosts", "run.yaml", cwd=folder)
    assert (status, errors) == (2, "error: .deepspeed_env: these lines are not NAME=VALUE: 2 3\n")


def test_dry_run_shows_the_commands(folder: Path) -> None:
    """And an argument of several words arrives as one."""
    config = ["run.yaml", "loss={objective: reverse_kl}"]
    quoted = "run.yaml loss=\\{objective:\\ reverse_kl\\}"
    status, out, errors = run(
        "slurm.sbatch", "--dry-run", "--check", "--verify", *config, cwd=folder
    )
    assert status == 0, errors
    make_logs, check, verify, train = out.splitlines()
    assert make_logs.split() == ["mkdir", "-p", "logs/taidscale-JOB"]
    assert train.startswith("srun --nodes=NODES --ntasks-per-node=1 --cpus-per-task=CPUS")
    assert "--nproc-per-node=GPUS --master-addr=FIRST_NODE" in train
    assert train.rstrip().endswith(f"-m taidscale.train {quoted}")
    assert check.rstrip().endswith(f"{ROOT}/tools/check_nodes.py {quoted}")
    assert verify.rstrip().endswith(f"{ROOT}/tools/verify.py {quoted}")

    (folder / ".deepspeed_env").write_text("HF_HOME=/shared/hf\nNCCL_DEBUG=INFO\n")
    status, out, errors = run("deepspeed.sh", "--dry-run", "--verify", "hosts", *config, cwd=folder)
    assert status == 0, errors
    verify, train = out.splitlines()
    assert verify.rstrip().endswith(f"{ROOT}/tools/verify.py {quoted}")
    assert train.split(" --module")[0] == "deepspeed --hostfile hosts --force_multi"
    assert train.rstrip().endswith(f"--module taidscale.train {quoted}")

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
    assert out.rstrip().endswith(f"-m taidscale.train {quoted}")
    assert not list(folder.glob("logs*"))


@pytest.mark.parametrize(
    ("what_is_there", "starts"),
    [
        ("nothing", True),
        ("a folder of one's own", True),
        ("a link", False),
        ("a folder for all", False),
        ("a folder of somebody else", False),
        ("a file", False),
    ],
)
def test_a_cache_that_others_could_fill_is_refused(
    what_is_there: str, starts: bool, folder: Path
) -> None:
    """On the node, before anything is loaded from it; the job and its programs are stand-ins."""
    programs = folder / "programs"
    programs.mkdir()
    (programs / "scontrol").write_text("#!/bin/sh\necho n1\n")
    drop = 'while case "$1" in --*) true ;; *) false ;; esac; do shift; done\n'
    (programs / "srun").write_text(f'#!/bin/sh\n{drop}SLURM_NODEID=0 exec "$@"\n')
    python = f'#!/bin/sh\n[ "$1" = -c ] && echo {ROOT}\n[ "$2" = taidscale.restart ] && exit 1\n'
    python += "case $* in *taidscale.train*) ls -ld $LOCAL_CACHE >started ;; esac\n"
    (programs / "python").write_text(python + "exit 0\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    cache = folder / "cache"
    if what_is_there == "a link":
        (folder / "elsewhere").mkdir()
        cache.symlink_to(folder / "elsewhere")
    elif what_is_there == "a file":
        cache.touch()
    elif what_is_there != "nothing":
        cache.mkdir()
        cache.chmod(0o777 if what_is_there == "a folder for all" else 0o755)
    if what_is_there == "a folder of somebody else":
        if os.geteuid() != 0:
            pytest.skip("giving a folder to somebody else takes root")
        os.chown(cache, 65534, 65534)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "job", "SLURM_JOB_NODELIST": "n1"}
    job |= {"SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_ON_NODE": "2", "SLURM_GPUS_ON_NODE": "1"}
    path = f"{programs}:{os.environ['PATH']}"
    status, out, errors = run(
        "slurm.sbatch", "run.yaml", cwd=folder, PATH=path, LOCAL_CACHE=str(cache), **job
    )
    assert (folder / "started").exists() == starts, out + errors
    if what_is_there == "nothing":
        assert (folder / "started").read_text().startswith("drwx------")
    if not starts:
        assert status != 0
        assert f"{cache} must be a folder of" in errors
        assert "or set LOCAL_CACHE" in errors


def test_torchrun_starts_again_what_died_and_ends_when_asked(tmp_path: Path) -> None:
    config = make_run(tmp_path, total_steps=10**6, checkpoint={"every_steps": 5}, evaluation=None)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    log = tmp_path / "log"
    with log.open("wb") as out:
        script = subprocess.Popen(
            [LAUNCHERS / "torchrun.sh", config],
            env={**os.environ, "RANKS_PER_NODE": "2", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=out,
            stderr=out,
        )
    metrics = tmp_path / "run" / "metrics.jsonl"

    def steps() -> int:
        return len(metrics.read_text().splitlines()) if metrics.exists() else 0

    def wait_for_step(step: int) -> None:
        deadline = time.monotonic() + 600
        while steps() < step:
            assert script.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)

    try:
        wait_for_step(8)
        ranks = [
            process
            for process in psutil.Process(script.pid).children(recursive=True)
            if {"-m", "taidscale.train", str(config)} <= set(process.cmdline())
            and "RANK" in process.environ()
        ]
        ranks[0].kill()
        psutil.wait_procs(ranks, timeout=300)
        wait_for_step(steps() + 10)
        assert "yes: the last start" in log.read_text()
        script.send_signal(signal.SIGTERM)
        assert script.wait(300) != 0
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in psutil.Process(script.pid).children(recursive=True):
                process.kill()
            script.kill()
    assert "SIGTERM" in log.read_text().split("yes: the last start")[1]
    numbers = [entry["step"] for entry in read_lines(metrics)]
    assert numbers == [*range(1, len(numbers) + 1)]
    assert (tmp_path / "run" / "checkpoints" / f"step-{numbers[-1]:08d}").is_dir()
