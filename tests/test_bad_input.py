"""A user's mistake gives one clear error before any work, and loses nothing."""

import contextlib
import io
import math
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, GPT2Config

from taidscale.checkpoint.manifest import damage, read_facts
from taidscale.commands.train import main
from taidscale.engine.student import student_state_dict
from tests.ranks import run_on_ranks
from tests.runs import SEQ_LEN, make_run, read_lines
from tests.small_disk import small_disk
from tests.tiny_models import save_byte_tokenizer, save_tiny_model


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, shards and configuration that no test changes."""
    folder = tmp_path_factory.mktemp("run")
    make_run(folder)
    return folder


def expect_error(arguments: list[str], pattern: str) -> None:
    """On each rank: the command ends with status 2 and one error on the first rank."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    assert status == 2
    if os.environ["RANK"] == "0":
        assert re.search(pattern, said.getvalue(), re.DOTALL), said.getvalue()
        assert said.getvalue().count("error: ") == 1
        assert "Traceback" not in said.getvalue()
    else:
        assert said.getvalue() == ""


def refuse(folder: Path, *overrides: str, says: str, world_size: int = 1) -> None:
    """Run on real ranks, expect the error, and that nothing was written."""
    arguments = [str(folder / "run.yaml"), *overrides]
    run_on_ranks(world_size, __name__, "expect_error", {"arguments": arguments, "pattern": says})
    assert not (folder / "run" / "metrics.jsonl").exists()


def test_misspelt_setting(shared_run: Path) -> None:
    refuse(
        shared_run,
        "learning_rate.peek=1",
        says=r"learning_rate\.peek: unknown setting of cosine; did you mean 'peak'",
    )


def test_missing_folders_all_at_once(shared_run: Path) -> None:
    refuse(
        shared_run,
        "teacher.model=./no-teacher",
        "evaluation.data=./no-data",
        says=r"teacher\.model: .*no-teacher.*evaluation\.data: .*no-data",
    )


def test_tp_size_that_does_not_divide(shared_run: Path) -> None:
    says = r"teacher\.tp_size: 4 does not divide the 2 ranks of a node; choose one of \[1, 2\]"
    refuse(shared_run, "teacher.tp_size=4", says=says, world_size=2)


def test_batch_size_that_does_not_divide(shared_run: Path) -> None:
    says = r"global_batch_size: 6 is not a multiple of .* 2 ranks = 4; the next that is: 8"
    refuse(shared_run, "global_batch_size=6", says=says, world_size=2)


def test_tokenizer_that_differs(shared_run: Path, tmp_path: Path) -> None:
    save_tiny_model(tmp_path, "qwen2", vocab_size=264)
    save_byte_tokenizer(tmp_path, extra=("<|other|>",))
    says = r"tokenizers of the teacher .* differ in 1 entries: '<\|other\|>' is id 257 there"
    refuse(shared_run, f"teacher.model={tmp_path}", says=says)


def test_data_of_another_tokenizer(shared_run: Path, tmp_path: Path) -> None:
    for role in ("teacher", "student"):
        save_tiny_model(tmp_path / role, "qwen2", vocab_size=264)
        save_byte_tokenizer(tmp_path / role, extra=("<|other|>",))
    refuse(
        shared_run,
        f"teacher.model={tmp_path / 'teacher'}",
        f"student.init.model={tmp_path / 'student'}",
        says=r"data\.streams\.0: .* another tokenizer",
    )


def test_remote_data_that_does_not_fit(shared_run: Path, tmp_path: Path) -> None:
    stream = f"local: {tmp_path / 'cache'}, remote: {shared_run / 'train'}"
    says = rf"data\.streams\.0: .*train holds sequences of {SEQ_LEN} tokens"
    refuse(shared_run, f"data.streams=[{{{stream}}}]", "seq_len=8", says=says)
    stream = f"local: {tmp_path / 'cache'}, remote: {tmp_path / 'nothing'}"
    says = r"data\.streams\.0: cannot fetch manifest\.json from .*nothing"
    refuse(shared_run, f"data.streams=[{{{stream}}}]", says=says)


def test_unsupported_architecture(shared_run: Path, tmp_path: Path) -> None:
    GPT2Config(n_layer=1, n_embd=8, n_head=2).save_pretrained(tmp_path)
    says = r"teacher\.model: architecture 'gpt2' is not supported; these are: llama, qwen2"
    refuse(shared_run, f"teacher.model={tmp_path}", says=says, world_size=2)


def test_wrong_seq_len(shared_run: Path) -> None:
    says = rf"holds sequences of {SEQ_LEN} tokens and the run has seq_len 8"
    refuse(shared_run, "seq_len=8", says=says)


@pytest.mark.parametrize("size", [0, 100])
def test_empty_or_truncated_shard(tmp_path: Path, size: int) -> None:
    make_run(tmp_path)
    shard = next((tmp_path / "train").rglob("*.mds"))
    os.truncate(shard, size)
    refuse(tmp_path, says=rf"data\.streams\.0: .*{shard.name}")


