"""What a teacher with 64 experts costs beside transformers' own loop over them.

python benchmarks/experts.py [--layers 4] [--rounds 5]

Random weights in the proportions of Qwen3-30B-A3B, on CPUs, in processor time of the first rank.
In one run, side by side:

- alone: transformers' own model, which loops over the experts, and the teacher at T = 1;
- on two ranks: the same loop split by DeepSpeed's AutoTP, which reduces after every expert, and the
  teacher at T = 2, which reduces once a layer.

The loop has a cost for each expert, whatever its size: with many tokens an expert the products are
all that counts, and both have the same.
"""

import argparse
import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from transformers import AutoConfig, AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parents[1]))

from taidscale.config.schema import TeacherConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.losses.vocabulary import Vocabulary
from taidscale.models.families import read_model_config
from taidscale.parallel.grid import Grid
from taidscale.teachers.split import SplitTeacher

VOCABULARY, EXPERTS = 512, 64
SIZES = ((64, 24, 256), (128, 48, 256), (256, 96, 256), (256, 96, 1024))
"""Hidden size, width of an expert, tokens."""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print("hidden  width  tokens  T   loop, ms   ours, ms   ratio   largest difference")
    for hidden, width, tokens in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            _save(folder, hidden, width, options.layers)
            for ranks in (1, 2):
                results: Any = multiprocessing.get_context("spawn").Queue()
                arguments = (ranks, folder, tokens, options.rounds, results)
                multiprocessing.spawn(run_rank, arguments, nprocs=ranks)
                loop, ours, difference = results.get()
                print(
                    f"{hidden:6} {width:6} {tokens:7} {ranks:2} {1e3 * loop:10.1f} "
                    f"{1e3 * ours:10.1f} {ours / loop:7.2f} {difference:12.1e}",
                    flush=True,
                )


def _save(folder: str, hidden: int, width: int, layers: int) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(
        AutoConfig.for_model(
            "qwen3_moe",
            vocab_size=VOCABULARY,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            moe_intermediate_size=width,
            num_experts=EXPERTS,
            num_experts_per_tok=8,
            norm_topk_prob=True,
            num_hidden_layers=layers,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=hidden // 8,
            initializer_range=0.1,
            tie_word_embeddings=False,
        )
    ).save_pretrained(folder)


def run_rank(rank: int, ranks: int, folder: str, tokens: int, rounds: int, results: Any) -> None:
    """Time both; the first rank says what it saw."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29737",
    }
    torch.set_num_threads(1)
    grid = start_ranks(ranks, seed=0)
    ids = torch.randint(VOCABULARY, (ranks, tokens // ranks), generator=torch.Generator())
    loop = _loop(folder, grid)
    config = TeacherConfig(model=folder, tp_size=ranks, dtype="fp32")
    architecture = read_model_config(Path(folder), "teacher.model")
    vocabulary = Vocabulary.split(VOCABULARY, rank, ranks)
    teacher = SplitTeacher(config, architecture, Path(folder), vocabulary, grid)
    batch = MicroBatch(ids[rank : rank + 1], ids[rank : rank + 1])
    with torch.inference_mode():
        theirs = loop(ids).last_hidden_state.flatten(0, 1)
        difference = float((theirs - teacher(batch).hidden).abs().max())
        seconds = _seconds([lambda: loop(ids), lambda: teacher(batch)], rounds)
    if rank == 0:
        results.put((*seconds, difference))


def _loop(folder: str, grid: Grid) -> Any:
    """The trunk of transformers, split by DeepSpeed where there are two ranks."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().model
    if grid.tp_size > 1:
        with contextlib.redirect_stdout(io.StringIO()):
            deepspeed.init_inference(
                model,
                tensor_parallel={"tp_size": grid.tp_size},
                dtype=torch.float32,
                replace_with_kernel_inject=False,
            )
    return model


def _seconds(calls: list[Callable[[], Any]], rounds: int) -> list[float]:
    """Median processor time of each, taken in turn."""
    found: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, seconds in zip(calls, found, strict=True):
            dist.barrier()
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
    return [statistics.median(seconds) for seconds in found]


if __name__ == "__main__":
    main()
