"""The scripts that start runs: what they refuse, what they would run, when they start it again."""

import contextlib
import os
import shutil
import signal
import site
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from deepspeed.launcher.runner import _parse_hostfile

from taidscale.run_status import RunStatus
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


def port() -> str:
    """A free one."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def steps(metrics: Path) -> int:
    return len(metrics.read_text().splitlines()) if metrics.exists() else 0


def wait_for_step(metrics: Path, step: int, script: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 600
    while steps(metrics) < step:
        assert script.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def end(script: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(script.pid).children(recursive=True):
            process.kill()
        script.kill()


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


@pytest.mark.parametrize(
    "entry",
    [
        "node1 slots=8 # rack 1",
        "node1 slots=8# rack 1",
        "node1 slots=8\r",
        "node1 slots=08",
        "node1 slots=8 max_slots=8",
        "  node1\tslots=8  ",
        "me@node1 slots=8",
    ],
)
def test_hostfile_is_read_as_deepspeed_reads_it(entry: str, folder: Path) -> None:
    """Shown by what it takes and what it refuses; and deepspeed's own reader takes it too."""
    lines = ["# two nodes", "", entry, "node2 slots=4"]
    read = _parse_hostfile(lines)
    assert list(read.values()) == [8, 4]
    (folder / "hosts").write_text("\n".join(lines))  # without a newline at its end
    status, _, errors = run("deepspeed.sh", "--dry-run", "hosts", "run.yaml", cwd=folder)
    assert status == 0, errors
    chosen = {"DEEPSPEED_ARGS": f"--include {next(iter(read))}"}
    assert (
        "@" in entry
        or run("deepspeed.sh", "--dry-run", "hosts", "run.yaml", cwd=folder, **chosen)[0] == 0
    )


def test_deepspeed_asks_its_own_run_to_end(tmp_path: Path) -> None:
    """Whatever the configuration is called, and another run of the same name goes on."""
    config = make_run(
        tmp_path, total_steps=10**6, checkpoint={"every_steps": 10**6 - 1}, evaluation=None
    )
    odd = config.rename(tmp_path / "a+b[1]';touch x;'.yaml")
    (tmp_path / "hosts").write_text("localhost slots=1\n")
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "DEEPSPEED_ARGS": f"--no_ssh --node_rank 0 --master_addr 127.0.0.1 --master_port {port()}",
    }
    log = tmp_path / "log"
    with log.open("wb") as out:
        script = subprocess.Popen(
            [LAUNCHERS / "deepspeed.sh", "hosts", odd], env=environment, cwd=tmp_path,
            stdout=out, stderr=out,
        )  # fmt: skip
    metrics = tmp_path / "run" / "metrics.jsonl"
    try:
        wait_for_step(metrics, 3, script, log)
        script.send_signal(signal.SIGTERM)
        script.wait(300)
    finally:
        end(script)
    assert "asked: " in log.read_text(), log.read_text()
    status = RunStatus.read(tmp_path / "run")
    assert status is not None
    assert (status.state, status.message[:9]) == ("interrupted", "asked by "), log.read_text()
    assert not (tmp_path / "x").exists()


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
            if {"-m", "taidscale.train", str(config)} <= set(process.cmdline())
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