def test_truncated_weights(tmp_path: Path) -> None:
    make_run(tmp_path)
    file = sorted((tmp_path / "teacher").glob("*.safetensors"))[0]
    os.truncate(file, file.stat().st_size // 2)
    refuse(tmp_path, says=rf"teacher\.model: .*{file.name} is missing or truncated")


def run_main(arguments: list[str]) -> None:
    """On each rank: the command succeeds."""
    assert main(arguments) == 0


def test_change_that_checkpoints_cannot_follow(tmp_path: Path) -> None:
    path = make_run(tmp_path, total_steps=2)
    run_on_ranks(1, __name__, "run_main", {"arguments": [str(path)]})
    settings = (tmp_path / "run" / "config.yaml").read_text()
    arguments = [str(path), "total_steps=4", f"student.init.model={tmp_path / 'teacher'}"]
    says = (
        r"checkpoints that do not fit: student\.init\.model was .*student' and is .*\. Put it back"
    )
    run_on_ranks(1, __name__, "expect_error", {"arguments": arguments, "pattern": says})
    assert (tmp_path / "run" / "config.yaml").read_text() == settings


def run_with_a_failing_teacher(arguments: list[str], failing: list[int]) -> None:
    """On each rank: `run_main`, and the teacher's embedding of some ids is not finite."""

    def fail(module: nn.Module, inputs: tuple[torch.Tensor], output: Any) -> Any:
        if isinstance(module, nn.Embedding) and not module.training:
            output[torch.isin(inputs[0], torch.tensor(failing))] = math.nan
        return output

    hook = nn.modules.module.register_module_forward_hook(fail)
    run_main(arguments)
    hook.remove()


def test_a_batch_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    path = make_run(tmp_path, rare_documents=("zzzz",), total_steps=9)
    failing = AutoTokenizer.from_pretrained(tmp_path / "teacher")("z").input_ids
    params = {"arguments": [str(path), "evaluation=null"], "failing": failing}
    run_on_ranks(2, __name__, run_with_a_failing_teacher.__name__, params)
    entries = read_lines(tmp_path / "run" / "metrics.jsonl")
    skipped = [entry["step"] for entry in entries if not math.isfinite(entry["loss"])]
    assert 0 < len(skipped) < 4
    assert all(math.isfinite(entry["t"] + entry["momentum"]) for entry in entries)
    weights = student_state_dict(tmp_path / "run" / "checkpoints" / "step-00000009")
    assert all(bool(torch.isfinite(weight).all()) for weight in weights.values())


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SLURM_STEP_NUM_TASKS": "16"}, "srun started 16 tasks without telling them"),
        ({"RANK": "0", "WORLD_SIZE": "16"}, "LOCAL_WORLD_SIZE is not set"),
    ],
)
def test_launcher_that_says_too_little(
    shared_run: Path, environment: dict[str, str], says: str
) -> None:
    left_out = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE")
    clean = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-m", "taidscale.train", str(shared_run / "run.yaml")],
        env={**clean, **environment, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_run_folder_in_use(tmp_path: Path) -> None:
    path = make_run(tmp_path, total_steps=2)
    (tmp_path / "run").mkdir()
    holder = subprocess.Popen(
        [
            "python3",
            "-c",
            "import fcntl,socket,sys; f=open(sys.argv[1],'w'); "
            "fcntl.lockf(f, fcntl.LOCK_EX); "
            "f.write('process 7 on ' + socket.gethostname()); f.flush(); "
            "print('locked', flush=True); input()",
            str(tmp_path / "run" / "lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        says = r"is in use by process 7"
        arguments = {"arguments": [str(path)], "pattern": says}
        run_on_ranks(1, __name__, "expect_error", arguments)
    finally:
        holder.communicate(b"\n")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", "1m") as folder:
        yield folder


def test_disk_that_fills_up_while_saving(tmp_path: Path, disk: Path) -> None:
    path = make_run(tmp_path, total_steps=4, run_dir=str(disk / "run"))
    steps = [str(path), "checkpoint.every_steps=2", "checkpoint.keep_last=9", "total_steps=2"]
    run_on_ranks(2, __name__, "run_main", {"arguments": steps})
    first = disk / "run" / "checkpoints" / "step-00000002"
    size = sum(entry["bytes"] for entry in read_facts(first)["files"].values())
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    # Enough for the estimate, not for the files: the disk is full in the middle of a write.
    (disk / "others").write_bytes(bytes(free - size + 20_000))
    # Which file does not fit is chance; that it is not the look at the free space is not.
    full = r"(\.pt: |No space left)"
    says = rf"could not write checkpoint step-00000004: .*{full}.*The last good one is .*-00000002"
    arguments = [*steps[:-1], "total_steps=4"]
    run_on_ranks(2, __name__, "expect_error", {"arguments": arguments, "pattern": says})
    assert damage(first) is None
    assert [p.name for p in first.parent.iterdir()] == ["step-00000002"]
    (disk / "others").unlink()
    run_on_ranks(2, __name__, "run_main", {"arguments": arguments})
    assert damage(disk / "run" / "checkpoints" / "step-00000004") is None
