"""A checkpoint of one layout continues in any other: weights, moments, step counts, decay."""

import argparse
import contextlib
import io
import itertools
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from deepspeed.checkpoint import ds_to_universal

from taidscale.config.schema import RunConfig
from taidscale.engine import student as student_module
from taidscale.engine.runtime import start_ranks
from taidscale.engine.saved_tensors import open_saved_tensors
from taidscale.engine.student import deepspeed_config
from taidscale.engine.universal import check_complete, write_universal
from taidscale.parallel.grid import AgreedError, Grid
from taidscale.parallel.layout import Layout
from tests.engine.any_layout import (
    SAVED,
    STATES,
    Training,
    check_continues,
    check_moves_on,
    save,
)
from tests.ranks import on_ranks, run_on_ranks
from tests.tiny_models import save_tiny_model

SOURCES = [
    Layout(4, 0, False, "fp32"),
    Layout(4, 1, False, "fp32"),
    Layout(4, 2, True, "fp32"),
    Layout(4, 3, False, "fp32"),
    Layout(4, 1, False, "bf16"),
    Layout(4, 2, False, "bf16"),
    Layout(4, 3, True, "bf16"),
]
TARGETS = [
    Layout(2, 0, False, "fp32"),
    Layout(2, 1, True, "fp32"),
    Layout(2, 2, False, "fp32"),
    Layout(2, 3, True, "fp32"),
    Layout(2, 1, False, "bf16"),
    Layout(2, 2, True, "bf16"),
    Layout(2, 3, False, "bf16"),
    Layout(3, 2, False, "fp32"),
    Layout(3, 3, False, "fp32"),
    Layout(1, 3, False, "bf16"),
    Layout(1, 2, False, "bf16"),
]


def folder_of(layout: Layout, folder: Path) -> Path:
    return folder / f"{layout.precision}-{layout.stage}-{layout.world_size}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No dimension of it is a multiple of 2, so that every layout pads; tied."""
    folder = tmp_path_factory.mktemp("student")
    save_tiny_model(folder, "qwen2", vocab_size=99, hidden_size=15, seed=1)
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """One of each source, and beside it what an undisturbed continuation comes to."""
    folder = tmp_path_factory.mktemp("checkpoints")
    run_on_ranks(4, __name__, "save_all", {"model": model, "folder": folder})
    return folder


def save_all(model: Path, folder: Path) -> None:
    for layout in SOURCES:
        save(layout, model, folder_of(layout, folder))


@pytest.mark.parametrize(
    ("world_size", "targets"),
    [(w, list(t)) for w, t in itertools.groupby(TARGETS, lambda layout: layout.world_size)],
)
def test_any_layout_continues(
    world_size: int, targets: list[Layout], model: Path, checkpoints: Path
) -> None:
    arguments = {"targets": targets, "model": model, "checkpoints": checkpoints}
    run_on_ranks(world_size, __name__, "load_all", arguments)


def load_all(targets: list[Layout], model: Path, checkpoints: Path) -> None:
    for target in targets:
        training = Training(target, model)
        for source in SOURCES:
            if source.precision == target.precision or source.stage == 2:
                training.steps(range(1))  # which loading must undo
                check_continues(training, source, folder_of(source, checkpoints))


@pytest.mark.parametrize("source", [s for s in SOURCES if s.stage > 0], ids=str)
def test_converts_as_deepspeed_does(source: Layout, checkpoints: Path, tmp_path: Path) -> None:
    arguments = {"source": source, "checkpoints": checkpoints, "out": tmp_path}
    run_on_ranks(2, __name__, "convert_twice", arguments)


