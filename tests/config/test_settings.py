"""The list of all settings, and the JSON schema that editors check configurations with."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from taidscale.config.load import dump_config, flat_settings, load_config
from taidscale.config.settings import Setting, all_settings, json_schema
from tests.config.base_run import BASE
from tests.config.json_schema import violations

CONFIGS = Path(__file__).parents[2] / "configs"
EXAMPLES = sorted(CONFIGS.glob("*.yaml"))
SCHEMA = json_schema()


def by_path(path: str) -> list[Setting]:
    return [setting for setting in all_settings() if setting.path == path]


def wrong(text: str) -> list[str]:
    return violations(yaml.safe_load(text.replace("3e-4", "3.0e-4")), SCHEMA, SCHEMA)


def test_the_file_for_editors_is_that_of_the_code() -> None:
    """If not: python -m taidscale.commands.settings --format json-schema > configs/schema.json"""
    assert json.loads((CONFIGS / "schema.json").read_text(encoding="utf-8")) == SCHEMA


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_keep_to_the_schema_that_they_name(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    named = re.match(r"# yaml-language-server: \$schema=(.*)\n", text)
    assert named
    assert (path.parent / named[1]).samefile(CONFIGS / "schema.json")
    assert wrong(text) == []
    assert wrong(dump_config(load_config(path))) == []


@pytest.mark.parametrize(
    ("was", "becomes", "where"),
    [
        ("seq_len: 64", "seq_len: 1", ".seq_len: minimum 2"),
        ("seq_len: 64", "seqlen: 64", "required"),
        ("tp_size: 2", "tpsize: 2", ".teacher.tpsize: unknown"),
        ("objective: taid", "objective: tiad", ".loss: oneOf"),
        ("schedule: adaptive, alpha: 0.001", "schedule: adaptive, rate: 2", ".loss: oneOf"),
        ("proportion: 2", "proportion: -2", ".data.streams.0.proportion: anyOf"),
        ("t: {schedule: adaptive, alpha: 0.001}", "t: 1.5", ".loss: oneOf"),
        ("total_steps: 100", "total_steps: 100\nprofile: {steps: [3]}", ".profile.steps: minItems"),
    ],
)
def test_the_schema_refuses(was: str, becomes: str, where: str) -> None:
    assert wrong(BASE) == []
    assert was in BASE
    assert any(where in line for line in wrong(BASE.replace(was, becomes)))


@pytest.mark.parametrize("t", ["0.3", "{t_start: 0.2}", "{schedule: linear, t_end: 0.9}"])
def test_short_forms_keep_to_the_schema(t: str) -> None:
    assert wrong(BASE.replace("{schedule: adaptive, alpha: 0.001}", t)) == []
    assert wrong(BASE.replace("  objective", "  cross_entropy_weight: 0.1\n  objective")) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_setting_of_a_run_is_listed(path: Path) -> None:
    listed = {setting.path for setting in all_settings()}
    config = load_config(path, ["profile.steps=[1, 2]"])
    names: dict[str, Any] = flat_settings(config)
    for name in names:
        streams = re.sub(r"\.\d+\.", ".N.", name)
        free = streams.startswith("evaluation.data.")  # names of the user's
        assert streams in listed or free, name


def test_what_a_setting_says() -> None:
    (steps,) = by_path("total_steps")
    assert steps == Setting(
        "total_steps", "integer > 0", "required", "steps", "Optimizer steps of the whole run.", ""
    )
    (stage,) = by_path("zero.stage")
    assert (stage.type, stage.default) == ("0 | 1 | 2 | 3", "3")
    (hours,) = by_path("wall_clock_hours")
    assert (hours.type, hours.default, hours.unit) == ("number > 0 | null", "null", "hours")
    (window,) = by_path("profile.steps")
    assert (window.type, window.default) == ("list of 2: integer > 0", "required")


def test_variants() -> None:
    (objective,) = by_path("loss.objective")
    assert "forward_kl: KL from the teacher to the student (arXiv:1503.02531); " in objective.help
    (temperature,) = by_path("loss.temperature")
    assert temperature.only_with == "loss.objective not cross_entropy"
    assert [s.only_with for s in by_path("loss.beta")] == [
        "loss.objective jensen_shannon",
        "loss.objective alpha_beta",
    ]
    (share,) = by_path("loss.t")
    assert share.default == "{schedule: adaptive}"
    (rate,) = by_path("loss.t.rate")
    assert rate.only_with == "loss.objective taid, alpha_mixture; loss.t.schedule exponential"


def test_all_have_a_meaning_and_those_with_a_unit_say_it() -> None:
    endings = ("_steps", "_hours", "_minutes", "_seconds", "_mib", "_tokens", "_samples")
    for setting in all_settings():
        assert setting.help, setting.path
        if setting.path.endswith(endings) and setting.path != "loss.t.alpha_times_steps":
            assert setting.unit, setting.path
