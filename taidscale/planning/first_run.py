"""Which configuration to begin with, for a teacher, a student and some GPUs."""

from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from taidscale.config.schema import RunConfig
from taidscale.models.families import check_student, model_config
from taidscale.models.shape import ModelShape, model_shape
from taidscale.planning.gpus import GPUS, Gpu
from taidscale.planning.least import MOST_GPUS, ever_smaller, least_need, smallest
from taidscale.planning.shapes import entries
from taidscale.planning.suggestions import HEADROOM, fastest, leaves_room
from taidscale.planning.workload import Workload

STEP_TOKENS = 2**21
"""Of an optimizer step in a long run, about; that of the recipes in `configs/`."""
LEAST_STEPS = 1000
"""Shorter runs take smaller batches rather than fewer steps, as far as the ranks allow it."""
SEQ_LEN = 4096


@dataclass(frozen=True)
class Wish:
    """What a person says of a run."""

    teacher: str
    """Folder, Hub id or known model."""
    student: str
    gpu: Gpu
    num_gpus: int
    gpus_per_node: int
    tokens: int
    """Of the whole run."""
    seq_len: int | None
    """None takes `SEQ_LEN`, or what both models have places for."""
    data: tuple[str, ...]
    """Folders of shards."""
    held_out: str | None
    run_dir: str


def first_run(wish: Wish) -> Workload:
    """The run with the shortest step, by the planner, that leaves `HEADROOM` of a GPU.

    Raises:
        ValueError: if a model is not understood, or nothing fits; then with what would.
    """
    teacher, most_of_teacher = _shape(wish.teacher, "--teacher")
    student, most_of_student = _shape(wish.student, "--student")
    places = {"--teacher": most_of_teacher, "--student": most_of_student}
    known = {option: most for option, most in places.items() if most is not None}
    for option, most in known.items():
        if wish.seq_len is not None and wish.seq_len > most:
            raise ValueError(
                f"--seq-len: {wish.seq_len} is more than the {most} places of {option}"
            )
    wish = replace(wish, seq_len=wish.seq_len or min([SEQ_LEN, *known.values()]))
    for load in ever_smaller(_workload(wish, student, teacher)):
        if (best := fastest(load, wish.gpu)) is not None:
            return best
    raise ValueError(_refusal(wish, student, teacher))


def _shape(name: str, option: str) -> tuple[ModelShape, int | None]:
    """Of a model, and its places for tokens where it says how many it has."""
    stated = entries(name, None, option)
    most: int | None = stated.get("max_position_embeddings")
    config = model_config(stated, option, name)
    if option == "--student":
        check_student(config, option)
    return model_shape(config), most


def _workload(wish: Wish, student: ModelShape, teacher: ModelShape) -> Workload:
    """With settings that `fastest` is to better."""
    assert wish.seq_len is not None
    batch = _batch_size(wish.tokens, wish.seq_len, wish.num_gpus)
    steps = max(1, -(-wish.tokens // (batch * wish.seq_len)))
    every = min(500, max(1, steps // 20))
    settings: dict[str, Any] = {
        "run_dir": wish.run_dir,
        "precision": "bf16",
        "total_steps": steps,
        "seq_len": wish.seq_len,
        "micro_batch_size": 1,
        "global_batch_size": batch,
        "teacher": {"model": wish.teacher, "tp_size": 1, "dtype": "bf16"},
        "student": {"init": {"source": "pretrained", "model": wish.student}},
        "loss": {"objective": "taid", "t": {"t_start": 0.4, "alpha_times_steps": 2.0}},
        "learning_rate": {
            "schedule": "cosine",
            "peak": 1e-4,
            "warmup_steps": min(500, steps // 20),
            "final": 1e-5,
        },
        "data": {"streams": [{"local": folder} for folder in wish.data], "num_workers": 4},
        "checkpoint": {"every_steps": every, "keep_last": 3},
    }
    if wish.held_out is not None:
        held_out = {"data": wish.held_out, "every_steps": every, "max_samples": 2048}
        settings["evaluation"] = held_out
    try:
        config = RunConfig.model_validate(settings)
    except ValidationError as error:  # of names that the user gave
        raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
    return Workload(config, student, teacher, wish.num_gpus, wish.gpus_per_node)


def _batch_size(tokens: int, seq_len: int, num_gpus: int) -> int:
    """Sequences of a step: a power of two for each rank, which all micro-batches divide."""
    sequences = min(STEP_TOKENS, tokens // LEAST_STEPS) // seq_len // num_gpus
    return num_gpus * (1 << max(0, sequences.bit_length() - 1))


def _refusal(wish: Wish, student: ModelShape, teacher: ModelShape) -> str:
    """Why it does not fit, and what would."""
    best = smallest(_workload(wish, student, teacher))
    need = least_need(best, wish.gpu, f", of which {HEADROOM:.0%} shall stay free")
    why = (
        f"{wish.teacher} ({teacher.num_parameters / 1e9:,.1f} B parameters) and {wish.student} "
        f"({student.num_parameters / 1e9:,.1f} B) do not fit on {wish.num_gpus:,} x "
        f"{wish.gpu.name}: {need}"
    )
    would = _remedies(wish, student, teacher)
    return f"{why}; it would fit with {' or '.join(would)}" if would else f"{why}; nothing would"


def _remedies(wish: Wish, student: ModelShape, teacher: ModelShape) -> list[str]:
    """The fewest more GPUs, larger ones, and shorter sequences, as far as each is enough."""

    def fits(**other: Any) -> bool:
        changed = replace(wish, **other)
        return leaves_room(smallest(_workload(changed, student, teacher)), changed.gpu)

    doubled = (wish.num_gpus * 2**power for power in range(1, 10))
    more = next((n for n in doubled if n <= MOST_GPUS and fits(num_gpus=n)), None)
    larger = [gpu for gpu in GPUS.values() if gpu.memory > wish.gpu.memory and fits(gpu=gpu)]
    assert wish.seq_len is not None
    shorter = next((n for n in (wish.seq_len // 2, wish.seq_len // 4) if fits(seq_len=n)), None)
    return [
        *([f"--gpus {more}"] if more else []),
        *(f"--gpu {gpu.name}" for gpu in larger),
        *([f"--seq-len {shorter}"] if shorter else []),
    ]
