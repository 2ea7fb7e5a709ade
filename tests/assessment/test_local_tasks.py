"""Files of tasks, in the formats in which people have them."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from taidscale.assessment.local_tasks import find_local_task

PAIRS = {
    name: [
        {"sentence_good": f"{name} good {k}", "sentence_bad": f"{name} bad {k}"} for k in range(4)
    ]
    for name in ("b", "a")
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    files = {
        "arc.jsonl": '{"query": "Question: Why?\\n", "choices": ["x", "y"], "gold": 1}\n\n',
        "last.jsonl": '{"context": "The end ", "continuation": " is"}\n',
        "ja-v1.json": json.dumps(
            [{"question": "空は", "choice0": "青", "choice1": "赤", "label": 0}]
        ),
        "wrong.jsonl": '{"query": "q", "choices": ["x"], "gold": 1}\n',
        "other.jsonl": '{"sentence": "s"}\n',
        "broken.jsonl": '{"query"\n',
        "same-1.jsonl": "{}\n",
        "same-2.jsonl": "{}\n",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with tarfile.open(tmp_path / "pairs.tar.gz", "w:gz") as archive:
        for name, rows in PAIRS.items():
            content = "".join(json.dumps(row) + "\n" for row in rows).encode()
            member = tarfile.TarInfo(f"data/{name}.jsonl")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return tmp_path


def rows(folder: Path, name: str, limit: int | None = None) -> list[dict[str, object]]:
    task = find_local_task(name, folder, limit)
    assert task is not None
    return list(task.rows)


def test_kinds(folder: Path) -> None:
    assert rows(folder, "arc") == [
        {"prompt": "Question: Why?\nAnswer:", "choices": ["x", "y"], "gold": 1}
    ]
    assert rows(folder, "last") == [{"prompt": "The end", "ending": "is"}]
    assert rows(folder, "ja") == [
        {"prompt": "質問：空は\n回答：", "choices": ["青", "赤"], "gold": 0}
    ]
    assert rows(folder, "pairs")[0]["choices"] == ["a good 0", "a bad 0"]
    assert len(rows(folder, "pairs")) == 8
    assert find_local_task("nothing", folder, None) is None


def test_limit_takes_rows_from_everywhere(folder: Path) -> None:
    found = [row["choices"][0] for row in rows(folder, "pairs", 4)]  # type: ignore[index]
    assert found == ["a good 1", "a good 3", "b good 1", "b good 3"]


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("wrong", r"wrong\.jsonl, row 1: IndexError.*such a task has query, choices, gold"),
        ("other", r"other\.jsonl: has columns sentence; a task has one of: query, choices"),
        ("broken", r"broken\.jsonl, row 1: broken JSON"),
        ("same", r"--tasks same: may be same-1\.jsonl, same-2\.jsonl"),
    ],
)
def test_refuses(folder: Path, name: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        find_local_task(name, folder, None)
