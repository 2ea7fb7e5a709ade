"""Do some real training steps leave all ranks alike, and does the run continue to the bit?

The models are small ones of the run's families, with random weights; all else is the run's: ranks,
tp_size, ZeRO stage, precision, objective and schedules.
"""

import hashlib
import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from taidscale.config.schema import ConstantRate, FreshInit, RunConfig
from taidscale.data.batches import MicroBatch
from taidscale.engine.student import Student
from taidscale.losses.vocabulary import Vocabulary
from taidscale.metrics.clock import StepClock
from taidscale.models.config_file import default_entries
from taidscale.models.families import read_model_config
from taidscale.parallel.grid import Grid
from taidscale.schedules.interpolation import t_schedule
from taidscale.schedules.progress import Progress
from taidscale.step import train_step
from taidscale.teachers.open import open_teacher
from taidscale.verification.finding import Finding

STEPS = 4
"""Of the undisturbed run; the other is saved and loaded in the middle."""
VOCABULARY, SEQ_LEN = 509, 32
ACCUMULATION = 2


def check_small_run(
    config: RunConfig, teacher: PretrainedConfig | None, student: PretrainedConfig, grid: Grid
) -> list[Finding]:
    """Train, save, load and compare. All ranks call it.

    Args:
        config: of the run.
        teacher: its architecture, of which the family counts; None without a teacher.
        student: likewise.
        grid: all ranks.

    Cost: 3·STEPS/2 training steps of small models; a megabyte or so per rank in the run's folder.
    """
    folder = config.run_dir / ".verification"
    if grid.is_first:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _save_model(folder / "student", student, grid, seed=1)
        if teacher is not None:
            _save_model(folder / "teacher", teacher, grid, seed=2)
    dist.barrier()
    try:
        small = _SmallRun(_shrunk(config, folder, grid), folder, grid)
        undisturbed = small.train(small.student(), 0, STEPS, save_after=STEPS // 2)
        resumed = small.resume()
        return [_alike(undisturbed, grid), _exact(undisturbed, resumed, grid)]
    finally:
        dist.barrier()
        if grid.is_first:
            shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class _Trained:
    """What a rank knows after some steps."""

    losses: dict[int, float]
    """By step."""
    shared: dict[str, Any]
    """What all ranks must have alike."""
    shares: dict[str, int]
    """Hashes of what ranks with the same place in their tp_group have alike."""
    state: dict[str, str]
    """Hashes of what this rank would save."""


class _SmallRun:
    """The small models on this rank."""

    def __init__(self, config: RunConfig, folder: Path, grid: Grid) -> None:
        self._config, self._folder, self._grid = config, folder, grid
        self._clock = StepClock(grid.device)
        self._vocabulary = Vocabulary.split(VOCABULARY, grid.tp_rank, grid.tp_size)
        architecture = None
        if config.teacher is not None:
            architecture = read_model_config(folder / "teacher", "teacher.model")
        self._teacher = open_teacher(
            config, architecture, folder / "teacher", self._vocabulary, grid
        )

    def student(self) -> Student:
        """With its first weights."""
        return Student(self._config, self._vocabulary, self._grid, self._clock)

    def train(
        self, student: Student, first: int, last: int, save_after: int | None = None
    ) -> _Trained:
        """Steps from `first` on, until `last` are done."""
        schedule = t_schedule(self._config.loss)
        progress = Progress.at_start(schedule) if first == 0 else self._saved_progress()
        losses = {}
        while progress.step < last:
            batches = [batch.to(self._grid.device) for batch in self._batches(progress.step)]
            metrics, num_learnt = train_step(
                self._config, progress, batches, self._teacher, student, self._grid, self._clock
            )
            progress = progress.advance(schedule, metrics, num_learnt, self._config.total_steps)
            losses[progress.step] = metrics["loss"]
            if progress.step == save_after:
                self._save(student, progress)
        shared = {"t": progress.t, **progress.metrics(), "learning rate": metrics["learning_rate"]}
        shared |= {f"parameter {name}": found for name, found in student.weight_hashes().items()}
        shares = self._teacher.weight_hashes() if self._teacher else {}
        return _Trained(losses, shared, shares, _state_of(student, self._folder / "unwritten"))

    def resume(self) -> _Trained:
        """A student made anew, which continues from what `train` saved."""
        student = self.student()
        student.load(self._checkpoint, student.layout, STEPS // 2)
        return self.train(student, STEPS // 2, STEPS)

    @property
    def _checkpoint(self) -> Path:
        return self._folder / f"step-{STEPS // 2:08d}"

    def _save(self, student: Student, progress: Progress) -> None:
        self._checkpoint.mkdir(exist_ok=True)
        dist.barrier()
        student.save(self._checkpoint, torch.save)
        if self._grid.is_first:
            text = json.dumps(progress.to_json())
            (self._checkpoint / "progress.json").write_text(text, encoding="utf-8")
        dist.barrier()

    def _saved_progress(self) -> Progress:
        text = (self._checkpoint / "progress.json").read_text(encoding="utf-8")
        return Progress.from_json(json.loads(text))

    def _batches(self, step: int) -> Iterator[MicroBatch]:
        """This rank's micro-batches of a step, the same however it came to it."""
        for number in range(ACCUMULATION):
            seed = (step * ACCUMULATION + number) * self._grid.world_size + self._grid.rank
            generator = torch.Generator().manual_seed(seed)
            shape = (self._config.micro_batch_size, SEQ_LEN + 1)
            ids = torch.randint(VOCABULARY, shape, generator=generator)
            labels = ids[:, 1:].clone()
            labels[:, : seed % 5] = -100  # as many tokens count on no two ranks
            yield MicroBatch(ids[:, :-1].contiguous(), labels)


def _save_model(folder: Path, like: PretrainedConfig, grid: Grid, *, seed: int) -> None:
    """Random weights of a small model of the same family."""
    heads = max(4, grid.tp_size)
    sizes = {
        "vocab_size": VOCABULARY + 3,
        "hidden_size": 8 * heads,
        "intermediate_size": 16 * heads,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": SEQ_LEN,
        "tie_word_embeddings": like.tie_word_embeddings,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "pad_token_id": None,
        **dict.fromkeys(("head_dim", "qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim"), 8),
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
        **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 8 * heads),
        **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
        **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace"), 1),
        "num_experts_per_tok": 2,
    }
    known = default_entries(like.model_type)
    config = AutoConfig.for_model(
        like.model_type, **{name: size for name, size in sizes.items() if name in known}
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def _shrunk(config: RunConfig, folder: Path, grid: Grid) -> RunConfig:
    """The run's settings with the small models, and steps that move them."""
    init = FreshInit(source="fresh", config=str(folder / "student"), overrides={})
    teacher = config.teacher
    return config.model_copy(
        update={
            "run_dir": folder,
            "seq_len": SEQ_LEN,
            "micro_batch_size": 1,
            "global_batch_size": grid.world_size * ACCUMULATION,
            "student": config.student.model_copy(update={"init": init}),
            "teacher": teacher and teacher.model_copy(update={"model": str(folder / "teacher")}),
            "learning_rate": ConstantRate(schedule="constant", peak=1e-3),
        }
    )


def _state_of(student: Student, folder: Path) -> dict[str, str]:
    """SHA-256 of each file that the student would save: weights, moments, random state."""
    hashes: dict[str, str] = {}

    def put(state: Any, path: Path) -> None:
        digest = hashlib.sha256()
        _feed(state, digest.update)
        hashes[path.name] = digest.hexdigest()

    student.save(folder, put)
    return hashes


def _feed(state: Any, take: Callable[[bytes], object]) -> None:
    """All tensors and numbers of it, in order; not names of files and the like."""
    match state:
        case torch.Tensor():
            take(str((state.dtype, tuple(state.shape))).encode())
            take(state.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        case dict():
            for key in state:
                take(str(key).encode())
                _feed(state[key], take)
        case list() | tuple():
            for entry in state:
                _feed(entry, take)
        case bool() | int() | float():
            take(repr(state).encode())


def _alike(trained: _Trained, grid: Grid) -> Finding:
    """Whether all ranks have the same t, schedule and parameters."""
    everywhere = grid.gather((socket.gethostname(), grid.tp_rank, trained))
    hosts = [host for host, _, _ in everywhere]
    culprits = []
    for name in trained.shared:
        values = [found.shared.get(name) for _, _, found in everywhere]
        culprits += _odd_ones(name, values, hosts)
    for place in range(grid.tp_size):
        holders = [rank for rank, (_, own, _) in enumerate(everywhere) if own == place]
        for name in everywhere[holders[0]][2].shares:
            values = [everywhere[rank][2].shares.get(name) for rank in holders]
            culprits += _odd_ones(f"teacher's {name}", values, [hosts[r] for r in holders], holders)
    culprit = None
    if culprits:
        more = f", and {len(culprits) - 1} more" if culprits[1:] else ""
        culprit = (
            f"{culprits[0]}{more}: what moves it must see the mean over all ranks, not its own"
        )
    check = f"t, schedules and parameters alike on all ranks, {STEPS} steps"
    return Finding(check, f"{len(culprits)} differ", "0 differ", culprit)


def _odd_ones(
    name: str, values: list[Any], hosts: list[str], ranks: list[int] | None = None
) -> list[str]:
    """What differs, if anything: which ranks have another value than most."""
    counted = Counter(map(repr, values)).most_common()
    if len(counted) == 1:
        return []
    ranks = ranks or list(range(len(values)))
    usual = counted[0][0]
    odd = next(place for place, value in enumerate(values) if repr(value) != usual)
    is_hash = isinstance(values[odd], int) and abs(values[odd]) > 2**40
    shown = "another" if is_hash else f"{values[odd]!r} instead of {usual}"
    return [f"{name} differs between ranks: rank {ranks[odd]} ({hosts[odd]}) has {shown}"]


def _exact(undisturbed: _Trained, resumed: _Trained, grid: Grid) -> Finding:
    """Whether the run that was saved and loaded ended as the other."""
    own = []
    for step, loss in resumed.losses.items():
        if loss != undisturbed.losses[step]:
            own.append(f"the loss of step {step} is {loss!r} and was {undisturbed.losses[step]!r}")
    for name, value in resumed.shared.items():
        if name != "momentum" and value != undisturbed.shared[name] and "parameter" not in name:
            own.append(f"{name} is {value!r} and was {undisturbed.shared[name]!r}")
    for name, digest in resumed.state.items():
        if digest != undisturbed.state.get(name):
            own.append(f"{name} (weights, moments or random numbers) is another")
    found = [
        f"{problem} on rank {rank}"
        for rank, problems in enumerate(grid.gather(own))
        for problem in problems
    ]
    half = STEPS // 2
    culprit = f"after a save and a load {found[0]}" if found else None
    if found[1:]:
        culprit = f"{culprit}, and {len(found) - 1} more"
    check = f"{STEPS} steps equal {half}, save, load and {STEPS - half}, bit for bit"
    return Finding(check, f"{len(found)} differ", "0 differ", culprit)
