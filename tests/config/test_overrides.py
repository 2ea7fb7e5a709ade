"""What is set on the command line arrives typed, and a dumped configuration loads again."""

from pathlib import Path

import pytest

from taidscale.config.load import ConfigError, dump_config, flat_settings, load_config
from taidscale.config.schedules import ConstantT, RampT
from taidscale.config.schema import FreshInit
from tests.config.base_run import errors, only_error, taid_t


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


def test_problems_are_counted_one_by_one(base: Path) -> None:
    """Also those that a section's own checks find together."""
    wrong = ["teacher=null", "profile={steps: [8, 2000000]}", "precisoin=bf16"]
    says = r": 3 problems\n  precisoin: .*\n  loss.*\n  profile.steps"
    with pytest.raises(ConfigError, match=says):
        load_config(base, wrong)
