"""launchers/slurm.sbatch: the folder of compiled kernels on each node."""

import os
from pathlib import Path

import pytest

from tests.launching import fill, run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path)


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
    python = '#!/bin/sh\n[ "$3" = restart ] && exit 1\n'
    python += "case $* in *taidscale\\ train*) ls -ld $LOCAL_CACHE >started ;; esac\n"
    (programs / "python").write_text(python + "exit 0\n")
    for program in programs.iterdir():
        program.chmod(0o755)
    cache = folder / "cache"
    if what_is_there == "a link":
        (folder / "elsewhere").mkdir()
        cache.symlink_to(folder / "elsewhere")
    elif what_is_there == "a file":
        cache.touch()
    elif what_is_there == "a folder of somebody else" and os.geteuid() != 0:
        cache = Path("/usr/lib")  # root's
    elif what_is_there != "nothing":
        cache.mkdir()
        cache.chmod(0o777 if what_is_there == "a folder for all" else 0o755)
    if what_is_there == "a folder of somebody else" and os.geteuid() == 0:
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
