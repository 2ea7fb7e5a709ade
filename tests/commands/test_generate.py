"""`taidscale generate` on a run, its checkpoint, its export and its teacher."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from taidscale.checkpoint.export import export_hugging_face
from taidscale.commands.generate import main
from taidscale.engine.student import student_state_dict
from tests.ranks import run_on_ranks
from tests.runs import make_run

PROMPTS = ("teacher tells", "what may come next?")
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run`, of two steps, its export `out`, `teacher`, and `chat`, which is the teacher with a
    template.
    """
    folder = tmp_path_factory.mktemp("generate")
    config = make_run(folder, total_steps=2, checkpoint={"every_steps": 1}, evaluation=None)
    run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": [str(config)]})
    weights = student_state_dict(folder / "run" / "checkpoints" / "step-00000002")
    export_hugging_face(
        weights,
        folder / "run" / "student",
        folder / "out",
        dtype=torch.float32,
        model_card="",
        files={},
    )
    shutil.copytree(folder / "teacher", folder / "chat")
    tokenizer = AutoTokenizer.from_pretrained(folder / "chat")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder / "chat")
    return folder


@pytest.fixture(autouse=True)
def _in_the_folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(made)


def said(tmp_path: Path, *arguments: str) -> list[dict[str, str]]:
    """The answers to each prompt, by model."""
    out = tmp_path / "answers.jsonl"
    assert main([*arguments, "--device", "cpu", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    out.unlink()
    return [line["answers"] for line in lines]


def prompts(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--prompt", text)]


def plain(folder: str, prompt: str, num_tokens: int) -> str:
    """What transformers alone makes of it."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    answer = model.generate(ids, max_new_tokens=num_tokens, do_sample=False, pad_token_id=256)
    text: str = tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
    return text


def test_a_run_its_checkpoint_its_export_and_its_teacher_side_by_side(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest, older = (f"run/checkpoints/step-0000000{step}" for step in (2, 1))
    models = ["run", newest, older, "out", "teacher"]
    answers = said(tmp_path, *models, *prompts(*PROMPTS), "--max-new-tokens", "12")
    assert [list(by_model) for by_model in answers] == [models, models]
    for prompt, by_model in zip(PROMPTS, answers, strict=True):
        assert by_model["run"] == by_model[newest] == by_model["out"] == plain("out", prompt, 12)
        assert by_model["teacher"] == plain("teacher", prompt, 12) != by_model["run"]
    shown = capsys.readouterr().out
    assert f"== {PROMPTS[1]}\n-- run\n{answers[1]['run']}\n-- {newest}\n" in shown


def test_the_teacher_of_a_run(tmp_path: Path, made: Path) -> None:
    (answers,) = said(tmp_path, "run", "--teacher", *prompts(PROMPTS[0]), "--max-new-tokens", "8")
    assert answers[str(made / "teacher")] == plain("teacher", PROMPTS[0], 8)


def test_prompts_of_a_file_are_those_of_the_command_line(tmp_path: Path) -> None:
    lines, table = tmp_path / "prompts.txt", tmp_path / "prompts.jsonl"
    lines.write_text("\n".join(PROMPTS))
    table.write_text("\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS))
    few = ["--max-new-tokens", "4"]
    wanted = said(tmp_path, "teacher", *prompts(*PROMPTS), *few)
    for file in (lines, table):
        assert said(tmp_path, "teacher", "--prompts", str(file), *few) == wanted


def test_a_chat_is_what_the_template_makes_of_it(tmp_path: Path) -> None:
    (as_chat,) = said(tmp_path, "chat", "--chat", *prompts("hello"), "--max-new-tokens", "8")
    (written,) = said(tmp_path, "chat", *prompts("<user>hello<assistant>"), "--max-new-tokens", "8")
    assert as_chat == written


def test_draws_follow_the_seed(tmp_path: Path) -> None:
    hot = ["teacher", *prompts(PROMPTS[0]), "--temperature", "1.5", "--max-new-tokens", "16"]
    first, again = said(tmp_path, *hot, "--seed", "1"), said(tmp_path, *hot, "--seed", "1")
    assert first == again != said(tmp_path, *hot, "--seed", "2")


def without_weights(made: Path, folder: Path) -> str:
    shutil.copytree(made / "out", folder)
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    return str(folder)


def damaged(made: Path, folder: Path) -> str:
    shutil.copytree(made / "run", folder)
    state = next((folder / "checkpoints" / "step-00000002").rglob("*_states.pt"))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    return str(folder / "checkpoints" / "step-00000002")


def without_checkpoints(made: Path, folder: Path) -> str:
    shutil.copytree(made / "run", folder)
    shutil.rmtree(folder / "checkpoints")
    return str(folder)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (without_weights, "NAME: NAME holds no safetensors weights"),
        (damaged, "NAME is no whole checkpoint: "),
        (without_checkpoints, "NAME/checkpoints holds no complete checkpoint yet"),
    ],
)
def test_what_is_not_whole(
    make, says: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = make(made, tmp_path / "model")
    assert main(["teacher", name, "--prompt", "hello"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: " + says.replace("NAME", name))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["teacher"], "give either --prompt TEXT or --prompts FILE"),
        (["teacher", *prompts("a"), "--prompts", "run.yaml"], "give either --prompt TEXT or"),
        (["teacher", "teacher", *prompts("a")], "teacher is named twice"),
        (["nobody", *prompts("a")], "nobody: there is no folder 'nobody'"),
        (["teacher", *prompts("a"), "--teacher"], "--teacher: none of the models is of a run"),
        (["teacher", *prompts("a"), "--chat"], "teacher: its tokenizer has no chat template"),
        (["teacher", *prompts("a" * 64)], "the prompt '" + "a" * 60 + "' has 64 tokens, and"),
        (["teacher", *prompts("")], "the prompt '' has 0 tokens"),
        (["teacher", *prompts("a"), "--max-new-tokens", "0"], "--max-new-tokens must be above 0"),
        (["teacher", *prompts("a"), "--temperature", "-1"], "--temperature must not be below 0"),
        (["teacher", *prompts("a"), "--out", "run.yaml"], "run.yaml exists already"),
        (["teacher", *prompts("a"), "--device", "tpu:9"], "--device tpu:9: cannot be used"),
    ],
)
def test_refuses(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {says}")
