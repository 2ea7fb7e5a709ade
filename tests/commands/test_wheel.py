"""What `pip install` gives works where there is no clone."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PARTS = ("taidscale", "launchers", "configs", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel of this package was installed, without what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    (folder / "source").mkdir()
    for name in PARTS:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(ROOT / name, folder / "source" / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    built = ["--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    subprocess.run([*pip, "wheel", "--no-deps", *built], check=True)
    (wheel,) = folder.glob("*.whl")
    target = folder / "site"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(target), wheel], check=True)
    shutil.rmtree(folder / "source")
    return target


def run(*command: str | Path, installed: Path, cwd: Path) -> str:
    """What a command says that succeeds."""
    path = f"{installed / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed), "PATH": path, "RANKS_PER_NODE": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_what_is_no_code(installed: Path) -> None:
    package = installed / "taidscale"
    assert (package / "py.typed").is_file()
    for name in ("launchers", "configs"):
        copies = sorted((package / "examples" / name).iterdir())
        assert [path.name for path in copies] == sorted(p.name for p in (ROOT / name).iterdir())
        for path in copies:
            original = ROOT / name / path.name
            assert path.read_bytes() == original.read_bytes()
            assert os.access(path, os.X_OK) == os.access(original, os.X_OK)


def test_the_command_is_there(installed: Path, tmp_path: Path) -> None:
    said = run("taidscale", "--version", installed=installed, cwd=tmp_path)
    assert said == "taidscale 0.1.0\n"


def test_launchers_that_were_copied_out_start_the_packages_commands(
    installed: Path, tmp_path: Path
) -> None:
    copy = "from taidscale.examples import copy_examples as c; from pathlib import Path; c(Path())"
    run(sys.executable, "-c", copy, installed=installed, cwd=tmp_path)
    launcher = [tmp_path / "launchers" / "torchrun.sh", "--dry-run", "--check", "--verify"]
    said = run(*launcher, "configs/quickstart.yaml", installed=installed, cwd=tmp_path)
    commands = [line.rpartition("-m taidscale ")[2].split()[0] for line in said.splitlines()]
    assert commands == ["check", "nodes", "verify", "train"]
    for command in commands:
        run("taidscale", command, "--help", installed=installed, cwd=tmp_path)


def test_the_quickstart_finds_its_configuration(installed: Path, tmp_path: Path) -> None:
    find = "from taidscale.commands.work.quickstart import CONFIG; print(CONFIG.read_text())"
    said = run(sys.executable, "-c", find, installed=installed, cwd=tmp_path)
    assert yaml.safe_load(said) == yaml.safe_load((ROOT / "configs/quickstart.yaml").read_text())
