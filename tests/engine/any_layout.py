"""Training a student in any layout, and comparing it with one that nothing disturbed."""

import contextlib
import io
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

from taidscale.config.schema import RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.runtime import start_ranks
from taidscale.engine.student import Student
from taidscale.losses.objective import CROSS_ENTROPY
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.parallel.layout import Layout

VOCABULARY, SEQ_LEN, LEARNING_RATE = 97, 10, 3e-3
SEQUENCES = 12
"""Of a step; a multiple of 1, 2, 3 and 4 ranks."""
SAVED, END = 3, 6
"""Steps."""
STATES = ("fp32", "exp_avg", "exp_avg_sq")


class Training:
    """A student and how to train it; the same samples on any number of ranks."""

    def __init__(self, layout: Layout, model: Path, **settings: Any) -> None:
        self.grid = start_ranks(tp_size=1, seed=0)
        assert layout.world_size == self.grid.world_size
        config = make_config(layout, model, **settings)
        vocabulary = Vocabulary.split(VOCABULARY, 0, 1)
        self.student = Student(config, vocabulary, self.grid, StepClock(self.grid.device))
        self.engine = self.student._engine
        assert self.student.layout == layout

    def steps(self, numbers: range) -> list[float]:
        """The mean loss of each step."""
        losses = []
        for step in numbers:
            generator = torch.Generator().manual_seed(step)
            tokens = torch.randint(0, VOCABULARY, (SEQUENCES, SEQ_LEN + 1), generator=generator)
            total = torch.zeros(1, dtype=torch.float64)
            for row in tokens[self.grid.rank :: self.grid.world_size, None]:
                batch = MicroBatch(row[:, :-1].contiguous(), row[:, 1:].contiguous())
                loss, _ = self.student(batch, None, CROSS_ENTROPY)
                total += loss.detach()
                self.student.backward(loss * self.grid.world_size / (SEQUENCES * SEQ_LEN))
            self.student.step(LEARNING_RATE)
            losses.append(float(self.grid.sum_over_world(total)) / (SEQUENCES * SEQ_LEN))
        return losses

    def whole_state(self) -> dict[str, dict[str, torch.Tensor]]:
        """Weights and moments of each parameter, whole, as the optimizer has them."""
        read = {0: self._of_plain, 1: self._of_fragment, 2: self._of_fragment, 3: self._of_zero_3}
        of_parameter = read[self.student.layout.stage]
        named = self.engine.module.named_parameters()
        return {name: {s: of_parameter(p, s) for s in STATES} for name, p in named}

    def _of_plain(self, parameter: torch.nn.Parameter, state: str) -> torch.Tensor:
        states = {"fp32": parameter.detach(), **self.engine.optimizer.state[parameter]}
        return states[state].clone()

    def _of_zero_3(self, parameter: torch.nn.Parameter, state: str) -> torch.Tensor:
        with contextlib.redirect_stdout(io.StringIO()):
            if state == "fp32":
                return safe_get_full_fp32_param(parameter).clone()
            return safe_get_full_optimizer_state(parameter, state).clone()

    def _of_fragment(self, parameter: Any, state: str) -> torch.Tensor:
        whole = torch.zeros(parameter.numel())
        inner, mapping = self.engine.optimizer.optimizer, parameter._hp_mapping
        if mapping is not None:
            (flat,) = inner.param_groups[mapping.param_group_index]["params"]
            values = flat.detach() if state == "fp32" else inner.state[flat][state]
            here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
            whole[here.start :][: here.numel] = values[there.start :][: there.numel]
        dist.all_reduce(whole)
        return whole.view_as(parameter)

    def check_optimizer(self, steps: int) -> None:
        """Step counts, one for each state, and the settings of each group."""
        inner = getattr(self.engine.optimizer, "optimizer", self.engine.optimizer)
        # With offload, a rank's part of a group that is nothing but padding is not counted on.
        counts = [s["step"] for s in inner.state.values() if s["exp_avg"].any()]
        assert {float(count) for count in counts} == {float(steps)}
        assert len({id(count) for count in counts}) == len(counts)
        assert [group["weight_decay"] for group in inner.param_groups] == [0.1, 0.0]


def make_config(layout: Layout, model: Path, **settings: Any) -> RunConfig:
    zero = {"stage": layout.stage, "offload_optimizer": layout.offload_optimizer}
    run = {
        "run_dir": "unused",
        "precision": layout.precision,
        "total_steps": 10,
        "seq_len": SEQ_LEN,
        "micro_batch_size": 1,
        "global_batch_size": SEQUENCES,
        "student": {"init": {"source": "pretrained", "model": str(model)}},
        "loss": {"objective": "cross_entropy"},
        "learning_rate": {"schedule": "constant", "peak": LEARNING_RATE},
        "zero": zero,
        "data": {"streams": [{"local": "unused"}]},
        "checkpoint": {"every_steps": 1},
    }
    return RunConfig.model_validate({**run, **settings})


def save(layout: Layout, model: Path, folder: Path) -> None:
    training = Training(layout, model)
    training.steps(range(SAVED))
    folder.mkdir(exist_ok=True)
    dist.barrier()
    training.student.save(folder, torch.save)
    state = training.whole_state()
    losses = training.steps(range(SAVED, END))
    if training.grid.is_first:
        torch.save({"state": state, "losses": losses}, folder.with_suffix(".undisturbed"))
    dist.barrier()


def check_continues(training: Training, source: Layout, folder: Path) -> None:
    target = training.student.layout
    undisturbed = torch.load(folder.with_suffix(".undisturbed"))
    training.student.load(folder, source, step=SAVED)
    state = training.whole_state()
    assert state.keys() == undisturbed["state"].keys()
    for name, states in undisturbed["state"].items():
        for key, expected in states.items():
            assert torch.equal(state[name][key], expected), f"{source} to {target}: {name} {key}"
    training.check_optimizer(SAVED)
    losses = training.steps(range(SAVED, END))
    training.check_optimizer(END)
    # In bf16 undisturbed runs differ as much between ZeRO-3 and the other stages.
    rounding = {(layout.precision, layout.stage == 3) for layout in (source, target)}
    same_rounding = len(rounding) == 1 or {source.precision, target.precision} == {"fp32"}
    torch.testing.assert_close(
        losses, undisturbed["losses"], rtol=0.0, atol=1e-5 if same_rounding else 3e-3
    )
    assert sorted(path.name for path in folder.parent.glob("universal*")) == []


def check_moves_on(training: Training, model: Path, layout: Layout) -> None:
    """From its own layout to another one."""
    with tempfile.TemporaryDirectory() as own:
        folder = Path(training.grid.as_on_first(own))
        training.student.save(folder, torch.save)
        expected = training.whole_state()
        after = Training(layout, model)
        after.student.load(folder, training.student.layout, step=END)
        for name, states in after.whole_state().items():
            for key, values in states.items():
                assert torch.equal(values, expected[name][key]), f"{name} {key}"
        after.check_optimizer(END)
