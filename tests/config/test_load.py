"""Settings from YAML and overrides: every wrong one is named, and right ones arrive typed."""

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from taidscale.config.load import (
    ConfigError,
    check_world,
    dump_config,
    flat_settings,
    load_config,
)
from taidscale.config.loss import (
    AdaptiveT,
    ConstantT,
    ConstantWeight,
    LossConfig,
    RampT,
    RampWeight,
    TaidLoss,
)
from taidscale.config.schema import FreshInit, RunConfig, WarmupStableDecay

BASE = """
run_dir: runs/tiny
total_steps: 100
seq_len: 64
micro_batch_size: 2
global_batch_size: 16
teacher: {model: org/teacher, tp_size: 2}
student:
  init: {source: pretrained, model: org/student}
loss:
  objective: taid
  t: {schedule: adaptive, alpha: 0.001}
learning_rate: {schedule: cosine, peak: 3e-4, warmup_steps: 10}
data:
  streams:
    - {local: shards/a, proportion: 2}
    - {local: shards/b, proportion: 1}
evaluation: {data: shards/valid, every_steps: 50}
checkpoint: {every_steps: 50}
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(BASE)
    return path


def errors(path: Path, *overrides: str) -> list[str]:
    """The lines of the error that loading must raise, the headline apart."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, list(overrides))
    headline, *lines = str(caught.value).splitlines()
    assert headline.startswith(f"{path}: ")
    return [line.strip() for line in lines]


def only_error(path: Path, *overrides: str) -> str:
    (line,) = errors(path, *overrides)
    return line


def taid_t(config: RunConfig) -> Any:
    assert isinstance(config.loss, TaidLoss)
    return config.loss.t


def test_the_base_is_right(base: Path) -> None:
    config = load_config(base)
    assert config.run_dir == Path("runs/tiny")
    assert config.learning_rate.peak == 3e-4  # YAML 1.1 reads `3e-4` as text
    assert taid_t(config) == AdaptiveT(schedule="adaptive", alpha=1e-3)


@pytest.mark.parametrize(
    ("override", "path", "meant"),
    [
        ("micro_batchsize=3", "micro_batchsize", "micro_batch_size"),
        ("teacher.tpsize=2", "teacher.tpsize", "tp_size"),
        ("student.gradient_checkpoint=true", "student.gradient_checkpoint", None),
        ("student.init.modle=x", "student.init.modle", "model"),
        ("loss.temprature=2", "loss.temprature", "temperature"),
        ("loss.t.alfa=1", "loss.t.alfa", "alpha"),
        ("learning_rate.warm_up_steps=1", "learning_rate.warm_up_steps", "warmup_steps"),
        ("data.streams.1.propotion=1", "data.streams.1.propotion", "proportion"),
        ("zzz=1", "zzz", None),
    ],
)
def test_misspelt(base: Path, override: str, path: str, meant: str | None) -> None:
    line = only_error(base, override)
    assert line.startswith(f"{path}: unknown setting")
    if meant:
        assert line.endswith(f"did you mean {meant!r}?")


def test_no_suggestion_from_another_variant(base: Path) -> None:
    """`value` exists for a constant t, not for the adaptive one."""
    assert "did you mean" not in only_error(base, "loss.t.valu=1")


@pytest.mark.parametrize(
    ("override", "path", "tag", "tags"),
    [
        ("loss.objective=tiad", "loss", "tiad", ["taid", "forward_kl", "cross_entropy"]),
        (
            "loss.t={schedule: linar}",
            "loss.t",
            "linar",
            ["adaptive", "linear", "cosine", "exponential", "constant"],
        ),
        (
            "student.init.source=hub",
            "student.init",
            "hub",
            ["pretrained", "fresh", "teacher_layers"],
        ),
        (
            "learning_rate.schedule=step",
            "learning_rate",
            "step",
            ["constant", "linear", "cosine", "wsd"],
        ),
    ],
)
def test_wrong_tag(base: Path, override: str, path: str, tag: str, tags: list[str]) -> None:
    line = only_error(base, override)
    assert line.startswith(path)
    for name in [tag, *tags]:
        assert f"'{name}'" in line


