"""What a run says where DeepSpeed has renamed what it promises to nobody.

python -O -m tests.engine.private_names FOLDER  # of a model; a line for each name
"""

import sys
from collections.abc import Callable
from pathlib import Path

import deepspeed.ops
import torch
from deepspeed.runtime.engine import DeepSpeedEngine

from taidscale.engine.buffers import check_rope
from taidscale.engine.finite import forget_skipped_gradients
from taidscale.engine.runtime import adopt_launcher, start_ranks
from taidscale.engine.universal import check_complete, repair_steps
from taidscale.parallel.layout import Layout
from tests.engine.any_layout import Training

LAYOUT = Layout(1, 3, False, "fp32")


def say(act: Callable[[], object]) -> None:
    try:
        act()
    except ValueError as error:
        print(f"{type(error).__name__}: {error}")
    else:
        print("nothing")


def main(folder: Path) -> None:
    adopt_launcher()
    ops = deepspeed.ops.__compatible_ops__
    deepspeed.ops.__compatible_ops__ = tuple(ops)
    say(lambda: start_ranks(tp_size=1, seed=0))
    deepspeed.ops.__compatible_ops__ = ops

    script = DeepSpeedEngine._copy_recovery_script
    del DeepSpeedEngine._copy_recovery_script
    say(lambda: Training(LAYOUT, folder / "model"))
    DeepSpeedEngine._copy_recovery_script = script

    training = Training(LAYOUT, folder / "model")
    student, engine = training.student, training.engine
    training.steps(range(1))
    checkpoint = folder / "step-00000001"
    checkpoint.mkdir()
    student.save(checkpoint, torch.save)
    del engine.optimizer.clip_grad
    say(lambda: student.load(checkpoint, LAYOUT, step=1))
    for parameter in engine.module.parameters():
        del parameter.ds_persist
    say(student.weight_hashes)
    say(lambda: check_complete(engine.module, {}))
    engine.module.register_buffer("inv_freq", torch.zeros(1, dtype=torch.bfloat16))
    say(lambda: check_rope(engine.module))
    engine.optimizer.optimizer.state.clear()
    say(lambda: repair_steps(engine.optimizer, 1.0))

    offloaded = Training(Layout(1, 2, True, "bf16"), folder / "model")
    offloaded.engine.optimizer.averaged_gradients = []
    say(lambda: forget_skipped_gradients(offloaded.engine.optimizer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
