"""Commands are found by name, and say what they are without importing what they need."""

import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

from taidscale import __version__, commands
from taidscale.commands.dispatch import COMMANDS, main

ROOT = Path(__file__).parents[2]
SHARED = {"dispatch", "outcome", "parser", "work"}
MODULES = sorted({module.name for module in pkgutil.iter_modules(commands.__path__)} - SHARED)
LARGE = {"torch", "transformers", "datasets", "deepspeed", "numpy", "streaming", "pydantic"}
DOORS = {
    "check_nodes": "nodes",
    "evaluate": "evaluate",
    "export_hf": "export",
    "inspect_data": "inspect",
    "plan": "plan",
    "prepare_data": "prepare",
    "publish": "publish",
    "quantify": "quantify",
    "quickstart": "quickstart",
    "report": "report",
    "show_checkpoint": "show",
    "train_tokenizer": "tokenizer",
    "verify": "verify",
}
SAY_WHAT_WAS_IMPORTED = """
import sys
from taidscale.commands.dispatch import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def python(*arguments: str, cwd: Path = ROOT) -> tuple[str, str]:
    """Output and errors of a Python that succeeds."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_every_module_is_a_command() -> None:
    assert set(MODULES) == set(COMMANDS)


@pytest.mark.parametrize("name", [*MODULES, ""])
def test_help_imports_that_command_alone_and_nothing_large(name: str) -> None:
    out, errors = python("-c", SAY_WHAT_WAS_IMPORTED, *([name] if name else []), "--help")
    assert out.startswith(f"usage: taidscale {name}")
    imported = set(errors.split())
    assert not imported & LARGE
    of_commands = {module for module in imported if module.startswith("taidscale.commands.")}
    expected = SHARED - {"work", "parser"} | ({name, "parser"} if name else set())
    assert of_commands <= {f"taidscale.commands.{part}" for part in expected}


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    listed = capsys.readouterr().out.partition("commands:\n")[2]
    assert [line.split()[0] for line in listed.splitlines()] == list(COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"taidscale {__version__}\n"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("trian", "there is no command 'trian'; did you mean 'train'?"),
        ("zzz", "there is no command 'zzz'; taidscale --help lists them"),
    ],
)
def test_a_command_that_does_not_exist(
    given: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([given, "run.yaml"]) == 2
    assert capsys.readouterr().err == f"error: {says}\n"


@pytest.mark.parametrize("tool", sorted(path.stem for path in (ROOT / "tools").glob("*.py")))
def test_an_old_tool_is_a_door(tool: str, tmp_path: Path) -> None:
    out, _ = python(str(ROOT / "tools" / f"{tool}.py"), "--help", cwd=tmp_path)
    assert out.startswith(f"usage: taidscale {DOORS[tool]}")


@pytest.mark.parametrize("name", ["restart", "stop"])
def test_an_old_module_is_a_door(name: str) -> None:
    out, _ = python("-m", f"taidscale.{name}", "--help")
    assert out.startswith(f"usage: taidscale {name}")


def test_a_reader_that_has_read_enough() -> None:
    command = f"{sys.executable} -m taidscale settings | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("141\n", "")