def test_tag_left_out(base: Path) -> None:
    line = only_error(base, "student.init={model: org/student}")
    assert line == "student.init.source: is missing (got {'model': 'org/student'})"


def test_missing(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("student: {init: {source: fresh}}\nloss: {objective: forward_kl}\n")
    assert set(errors(path)) == {
        f"{name}: is missing"
        for name in (
            "run_dir",
            "total_steps",
            "seq_len",
            "micro_batch_size",
            "global_batch_size",
            "student.init.config",
            "learning_rate",
            "data",
            "checkpoint",
        )
    }


OUT_OF_RANGE = {
    "total_steps": "0",
    "seq_len": "1",
    "micro_batch_size": "-2",
    "precision": "fp16",
    "seed": "-1",
    "teacher.tp_size": "0",
    "teacher.dtype": "int8",
    "teacher.attention": "fast",
    "loss.chunk_tokens": "0",
    "loss.temperature": "0.0",
    "loss.cross_entropy_weight": "1.0",
    "loss.t.t_start": "1.5",
    "loss.t.beta": "1.0",
    "optimizer.beta2": "1.25",
    "optimizer.weight_decay": "-0.5",
    "optimizer.gradient_clipping": ".inf",
    "learning_rate.peak": "0.0",
    "learning_rate.final": "-1.0",
    "zero.stage": "4",
    "data.streams.1.proportion": "0",
    "data.num_workers": "-3",
    "evaluation.every_steps": "2.5",
    "checkpoint.keep_last": "0",
    "wandb.mode": "loud",
}


def test_out_of_range_all_at_once(base: Path) -> None:
    lines = errors(base, *(f"{path}={value}" for path, value in OUT_OF_RANGE.items()))
    assert len(lines) == len(OUT_OF_RANGE)
    for path, value in OUT_OF_RANGE.items():
        (line,) = (line for line in lines if line.startswith(f"{path}: "))
        assert value.strip(".") in line.split("(got ")[1]


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("total_steps=many", "total_steps", "'many'"),
        ("total_steps=null", "total_steps", "None"),
        ("teacher=big", "teacher", "'big'"),
        ("data.streams=[]", "data.streams", "[]"),
        ("loss=taid", "loss", "'taid'"),
        ("student.init.model=3", "student.init.model", "3"),
    ],
)
def test_wrong_type(base: Path, override: str, path: str, value: str) -> None:
    line = only_error(base, override)
    assert line.startswith(f"{path}: ")
    assert line.endswith(f"(got {value})")


def test_layers_are_named_by_index(base: Path) -> None:
    override = "student.init={source: teacher_layers, layers: [0, -1, 2]}"
    assert only_error(base, override).startswith("student.init.layers.1: ")
    assert only_error(base, override).endswith("(got -1)")


def test_settings_that_disagree_within_a_section(base: Path) -> None:
    assert only_error(base, "loss.t.alpha_times_steps=2").startswith(
        "loss.t: set alpha or alpha_times_steps, not both"
    )
    for schedule in ("adaptive", "linear", "cosine", "exponential"):
        override = f"loss.t={{schedule: {schedule}, t_start: 0.75, t_end: 0.5}}"
        assert only_error(base, override) == "loss.t: t_start (0.75) must not exceed t_end (0.5)"
    assert only_error(base, "data.streams.0.proportion=null").startswith(
        "data: set proportion on all streams or on none"
    )
    line = only_error(base, "zero={stage: 0, offload_optimizer: true}")
    assert line.startswith("zero: offload_optimizer needs stage 1, 2 or 3")


def test_teacher_is_not_needed_for_cross_entropy(base: Path) -> None:
    config = load_config(base, ["teacher=null", "loss={objective: cross_entropy}"])
    assert config.teacher is None


def test_sections_that_disagree_all_at_once(base: Path) -> None:
    lines = errors(
        base,
        "teacher=null",
        "student.init={source: teacher_layers, layers: [0]}",
        "learning_rate={schedule: wsd, peak: 1, warmup_steps: 101, decay_steps: 5}",
    )
    assert lines == [
        "loss.objective taid needs a teacher section",
        "student.init.source teacher_layers needs a teacher section",
        "learning_rate.warmup_steps (101) exceeds total_steps (100)",
        "learning_rate.warmup_steps (101) and decay_steps (5) together exceed total_steps (100)",
    ]


