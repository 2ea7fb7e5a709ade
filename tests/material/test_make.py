"""What stands in for real material is good enough to test with."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoTokenizer

from taidscale.data.tokenizer import load_tokenizer
from tests.material import make, texts


@pytest.fixture(scope="module")
def made() -> Path:
    return make.made_material()


def test_the_llama_has_learned(made: Path) -> None:
    folder = made / "models" / "stories260K-llama-hf"
    model, hf = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    held_out = (made / "corpora" / "en" / "tinystories-valid-sample.txt").read_text()
    ids = torch.tensor([hf(text).input_ids[:100] for text in held_out.split("\n\n")])
    assert ids[0, 0] == 1
    with torch.no_grad():
        logits = model(ids).logits[:, :-1]
    loss = float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()))
    frequencies = torch.bincount(ids.flatten(), minlength=512).double() / ids.numel()
    of_frequencies = -float((frequencies * frequencies.clamp_min(1e-9).log()).sum())
    assert loss < of_frequencies - 0.5


def test_tokenizers_are_of_the_kinds_they_stand_in_for(made: Path) -> None:
    chat = load_tokenizer(str(made / "tokenizers" / "qwen2.5"))
    assert (chat.size, chat.vocabulary()["<|endoftext|>"]) == (151_665, 151_643)
    assert chat.eos_id == chat.vocabulary()["<|im_end|>"]
    said = chat.hf.apply_chat_template([{"role": "user", "content": "日本"}], tokenize=False)
    assert said.endswith("<|im_end|>\n<|im_start|>user\n日本<|im_end|>\n")
    names = ("qwen2.5", "llm-jp-v2.2-50k", *(f"sentencepiece/{name}.model" for name in
             ("llm-jp-v3.1-100k", "mistral-v1-32k")))  # fmt: skip
    _, text = texts.japanese()[0]
    for name in names:
        tokenizer = load_tokenizer(str(made / "tokenizers" / name))
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text)  # words, and no bytes


def test_processes_that_ask_together_get_one(tmp_path: Path) -> None:
    """And what a killed one left is in no one's way."""
    program = (
        "import sys, pathlib\n"
        "from tests.material import make\n"
        "make.CACHE = pathlib.Path(sys.argv[1])\n"
        "def run(command, **_):\n"
        "    with (make.CACHE / 'made').open('a') as file:\n"
        "        file.write('once')\n"
        "    command[-1].mkdir()\n"
        "make.subprocess.run = run\n"
        "print(make.made_material())\n"
    )
    command = [sys.executable, "-c", program, tmp_path]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    folders = {Path(process.communicate()[0].strip().splitlines()[-1]) for process in both}
    (folder,) = folders
    assert (tmp_path / "made").read_text() == "once"
    shutil.move(folder, folder.with_suffix(".partial"))
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    assert folder.is_dir()
    assert not folder.with_suffix(".partial").exists()
