"""Settings of the training tokens."""

from pathlib import Path

import pytest

from taidscale.config.load import load_config
from tests.config.base_run import errors, only_error

STREAMS = "data.streams=[{local: a/ja, proportion: 3}, {local: b/, name: en, proportion: 1}]"


def test_the_mix_of_each_step(base: Path) -> None:
    phases = "[{from_step: 4, proportions: {en: 1}}, {from_step: 9, proportions: {ja: 1, en: 2}}]"
    data = load_config(base, [STREAMS, f"data.phases={phases}"]).data
    assert [stream.stream_name for stream in data.streams] == ["ja", "en"]
    assert data.proportions_at(0) == data.proportions_at(3) == {"ja": 3, "en": 1}
    assert data.proportions_at(4) == data.proportions_at(8) == {"ja": 0, "en": 1}
    assert data.proportions_at(9) == data.proportions_at(10**6) == {"ja": 1, "en": 2}
    by_size = load_config(base, ["data.streams=[{local: ja, repeat: 2}, {local: en}]"]).data
    assert by_size.proportions_at(5) is None


@pytest.mark.parametrize(
    ("override", "messages"),
    [
        ("data.streams=[{local: a/x}, {local: b/x}]", ["several streams are called 'x'"]),
        ("data.streams=[{local: a, proportion: 0}]", ["proportion above 0"]),
        ("data.streams=[{local: a, proportion: 1}, {local: b}]", ["on all streams or on none"]),
        ("data.streams=[{local: a, proportion: 1, repeat: 2}]", ["proportion and repeat exclude"]),
        ("data.phases=[{from_step: 0, proportions: {ja: 1}}]", ["data.phases.0.from_step: "]),
        ("data.phases=[{from_step: 3, proportions: {ja: 0}}]", ["at least one proportion"]),
        ("data.phases=[{from_step: 3, proportions: {}}]", ["data.phases.0.proportions: "]),
        ("data.cache_limit=lots", ["data.cache_limit: ", "(got 'lots')"]),
        ("data.attention=causal", ["'across_documents' or 'within_document'"]),
        ("evaluation.data={}", ["evaluation.data"]),
    ],
)
def test_what_does_not_fit(base: Path, override: str, messages: list[str]) -> None:
    line = "\n".join(errors(base, override))
    assert line.startswith(("data", "evaluation"))
    for message in messages:
        assert message in line


def test_phases_out_of_order_or_of_unknown_streams(base: Path) -> None:
    phases = "[{from_step: 9, proportions: {ja: 1}}, {from_step: 4, proportions: {fr: 1}}]"
    lines = errors(base, STREAMS, f"data.phases={phases}")
    assert lines == [
        "data: phases must begin one after the other (from_step is [9, 4])",
        "data: the phase from step 4 names 'fr', which is none of the streams ja, en",
    ]
    assert only_error(base, STREAMS, "data.phases=[{from_step: 1}]").endswith("is missing")


def test_a_phase_that_never_begins(base: Path) -> None:
    line = only_error(base, STREAMS, "data.phases=[{from_step: 100, proportions: {en: 1}}]")
    assert line.startswith("data.phases: the phase from step 100 never begins")


def test_held_out_sets(base: Path) -> None:
    assert load_config(base, ["evaluation.data=x/y"]).evaluation.folders == {"held-out": "x/y"}
    several = load_config(base, ["evaluation.data={ja: x, en: y}"]).evaluation
    assert several.folders == {"ja": "x", "en": "y"}
