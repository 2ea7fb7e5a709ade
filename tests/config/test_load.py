"""Settings from YAML: every wrong one is named, and right ones arrive typed."""

from pathlib import Path

import pytest

from taidscale.config.load import ConfigError, check_world, load_config
from taidscale.config.schedules import AdaptiveT
from taidscale.config.schema import RunConfig, WarmupStableDecay
from tests.config.base_run import BASE, errors, only_error, taid_t


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
    } | {"loss.objective forward_kl needs a teacher section"}


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
    "data.streams.1.proportion": "-1",
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
        ("seed=4294967296", "seed", "4294967296"),  # more than the order of the data can take
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


def test_wrong_settings_hide_no_disagreement(base: Path) -> None:
    """Neither of their own section nor of others."""
    lines = errors(
        base,
        "seed=-1",
        "teacher=null",
        "zero={stage: 0, reduce_dtype: fp8}",
        "learning_rate.warmup_steps=1000",
        "loss.t={schedule: adaptive, t_start: 0.75, t_end: 0.5, beta: 7}",
        "data.shuffle=never",
        "data.streams.0.proportion=null",
        "data.phases=[{from_step: 5, proportions: {c: 1}}, {from_step: 400, proportions: {a: 1}}]",
    )
    assert {line.split(" (got")[0] for line in lines} == {
        "seed: input should be greater than or equal to 0",
        "zero.reduce_dtype: input should be 'bf16' or 'fp32'",
        "loss.t.beta: input should be less than 1",
        "loss.t: t_start (0.75) must not exceed t_end (0.5)",
        "data.shuffle: input should be a valid boolean, unable to interpret input",
        "data: set proportion on all streams or on none",
        "data: the phase from step 5 names 'c', which is none of the streams a, b",
        "learning_rate.warmup_steps (1000) exceeds total_steps (100)",
    }


def test_a_disagreement_that_hangs_on_a_wrong_setting_waits_for_it(base: Path) -> None:
    assert only_error(base, "total_steps=0", "learning_rate.warmup_steps=7").startswith(
        "total_steps: "
    )


def test_wsd_phases(base: Path) -> None:
    phases = "learning_rate={{schedule: wsd, peak: 1, warmup_steps: 60, decay_steps: {}}}"
    assert only_error(base, phases.format(41)) == (
        "learning_rate.warmup_steps (60) and decay_steps (41) together exceed total_steps (100)"
    )
    rate = load_config(base, [phases.format(40)]).learning_rate
    assert isinstance(rate, WarmupStableDecay)
    assert rate.decay_steps == 40


def test_run_dir_at_home(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somebody")
    assert load_config(base, ["run_dir=~/runs/x"]).run_dir == Path("/somebody/runs/x")
    assert load_config(base, ["run_dir='~'"]).run_dir == Path("/somebody")
    line = only_error(base, "run_dir=~nobody-has-this-name/x")
    assert line.startswith("run_dir: ~nobody-has-this-name/x: there is no home folder ~nobody-has")
    line = only_error(base, "data.streams.0.local=~nobody-has-this-name/x")
    assert line.startswith("data: ~nobody-has-this-name/x: there is no home folder")


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
