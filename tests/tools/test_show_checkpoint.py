"""What a checkpoint holds is shown, and a damaged one has status 2."""

import re
import shutil
from pathlib import Path

import pytest
import yaml

from taidscale.checkpoint.manifest import MANIFEST, read_facts, write_manifest
from tests.checkpoint.stores import flip
from tests.ranks import run_on_ranks
from tests.runs import make_run
from tests.tools.commands import expect_error, start

TOOL = "show_checkpoint.py"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two ranks, with two checkpoints."""
    folder = tmp_path_factory.mktemp("trained")
    config = make_run(folder, evaluation=None, total_steps=4, checkpoint={"every_steps": 2})
    run_on_ranks(2, "tests.runs", "train_quietly", {"arguments": [str(config), "zero.stage=2"]})
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def show(*arguments: str, folder: Path) -> str:
    tool = start(TOOL, *arguments, folder=folder, without_torch=True)
    out, errors = tool.communicate(timeout=600)
    assert tool.returncode == 0, errors
    return out


def test_a_run(run: Path) -> None:
    said = show("run", folder=run)
    table, details = said.split("\n\n")
    head, first, second = (re.split(" {2,}", line) for line in table.splitlines())
    assert head == ["checkpoint", "tokens", "t", "age", "written by", "MB", "files"]
    assert (first[0], second[0]) == ("step-00000002", "step-00000004")
    assert (first[1], second[1]) == ("256", "512")
    assert (second[4], second[6]) == ("2 ranks, ZeRO-2", "whole")
    newest = run / "run" / "checkpoints" / "step-00000004"
    lines = dict(re.split(" {2,}", line, maxsplit=1) for line in details.splitlines())
    assert lines["checkpoint"] == str(newest)
    assert lines["step"] == "4 of 4"
    assert lines["tokens"] == "512"
    assert lines["written by"] == "2 ranks, ZeRO-2, fp32"
    facts = read_facts(newest)
    assert lines["parameters"] == f"{facts['num_parameters']:,}"
    assert float(lines["t"]) == pytest.approx(facts["progress"]["t_state"]["t"], abs=1e-6)
    size = sum(path.stat().st_size for path in newest.glob("*.pt")) / 1e6
    files = len(list(newest.glob("*.pt")))
    assert lines["files"] == f"{files}, {size:.1f} MB; all sizes are right (hashes: --verify)"
    assert f"torch {facts['versions']['torch']}," in lines["versions"]
    assert "now" not in lines["versions"]
    # `run.yaml` did not know of zero.stage=2; the run's own config.yaml does.
    assert lines["settings"] == f"are those of {run / 'run' / 'config.yaml'}"


def test_one_checkpoint_against_another_configuration_and_other_versions(run: Path) -> None:
    checkpoint = run / "run" / "checkpoints" / "step-00000002"
    facts = read_facts(checkpoint)
    files = facts.pop("files")
    facts["versions"]["torch"] = "1.0"
    facts["unix_seconds"] -= 3 * 86_400
    write_manifest(checkpoint, facts, files)
    settings = yaml.safe_load((run / "run.yaml").read_text())
    settings["learning_rate"]["peak"] = 0.5
    (run / "other.yaml").write_text(yaml.safe_dump(settings))
    said = show(str(checkpoint), "--config", "other.yaml", "--verify", folder=run)
    assert re.search(r"^files .*; all hashes are right$", said, re.MULTILINE)
    assert re.search(r"^saved .*, 3 days ago$", said, re.MULTILINE)
    assert re.search(r" torch 1\.0 \(now \d", said)
    *_, head, rate, stage = said.splitlines()
    assert head == "settings    differ from other.yaml"
    assert rate == "  learning_rate.peak: 0.001, now 0.5"
    assert stage == "  zero.stage: 2, now 3"


def test_damaged_ones(run: Path) -> None:
    checkpoints = run / "run" / "checkpoints"
    flip(checkpoints / "step-00000004" / "mp_rank_00_model_states.pt")
    (checkpoints / "step-00000001.damaged").mkdir()
    assert "damaged when" in show("run", folder=run)  # sizes alone do not show the newest one
    tool = start(TOOL, "run", "--verify", folder=run)
    out, errors = tool.communicate(timeout=600)
    assert tool.returncode == 2
    assert re.search(r"step-00000002 .* whole\nstep-00000004 .* damaged\n", out)
    assert "step-00000001.damaged was damaged" in out
    assert re.search(r"checkpoint +\S+step-00000002\n", out)
    assert re.search(r"error: .*step-00000004: mp_rank_00_model_states.pt has SHA-256 ", errors)
    (checkpoints / "step-00000002" / MANIFEST).unlink()
    expect_error(
        start(TOOL, str(checkpoints / "step-00000002"), folder=run), "manifest.json is missing"
    )
    tool = start(TOOL, "run", folder=run)
    out, errors = tool.communicate(timeout=600)
    assert (tool.returncode, errors.count("error: ")) == (2, 1)
    assert re.search(r"step-00000002 +damaged", out)


def test_wrong_inputs(run: Path) -> None:
    empty = run / "empty"
    (empty / "checkpoints" / "step-00000001.partial").mkdir(parents=True)
    (run / "broken.yaml").write_text("- no\n")
    tools = [
        start(TOOL, *arguments, folder=run)
        for arguments in (["nowhere"], ["empty"], ["student"], ["run", "--config", "missing.yaml"])
    ]
    says = (
        r"nowhere is neither a run with checkpoints nor a checkpoint",
        r"empty/checkpoints holds no finished checkpoint yet",
        r"student is neither",
        r"missing\.yaml",
    )
    for tool, message in zip(tools[:3], says[:3], strict=True):
        expect_error(tool, message)
    out, errors = tools[3].communicate(timeout=600)
    assert (tools[3].returncode, out) == (2, "")
    assert re.search(rf"^error: {says[3]}", errors, re.MULTILINE)
    assert "Traceback" not in errors