def test_wsd_phases(base: Path) -> None:
    phases = "learning_rate={{schedule: wsd, peak: 1, warmup_steps: 60, decay_steps: {}}}"
    assert only_error(base, phases.format(41)) == (
        "learning_rate.warmup_steps (60) and decay_steps (41) together exceed total_steps (100)"
    )
    rate = load_config(base, [phases.format(40)]).learning_rate
    assert isinstance(rate, WarmupStableDecay)
    assert rate.decay_steps == 40


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


def test_setting_written_twice(base: Path) -> None:
    base.write_text(BASE + "optimizer:\n  beta1: 0.8\n  beta1: 0.9\n")
    (first, *_) = errors(base)
    assert first.startswith("is not valid YAML: setting 'beta1' is written twice")


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    assert only_error(tmp_path / "absent.yaml") == "cannot be read: No such file or directory"
    assert only_error(tmp_path) == "cannot be read: Is a directory"
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("a: [")
    assert errors(wrong)[0].startswith("is not valid YAML: ")
    wrong.write_bytes(b"a: \xff")
    assert errors(wrong)[0].startswith("is not valid YAML: ")
    for text in ("", "- 1", "word"):
        wrong.write_text(text)
        assert only_error(wrong).startswith("must hold settings")


def test_wrong_overrides_all_at_once(base: Path) -> None:
    wrong = {
        "total_steps": "must look like section.setting=value",
        "=3": "must look like section.setting=value",
        "loss..t=1": "must look like section.setting=value",
        "total_steps.x=1": "'total_steps' is a value, not a section",
        "data.streams.0.local.x=1": "'local' is a value, not a section",
        "data.streams.first=x": "there is no item 'first' in a list of 2",
        "data.streams.2=x": "there is no item '2' in a list of 2",
        "data.streams.2.local=x": "'2'",
        "seed=[": "the value is not valid YAML",
    }
    lines = errors(base, *wrong)
    assert len(lines) == len(wrong)
    for line, (override, message) in zip(lines, wrong.items(), strict=True):
        assert line.startswith(f"override {override!r}")
        assert message in line.removeprefix(f"override {override!r}")


def test_overrides_win_and_are_typed(base: Path) -> None:
    config = load_config(
        base,
        [
            "total_steps=200",
            "total_steps=300",  # the last one counts
            "learning_rate.peak=1e-3",
            "teacher.revision=v1.0",
            "wandb.name=a=b",
            "evaluation=null",
            "data.streams.0.local=elsewhere",
            "data.shuffle=false",
            "zero.stage=2",  # a section that the file lacks
        ],
    )
    assert config.total_steps == 300
    assert type(config.learning_rate.peak) is float
    assert config.learning_rate.peak == 1e-3
    assert config.learning_rate.warmup_steps == 10  # its neighbours stay
    assert config.teacher is not None
    assert config.teacher.revision == "v1.0"
    assert config.wandb.name == "a=b"
    assert config.evaluation is None
    assert [stream.local for stream in config.data.streams] == ["elsewhere", "shards/b"]
    assert config.data.streams[0].proportion == 2
    assert config.data.shuffle is False
    assert config.zero.stage == 2


def test_overrides_of_a_section_with_variants(base: Path) -> None:
    assert taid_t(load_config(base, ["loss.t.t_start=0.2"])).t_start == 0.2
    whole = load_config(base, ["loss.t={schedule: linear, t_start: 0.1}"])
    assert taid_t(whole) == RampT(schedule="linear", t_start=0.1)
    in_parts = load_config(base, ["loss.t=null", "loss.t.schedule=constant", "loss.t.value=0.5"])
    assert taid_t(in_parts) == ConstantT(schedule="constant", value=0.5)
    # alpha is in the file, and not a setting of the linear schedule
    line = only_error(base, "loss.t.schedule=linear")
    assert line.startswith("loss.t.alpha: unknown setting")


