"""What stands in for real models, tokenizers and corpora where a machine has none.

python -m tests.material.make FOLDER

It has the paths and formats of what it stands in for, and little of what that knows. Made
once, from the code here and the documentation that comes with Python; kept beside the
environment.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CACHE = Path.home() / ".cache" / "taidscale"
NAMES = ("make.py", "texts.py", "vocabularies.py", "llama.py", "japanese.txt")
QUICKSTART = ROOT / "taidscale" / "commands" / "work" / "quickstart.py"
SOURCES = (*(HERE / name for name in NAMES), QUICKSTART)


def made_material() -> Path:
    """The folder; made first where no one has yet, which takes a minute.

    Processes that ask at the same time wait for one of them.
    """
    digest = hashlib.sha256(sys.version.encode() + (ROOT / "constraints.txt").read_bytes())
    for path in SOURCES:
        digest.update(path.read_bytes())
    folder = CACHE / f"material-{digest.hexdigest()[:12]}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            # In a process of its own: seeds and threads of the tests stay as they are.
            subprocess.run(
                [sys.executable, "-m", "tests.material.make", partial],
                cwd=ROOT,
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
                check=True,
            )
            partial.rename(folder)
    return folder


def make(folder: Path) -> None:
    """All of it."""
    from tests.material import llama, texts, vocabularies

    folder.mkdir()
    texts.write_corpora(folder / "corpora")
    texts.write_tasks(folder / "evals")
    english, japanese = texts.english(), [text for _, text in texts.japanese()]
    both = [*english, *japanese]
    tokenizers = folder / "tokenizers"
    (tokenizers / "sentencepiece").mkdir(parents=True)
    vocabularies.save_chat_tokenizer(tokenizers / "qwen2.5", both)
    vocabularies.save_japanese_tokenizer(tokenizers / "llm-jp-v2.2-50k", both)
    for name, kind in (("llm-jp-v3.1-100k", "unigram"), ("mistral-v1-32k", "bpe")):
        path = tokenizers / "sentencepiece" / f"{name}.model"
        vocabularies.train_sentencepiece(path, both, kind, 2000)
    model = folder / "models" / "stories260K-llama-hf"
    model.mkdir(parents=True)
    vocabularies.save_llama_tokenizer(model, list(english), llama.VOCAB_SIZE)
    llama.train_llama(model, [" ".join(text.split()) for text in english])


if __name__ == "__main__":
    make(Path(sys.argv[1]))
