"""Every objective's section, and the schedules of t and of the weight of cross entropy."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from taidscale.config.load import dump_config, load_config
from taidscale.config.loss import LossConfig
from taidscale.config.schedules import AdaptiveT, ConstantT, ConstantWeight, RampWeight
from taidscale.config.schema import RunConfig
from tests.config.base_run import only_error

OBJECTIVES: dict[str, dict[str, Any]] = {
    "taid": {"t": AdaptiveT(schedule="adaptive")},
    "forward_kl": {},
    "reverse_kl": {},
    "jensen_shannon": {"beta": 0.5},
    "skew_forward_kl": {"skew": 0.1},
    "skew_reverse_kl": {"skew": 0.1},
    "total_variation": {},
    "adaptive_kl": {"head_mass": 0.5},
    "decoupled_kl": {"target_weight": 1.0, "non_target_weight": 0.5},
    "alpha_beta": {"alpha": 0.2, "beta": 0.7},
    "alpha_mixture": {
        "alpha": 0.5,
        "compare": "mixture_to_student",
        "t": AdaptiveT(schedule="adaptive"),
    },
}
"""Those with a teacher, and the defaults that they do not share."""

NO_WEIGHT = ConstantWeight(schedule="constant", value=0.0)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_objective_needs_its_name_and_a_teacher(
    base: Path, tmp_path: Path, objective: str
) -> None:
    config = load_config(base, [f"loss={{objective: {objective}}}"])
    shared = {"objective": objective, "temperature": 1.0, "cross_entropy_weight": NO_WEIGHT}
    found = dict(config.loss)
    assert found.items() >= {**shared, **OBJECTIVES[objective]}.items()
    own = found.keys() - shared.keys() - {"logits_mib", "chunk_tokens", "kernels"}
    assert own == OBJECTIVES[objective].keys()
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dump_config(config))
    assert load_config(copy) == config
    line = only_error(base, "teacher=null", f"loss={{objective: {objective}}}")
    assert line == f"loss.objective {objective} needs a teacher section"


def test_every_objective_is_tested_here() -> None:
    union, *_ = get_args(LossConfig)
    names = {get_args(x.model_fields["objective"].annotation)[0] for x in get_args(union)}
    assert names == {*OBJECTIVES, "cross_entropy"}


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", NO_WEIGHT),
        ("0.25", ConstantWeight(schedule="constant", value=0.25)),
        ("{schedule: constant, value: 0.25}", ConstantWeight(schedule="constant", value=0.25)),
        ("{schedule: linear, start: 0, end: 1}", RampWeight(schedule="linear", start=0, end=1)),
        (
            "{schedule: cosine, start: 1, end: 0.1}",
            RampWeight(schedule="cosine", start=1, end=0.1),
        ),
    ],
)
def test_weight_of_cross_entropy(base: Path, written: str, meant: Any) -> None:
    for objective in OBJECTIVES:
        settings = f"{{objective: {objective}, cross_entropy_weight: {written}}}"
        assert dict(load_config(base, [f"loss={settings}"]).loss)["cross_entropy_weight"] == meant


@pytest.mark.parametrize("weight", ["1", "1.0", "1.5", "-0.1", ".nan", ".inf"])
def test_weight_that_leaves_no_distillation(base: Path, weight: str) -> None:
    line = only_error(base, f"loss.cross_entropy_weight={weight}")
    assert line.startswith("loss.cross_entropy_weight: must be at least 0 and below 1 (got ")
    assert weight.strip(".") in line.split("(got ")[1]
    if weight in {"1", "1.0"}:
        assert line.endswith("cross entropy alone is objective: cross_entropy")


@pytest.mark.parametrize("weight", ["true", "null", "some", "'0.3'", "[1]"])
def test_weight_that_is_no_number(base: Path, weight: str) -> None:
    line = only_error(base, f"loss.cross_entropy_weight={weight}")
    assert line.startswith("loss.cross_entropy_weight: must be a number, or a schedule such as {")
    assert line.endswith(f"(got {yaml.safe_load(weight)!r})")


@pytest.mark.parametrize(
    ("settings", "path", "value"),
    [
        ("objective: jensen_shannon, beta: 1.5", "beta", "1.5"),
        ("objective: jensen_shannon, beta: -0.1", "beta", "-0.1"),
        ("objective: jensen_shannon, beta: half", "beta", "'half'"),
        ("objective: skew_forward_kl, skew: 0", "skew", "0"),
        ("objective: skew_forward_kl, skew: 1", "skew", "1"),
        ("objective: skew_reverse_kl, skew: 0.0", "skew", "0.0"),
        ("objective: skew_reverse_kl, skew: 1.0", "skew", "1.0"),
        ("objective: adaptive_kl, head_mass: 0", "head_mass", "0"),
        ("objective: adaptive_kl, head_mass: 1", "head_mass", "1"),
        ("objective: decoupled_kl, target_weight: -1", "target_weight", "-1"),
        ("objective: decoupled_kl, non_target_weight: -2", "non_target_weight", "-2"),
        ("objective: alpha_beta, alpha: 0", "alpha", "0"),
        ("objective: alpha_beta, beta: 0", "beta", "0"),
        ("objective: alpha_mixture, alpha: 9.5", "alpha", "9.5"),
        ("objective: alpha_mixture, alpha: -9.5", "alpha", "-9.5"),
        ("objective: alpha_mixture, compare: both", "compare", "'both'"),
        ("objective: reverse_kl, temperature: 0", "temperature", "0"),
        ("objective: reverse_kl, temperature: .inf", "temperature", "inf"),
        (
            "objective: reverse_kl, cross_entropy_weight: {schedule: constant, value: 1.0}",
            "cross_entropy_weight.value",
            "1.0",
        ),
        (
            "objective: reverse_kl, cross_entropy_weight: {schedule: linear, start: 2, end: 0}",
            "cross_entropy_weight.start",
            "2",
        ),
        (
            "objective: reverse_kl, cross_entropy_weight: {schedule: cosine, start: 0, end: -1}",
            "cross_entropy_weight.end",
            "-1",
        ),
    ],
)
def test_setting_of_an_objective_out_of_range(
    base: Path, settings: str, path: str, value: str
) -> None:
    line = only_error(base, f"loss={{{settings}}}")
    assert line.startswith(f"loss.{path}: ")
    assert line.endswith(f"(got {value})")


@pytest.mark.parametrize(
    ("objective", "name"),
    [
        ("skew_forward_kl", "beta"),
        ("jensen_shannon", "skew"),
        ("decoupled_kl", "alpha"),
        ("alpha_beta", "compare"),
        ("forward_kl", "t"),
        ("adaptive_kl", "t"),
        ("cross_entropy", "temperature"),
        ("cross_entropy", "cross_entropy_weight"),
    ],
)
def test_setting_of_another_objective(base: Path, objective: str, name: str) -> None:
    line = only_error(base, f"loss={{objective: {objective}, {name}: 0.5}}")
    assert line == f"loss.{name}: unknown setting of {objective}"


def test_mixture_that_is_learnt_through_needs_a_t_below_1_that_follows_no_signal(
    base: Path,
) -> None:
    learnt = "loss={{objective: alpha_mixture, compare: teacher_to_mixture{}}}"
    for adaptive in ("", ", t: {t_start: 0.1}", ", t: {schedule: adaptive, t_end: 0.5}"):
        line = only_error(base, learnt.format(adaptive))
        assert line.startswith("loss: compare teacher_to_mixture has no signal")
        assert "set t to a number, such as 0.1" in line
    for t in ("1", "{schedule: constant, value: 1.0}", "{schedule: linear, t_start: 1}"):
        line = only_error(base, learnt.format(f", t: {t}"))
        assert line.startswith("loss: compare teacher_to_mixture learns nothing at t = 1")
    for t in ("0.1", "{schedule: constant, value: 0.1}", "{schedule: linear, t_end: 0.9}"):
        config = load_config(base, [learnt.format(f", t: {t}")])
        assert dict(config.loss)["compare"] == "teacher_to_mixture"


def test_decoupled_kl_must_weigh_something(base: Path) -> None:
    settings = "objective: decoupled_kl, target_weight: {}, non_target_weight: {}"
    line = only_error(base, f"loss={{{settings.format(0, 0.0)}}}")
    assert line.startswith("loss: target_weight and non_target_weight are both 0")
    for weights in ((0, 1), (1, 0)):
        load_config(base, [f"loss={{{settings.format(*weights)}}}"])


@pytest.mark.parametrize("objective", ["taid", "alpha_mixture"])
def test_number_is_a_constant_t(base: Path, objective: str) -> None:
    for t in (0, 0.25, 1):
        config = load_config(base, [f"loss={{objective: {objective}, t: {t}}}"])
        assert dict(config.loss)["t"] == ConstantT(schedule="constant", value=t)
    for t in ("1.5", "-1", ".nan"):
        line = only_error(base, f"loss={{objective: {objective}, t: {t}}}")
        assert line == f"loss.t: must be from 0 to 1 (got {t.strip('.')})"


@pytest.mark.parametrize(
    ("t", "shown"),
    [
        ("true", "True"),
        ("null", "None"),
        ("'0.5'", "'0.5'"),
        ("[0.5]", "[0.5]"),
    ],
)
def test_t_that_is_no_number(base: Path, t: str, shown: str) -> None:
    line = only_error(base, f"loss={{objective: taid, t: {t}}}")
    assert line.startswith("loss.t: ")
    assert line.endswith(f"(got {shown})")


def test_choices_can_be_written_without_quotes() -> None:
    """YAML reads a bare `off` as false."""
    choices = choices_of(RunConfig, set())
    assert choices > {*OBJECTIVES}
    for choice in sorted(choices):
        assert yaml.safe_load(choice) == choice, choice


def choices_of(model: Any, seen: set[Any]) -> set[str]:
    """Every word that some setting of a section, or of a section within, may have."""
    if get_origin(model) is Literal:
        return {choice for choice in get_args(model) if isinstance(choice, str)}
    inner = get_args(model)
    if isinstance(model, type) and issubclass(model, BaseModel) and model not in seen:
        seen.add(model)
        inner = [field.annotation for field in model.model_fields.values()]
    return {choice for part in inner for choice in choices_of(part, seen)}
