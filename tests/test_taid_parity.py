"""A run of 200 steps against the published rule and a dense loop, both written down anew here."""

import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from taidscale.config.load import load_config
from taidscale.data.loader import TrainingLoader
from tests.ranks import run_on_ranks
from tests.runs import VOCAB_SIZE, make_run, read_lines

STEPS, RATE = 200, 1e-3
T_START, T_END, ALPHA, BETA, GAIN = 0.3, 0.95, 0.02, 0.9, 40.0


@pytest.mark.parametrize("signal", ["cross_entropy", "kl"])
def test_t_and_loss_equal_the_published_rule(signal: str, tmp_path: Path) -> None:
    path = make_run(
        tmp_path,
        total_steps=STEPS,
        micro_batch_size=4,
        evaluation=None,
        checkpoint={"every_steps": STEPS},
        learning_rate={"schedule": "constant", "peak": RATE},
        optimizer={"eps": 1e-3, "gradient_clipping": 0.0, "weight_decay": 0.0},
        loss={
            "objective": "taid",
            "t": {
                "schedule": "adaptive",
                "t_start": T_START,
                "t_end": T_END,
                "alpha": ALPHA,
                "beta": BETA,
                "momentum_gain": GAIN,
                "signal": signal,
            },
        },
    )
    run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": [str(path), "teacher.tp_size=2"]})
    entries = read_lines(tmp_path / "run" / "metrics.jsonl")
    expected = dense_run(path, signal)
    assert len(entries) == len(expected) == STEPS
    gaps_t = [abs(e["t"] - t) for e, (t, _) in zip(entries, expected, strict=True)]
    gaps_loss = [abs(e["loss"] - loss) for e, (_, loss) in zip(entries, expected, strict=True)]
    print(
        f"{signal}: over {STEPS} steps t differs by {max(gaps_t):.1e}, loss by {max(gaps_loss):.1e}"
    )
    assert max(gaps_t) < 1e-5
    assert max(gaps_loss) < 1e-5
    # The adaptive term decided, not only the linear floor.
    floor = [T_START + (T_END - T_START) * step / STEPS for step in range(STEPS)]
    assert sum(e["t"] > f + 0.01 for e, f in zip(entries, floor, strict=True)) > STEPS // 4


def dense_run(path: Path, signal: str) -> list[tuple[float, float]]:
    """(t, loss) of each step: full logits, one process, the formulas of the paper."""
    config = load_config(path)
    folder = path.parent
    student = AutoModelForCausalLM.from_pretrained(folder / "student")
    teacher = AutoModelForCausalLM.from_pretrained(folder / "teacher").eval()
    optimizer = torch.optim.AdamW(
        student.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-3, weight_decay=0.0
    )
    batches = TrainingLoader(
        config.data,
        seq_len=config.seq_len,
        micro_batch_size=8,
        grad_accum_steps=1,
        seed=0,
        vocab_size=VOCAB_SIZE,
    )
    t, momentum, previous, seen = T_START, 0.0, None, []
    for step in range(STEPS):
        (batch,) = batches.next_step()
        z_s = student(batch.input_ids).logits[..., :VOCAB_SIZE]
        with torch.no_grad():
            z_t = teacher(batch.input_ids).logits[..., :VOCAB_SIZE]
        p = ((1 - t) * z_s.detach() + t * z_t).softmax(-1)
        soft = -(p * z_s.log_softmax(-1)).sum(-1).mean()
        loss = soft + (p * p.log()).sum(-1).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append((t, loss.item()))
        now = soft.item() if signal == "cross_entropy" else loss.item()
        if previous is not None:
            momentum = BETA * momentum + (1 - BETA) * (previous - now) / (previous + 1e-15)
            growth = ALPHA / (1 + math.exp(-GAIN * momentum)) * (1 - t)
            t = min(T_END, max(T_START + (T_END - T_START) * step / STEPS, t + growth))
        previous = now
    return seen