def convert_twice(source: Layout, checkpoints: Path, out: Path) -> None:
    grid, folder = start_ranks(tp_size=1, seed=0), folder_of(source, checkpoints)
    state = torch.load(folder.with_suffix(".undisturbed"))["state"]
    shapes = {name: states["fp32"].shape for name, states in state.items()}
    opened = open_saved_tensors(folder, source, list(shapes))
    write_universal(opened, out / "ours", shapes, grid)
    dist.barrier()
    if not grid.is_first:
        return
    workers = {"num_extract_workers": 1, "num_merge_workers": 1, "keep_temp_folder": False}
    options = {"strict": True, "inject_missing_state": True, **workers}
    arguments = {"input_folder": str(folder), "output_folder": str(out / "theirs"), **options}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(argparse.Namespace(**arguments))
    for name in shapes:
        for key in STATES:
            files = [out / who / "zero" / name / f"{key}.pt" for who in ("ours", "theirs")]
            ours, theirs = (torch.load(file, weights_only=False) for file in files)
            theirs = theirs["param"] if isinstance(theirs, dict) else theirs
            assert torch.equal(ours["param"].flatten(), theirs.flatten()), f"{name} {key}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """Of 2 ranks."""
    folder = tmp_path_factory.mktemp("saved") / "step-00000003"
    run_on_ranks(2, __name__, "save", {"layout": SAVED_BY, "model": model, "folder": folder})
    return folder


SAVED_BY, OTHER = Layout(2, 3, False, "fp32"), Layout(2, 2, False, "fp32")


@on_ranks(2)
def test_groups_of_many_parts(model: Path, saved: Path) -> None:
    """ZeRO-3 cuts groups of billions of parameters further."""

    def cut(config: RunConfig, grid: Grid) -> dict[str, Any]:
        settings = deepspeed_config(config, grid)
        settings["zero_optimization"]["sub_group_size"] = 500
        return settings

    student_module.deepspeed_config = cut
    training = Training(replace(SAVED_BY, offload_optimizer=True), model)
    assert len(training.engine.optimizer.fp16_groups) > 4
    training.steps(range(1))
    check_continues(training, SAVED_BY, saved)
    check_moves_on(training, model, OTHER)


@on_ranks(4)
def test_a_rank_that_holds_nothing_but_padding(tmp_path: Path) -> None:
    if start_ranks(tp_size=1, seed=0).is_first:
        sizes = {"vocab_size": 99, "hidden_size": 4, "num_hidden_layers": 1}
        save_tiny_model(tmp_path / "model", "llama", **sizes)
    dist.barrier()
    for stage, precision in ((1, "fp32"), (2, "fp32"), (1, "bf16")):
        layout = Layout(4, stage, False, precision)
        folder = tmp_path / f"{stage}-{precision}"
        save(layout, tmp_path / "model", folder)
        training = Training(replace(layout, offload_optimizer=True), tmp_path / "model")
        norms = [p for p in training.engine.module.parameters() if p.ndim == 1]
        held = [p for p in norms if p._hp_mapping is not None]
        assert bool(held) == (training.grid.rank < 3)
        check_continues(training, layout, folder)
        check_moves_on(training, tmp_path / "model", layout)


@on_ranks(2)
def test_as_many_ranks_go_on_with_their_random_numbers(model: Path, saved: Path) -> None:
    training = Training(OTHER, model)
    training.student.load(saved, SAVED_BY, step=SAVED)
    file = saved / f"random_state_rank_{training.grid.rank:05d}.pt"
    wanted = torch.load(file, weights_only=False)
    assert random.getstate() == wanted["python"]
    assert np.array_equal(np.random.get_state()[1], wanted["numpy"][1])
    assert torch.equal(torch.get_rng_state(), wanted["torch"])


@on_ranks(3)
def test_other_ranks_begin_with_new_random_numbers(model: Path, saved: Path) -> None:
    training = Training(Layout(3, 3, False, "fp32"), model)
    draws = []
    for step in (SAVED, SAVED, SAVED + 1):
        training.student.load(saved, SAVED_BY, step=step)
        draws.append([random.random(), float(np.random.rand()), float(torch.rand(()))])
    assert draws[0] == draws[1]
    of_ranks = training.grid.gather(draws[0])
    for numbers in zip(*of_ranks, draws[2], strict=True):
        assert len(set(numbers)) == len(numbers)


@on_ranks(2)
def test_what_cannot_be_converted(model: Path, saved: Path, tmp_path: Path) -> None:
    training = Training(OTHER, model)
    student, folder = training.student, tmp_path / "step-00000003"
    if training.grid.is_first:
        shutil.copytree(saved, folder)
        (tmp_path / "universal-step-00000001.partial" / "zero").mkdir(parents=True)
    dist.barrier()

    def fails(message: str) -> None:
        with pytest.raises(AgreedError, match=message):
            student.load(folder, SAVED_BY, step=SAVED)
        training.grid.first_problem(None)
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
        dist.barrier()  # the next one makes a folder there

    name = "model.model.norm.weight"
    student._shapes[name], kept = torch.Size([10**15]), student._shapes[name]
    fails("written by 2 ranks, ZeRO-3, fp32, cannot be converted .* needs about .* are free in")
    student._shapes[name] = kept
    student._shapes[name], kept = torch.Size([16]), student._shapes[name]
    fails(r"model.model.norm.weight: 15 values of fp32 for a shape of torch.Size\(\[16\]\)")
    student._shapes[name] = kept
    shard = folder / "zero_pp_rank_1_mp_rank_00_optim_states.pt"
    if training.grid.is_first:
        shard.unlink()
    dist.barrier()
    fails("No such file .*/zero_pp_rank_1_mp_rank_00_optim_states.pt")


@on_ranks(1)
def test_parameters_that_are_not_trained_are_refused(model: Path) -> None:
    """DeepSpeed would leave them as they were built."""
    training = Training(Layout(1, 2, False, "fp32"), model)
    module, shapes = training.engine.module, training.student._shapes
    check_complete(module, shapes)
    with pytest.raises(ValueError, match=r"norm\.weight"):
        check_complete(module, {n: s for n, s in shapes.items() if n != "model.model.norm.weight"})
    module.register_buffer("seen", torch.zeros(1))
    with pytest.raises(ValueError, match="seen"):
        check_complete(module, shapes)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_clips_as_configured_now(stage: int, model: Path, tmp_path: Path) -> None:
    arguments = {"stage": stage, "model": model, "folder": tmp_path}
    run_on_ranks(1, __name__, "clip_otherwise", arguments)


def clip_otherwise(stage: int, model: Path, folder: Path) -> None:
    layout = Layout(1, stage, False, "fp32")
    training = Training(layout, model)
    training.steps(range(1))
    training.student.save(folder, torch.save)
    for written in (layout, replace(layout, offload_optimizer=True)):
        training = Training(layout, model, optimizer={"gradient_clipping": 1e-3})
        training.student.load(folder, written, step=1)
        before = training.whole_state()
        training.steps(range(1, 2))
        after = training.whole_state()
        gradient = [(after[n]["exp_avg"] - 0.9 * before[n]["exp_avg"]) / 0.1 for n in after]
        assert float(torch.nn.utils.get_total_norm(gradient)) == pytest.approx(1e-3, rel=0.01)
