"""`taidscale settings` as a user sees it."""

import json
import subprocess
import sys

import pytest

from taidscale.commands.settings import main


def test_a_part_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["loss.t"]) == 0
    out = capsys.readouterr().out
    assert "loss.t.rate: number > 0; default 5.0\n" in out
    assert "\n    (with loss.objective taid, alpha_mixture; loss.t.schedule exponential)\n" in out
    assert "loss.temperature" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert main(["loss.temp"]) == 0
    assert capsys.readouterr().out.startswith("loss.temperature: ")


def test_markdown_and_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--format", "markdown"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "| `seq_len` | integer ≥ 2 | required | tokens |" in "\n".join(rows)
    assert {row.replace("\\|", "").count("|") for row in rows} == {6}
    assert main(["--format", "json-schema"]) == 0
    assert json.loads(capsys.readouterr().out)["properties"]["seq_len"]["minimum"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["los.t"], "no setting begins with 'los.t'; did you mean loss.t?"),
        (["loss", "--format", "json-schema"], "loss: the JSON schema is of all settings"),
    ],
)
def test_refuses(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"error: {says}")


def test_torch_stays_away() -> None:
    code = (
        "import sys; from taidscale.commands.settings import main; main([]); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0
