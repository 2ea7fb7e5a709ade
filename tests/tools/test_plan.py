"""`tools/plan.py` as a user starts it."""

from pathlib import Path

from tests.tools.commands import expect_error, expect_success, start

CONFIG = str(Path(__file__).parents[2] / "configs" / "tinyswallow-1.5b.yaml")


def test_plans_and_refuses(tmp_path: Path) -> None:
    good = start("plan.py", CONFIG, "--gpus", "64", "--mfu", "0.3", folder=tmp_path)
    big = ("micro_batch_size=8", "student.gradient_checkpointing=false")
    refused = start("plan.py", CONFIG, "--gpus", "64", "--gpu", "a100-40g", *big, folder=tmp_path)
    out = expect_success(good)
    assert "peak in backward" in out
    assert "MFU 30.0%" in out
    assert "teacher   32,763,876,352 parameters" in out
    assert "1,024*" in out
    out, errors = refused.communicate(timeout=600)
    assert refused.returncode == 1
    assert "does not fit" in out
    assert "the nearest that fits: student.gradient_checkpointing=true" in errors
    assert "Traceback" not in errors


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    wrong = {
        ("--gpus", "64", "--gpu", "h1000"): r"--gpu: 'h1000' is not known; .*h100-80g.*b200",
        ("--gpus", "12"): r"--gpus: 12 is not a multiple of the 8 GPUs of a node",
        ("--gpus", "64", "teacher.model=Qwen/Qwen2.5-33B"): r"teacher.model: 'Qwen/Qwen2.5-33B' is",
        ("--gpus", "64", "--mfu", "42"): r"--mfu must be between 0 and 1",
    }
    tools = [start("plan.py", CONFIG, *arguments, folder=tmp_path) for arguments in wrong]
    for tool, says in zip(tools, wrong.values(), strict=True):
        expect_error(tool, says)
