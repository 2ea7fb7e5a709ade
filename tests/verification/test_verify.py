"""The command says that a right build is right, and names the culprit in a wrong one."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ranks import run_on_ranks
from tests.runs import make_run
from tests.tiny_models import save_tiny_model
from tests.verification import sabotage

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "verify.py"
LONG = ["seq_len=1024", "teacher.dtype=bf16"]
"""So that rounded positions show."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    path = make_run(folder)
    for role, rows in (("teacher", 264), ("student", 260)):
        # With head_dim 16, some of the RoPE frequencies are no powers of two.
        sizes = {"vocab_size": rows, "hidden_size": 64, "head_dim": 16}
        save_tiny_model(folder / role, "qwen2", max_position_embeddings=1024, **sizes)
    return path


def verify_on_rank(arguments: list[str], wrong: str | None, status: int, out: Path) -> None:
    """On each rank: the command, in a build that `wrong` names."""
    spec = importlib.util.spec_from_file_location("verify", TOOL)
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with pytest.MonkeyPatch.context() as patch, out.open("a") as file:
        patch.setattr(sys, "stdout", file)
        patch.setattr(sys, "stderr", file)
        patch.setattr(sys, "argv", [str(TOOL), *arguments])
        if wrong is not None:
            getattr(sabotage, wrong)(patch)
        assert tool.main() == status


def verify(
    config: Path, world_size: int, *overrides: str, wrong: str | None = None, status: int = 0
) -> str:
    """What the command prints."""
    out = config.with_name("said")
    out.unlink(missing_ok=True)
    arguments = [str(config), "health.slow_rank_ratio=1000", *overrides]
    params = {"arguments": arguments, "wrong": wrong, "status": status, "out": out}
    run_on_ranks(world_size, __name__, "verify_on_rank", params)
    assert not (config.parent / "run" / ".verification").exists()
    return out.read_text()


def rows(said: str) -> dict[str, str]:
    """By the first words of each check, how it ended."""
    found = re.findall(r"^(.*?)  .*(pass|FAIL)$", said, re.MULTILINE)
    return {name.split(",")[0]: ended for name, ended in found}


CHECKS = [
    "loss",
    "d loss / d hidden",
    "d loss / d head",
    "teacher's RoPE frequencies",
    "teacher's hidden states",
    "teacher's logits",
    "t",
    "4 steps equal 2",
    "nodes: versions",
]


@pytest.mark.parametrize(
    ("world_size", "overrides"),
    [
        (1, ["teacher.tp_size=1", "loss={objective: jensen_shannon}", "zero.stage=1"]),
        (4, ["teacher.tp_size=2", "precision=bf16", *LONG]),
    ],
)
def test_a_right_build_passes(world_size: int, overrides: list[str], config: Path) -> None:
    said = verify(config, world_size, *overrides)
    assert rows(said) == dict.fromkeys(CHECKS, "pass"), said
    assert re.search(rf"^{world_size} ranks verified in .* all checks passed$", said, re.MULTILINE)


@pytest.mark.parametrize(
    ("wrong", "overrides", "failed", "says"),
    [
        (
            "gradient_times_tp_size",
            [],
            ["d loss / d hidden"],
            r"FAIL d loss / d hidden,.*: it is T = 2 times too large: summed over the",
        ),
        (
            "dropped_cross_shard_term",
            [],
            ["loss", "d loss / d hidden", "d loss / d head"],
            r"FAIL d loss / d head,.*: it is right on one rank and wrong over T = 2: a term of the",
        ),
        (
            "t_differs_by_rank",
            [],
            ["t", "4 steps equal 2"],
            r"FAIL t, .*: t differs between ranks: rank 1 \(\S+\) has 0\.58\d+ instead of 0\.58",
        ),
        (
            "bf16_rope",
            LONG,
            ["teacher's RoPE frequencies", "teacher's hidden states", "teacher's logits"],
            r"FAIL teacher's RoPE frequencies: something casts .* \(inv_freq\) from float32",
        ),
        (
            "load_that_forgets",
            [],
            ["4 steps equal 2"],
            r"FAIL 4 steps equal 2,.*: after a save and a load the loss of step 4 is",
        ),
    ],
)
def test_a_wrong_build_fails_and_the_culprit_is_named(
    wrong: str, overrides: list[str], failed: list[str], says: str, config: Path
) -> None:
    said = verify(config, 2, "teacher.tp_size=2", *overrides, wrong=wrong, status=1)
    assert [name for name, ended in rows(said).items() if ended == "FAIL"] == failed, said
    assert re.search(says, said), said


def test_under_torchrun(config: Path) -> None:
    """Right, and with a setting that is not."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command = [*launcher, f"--master-port={port}", str(TOOL), str(config)]
    environment = {**os.environ, "PYTHONPATH": ""}
    arguments = ["teacher.tp_size=2", "health.slow_rank_ratio=1000"]
    done = subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert rows(done.stdout) == dict.fromkeys(CHECKS, "pass")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["teacher.tp_size=2"], r"teacher\.tp_size"),
        (["teacher.tp_size=1", "teacher.model=nowhere"], r"teacher\.model: there is no folder"),
        (["loss.objective=tiad"], r"loss.*tiad"),
    ],
)
def test_wrong_input_is_said_before_any_work(overrides: list[str], says: str, config: Path) -> None:
    said = verify(config, 1, *overrides, status=2)
    assert re.fullmatch(rf"error: [^\n]*(\n  )?[^\n]*{says}[^\n]*\n", said), said