def test_overrides_of_a_fresh_students_config_are_typed(base: Path) -> None:
    entries = "{rms_norm_eps: 1e-6, num_hidden_layers: 4, tie_word_embeddings: true, act: null}"
    config = load_config(
        base, [f"student.init={{source: fresh, config: org/small, overrides: {entries}}}"]
    )
    assert isinstance(config.student.init, FreshInit)
    found = config.student.init.overrides
    assert found == {
        "rms_norm_eps": 1e-6,
        "num_hidden_layers": 4,
        "tie_word_embeddings": True,
        "act": None,
    }
    assert type(found["num_hidden_layers"]) is int
    assert found["tie_word_embeddings"] is True


def test_bf16_needs_fp32_masters(base: Path) -> None:
    (line,) = errors(base, "precision=bf16", "zero.stage=0")
    assert "precision bf16 needs zero.stage 1, 2 or 3" in line


ROUND_TRIPS = [
    [],
    ["loss.t={schedule: linear}", "learning_rate={schedule: constant, peak: 1}"],
    ["loss.t={schedule: exponential, rate: 0.1}", "optimizer.eps=1.0e-300"],
    ["loss.t={schedule: constant, value: 0.3}", "wandb.name='null'", "wandb.project=プロジェクト"],
    [
        "loss={objective: forward_kl, temperature: 2, cross_entropy_weight: 0.1}",
        "learning_rate={schedule: wsd, peak: 0.1, decay_steps: 20, final: 1.0e-5}",
        "student.init={source: teacher_layers, layers: [0, 5, 3]}",
    ],
    [
        "loss={objective: cross_entropy}",
        "teacher=null",
        "evaluation=null",
        "student.init={source: fresh, config: a/b}",
        "student.init.overrides={e: 1.0e-6, b: true, s: '1', l: [x], n: null}",
    ],
]


@pytest.mark.parametrize("overrides", ROUND_TRIPS)
def test_dump_loads_again(base: Path, tmp_path: Path, overrides: list[str]) -> None:
    config = load_config(base, overrides)
    dumped = dump_config(config)
    assert "weight_decay: 0.1" in dumped  # defaults included
    copy = tmp_path / "resolved.yaml"
    copy.write_text(dumped, encoding="utf-8")
    again = load_config(copy)
    assert again == config
    assert dump_config(again) == dumped


def test_flat_settings(base: Path) -> None:
    flat = flat_settings(load_config(base))
    assert flat["loss.t.alpha"] == 1e-3
    assert flat["zero.stage"] == 3
    assert flat["student.tokenizer"] is None
    assert [stream["local"] for stream in flat["data.streams"]] == ["shards/a", "shards/b"]
    assert not any(isinstance(value, dict) for value in flat.values())


def test_world_that_fits(base: Path) -> None:
    config = load_config(base)
    check_world(config, 8, 8)
    check_world(config, 4, 2)
    check_world(load_config(base, ["teacher=null", "loss={objective: cross_entropy}"]), 1, 1)


def world_errors(config: RunConfig, world_size: int, local_world_size: int) -> list[str]:
    with pytest.raises(ConfigError, match=f"^on {world_size} ranks: ") as caught:
        check_world(config, world_size, local_world_size)
    return caught.value.problems


def test_world_that_does_not_fit(base: Path) -> None:
    config = load_config(base, ["teacher.tp_size=4", "global_batch_size=30"])
    tp_size = "teacher.tp_size: 4 does not divide the 6 ranks of a node; choose one of [1, 2, 3, 6]"
    batch = (
        "global_batch_size: 30 is not a multiple of micro_batch_size (2) times 6 ranks = 12; "
        "the next that is: 36"
    )
    assert world_errors(config, 6, 6) == [tp_size, batch]
    one = load_config(base, ["teacher.tp_size=4", "global_batch_size=36"])
    assert world_errors(one, 6, 6) == [tp_size]
    other = load_config(base, ["teacher.tp_size=3", "global_batch_size=30"])
    assert world_errors(other, 6, 6) == [batch]


def test_ranks_of_a_node_decide_not_those_of_the_world(base: Path) -> None:
    config = load_config(base, ["teacher.tp_size=4", "micro_batch_size=1"])
    (problem,) = world_errors(config, 8, 2)
    assert problem.startswith("teacher.tp_size: 4 does not divide the 2 ranks of a node")
