"""Scores of a loaded model on tasks, by lm-evaluation-harness."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from taidscale.assessment.local_tasks import LocalTask
from taidscale.assessment.scores import Score
from taidscale.assessment.subjects import enough_memory
from taidscale.data.tokenizer import Tokenizer


@dataclass(frozen=True)
class HarnessSettings:
    """How tasks are run."""

    batch_size: int
    limit: int | None
    """Of the harness's own tasks; a local task has as many rows as it was read with."""
    num_fewshot: int | None
    """Of the harness's own tasks, where they leave it open."""
    chat_template: bool
    """Whether prompts are turns of a chat."""
    seed: int


def harness_version() -> str:
    """Of the package.

    Raises:
        ValueError: It is not installed.
    """
    try:
        import lm_eval  # optional
    except ImportError as error:
        raise ValueError(
            f"--tasks needs lm-evaluation-harness ({error}); install it with "
            "pip install 'taidscale[evaluate]', or leave --tasks out"
        ) from None
    version: str = lm_eval.__version__
    return version


def open_harness(names: Sequence[str], local: Sequence[str]) -> Any:
    """Its index of tasks.

    Args:
        names: Of its own tasks that are wanted.
        local: What files there are instead, for the message.

    Raises:
        ValueError: It has no task of such a name.
    """
    from lm_eval.tasks import TaskManager  # optional

    index = TaskManager(include_defaults=bool(names))
    unknown = [name for name in names if not index.match_tasks([name])]
    if unknown:
        raise ValueError(
            f"--tasks {','.join(unknown)}: neither a file of --data ({', '.join(local) or 'none'}) "
            "nor a task of lm-evaluation-harness; `lm-eval ls tasks` lists those"
        )
    return index


@enough_memory()
def run_task(
    model: PreTrainedModel,
    tokenizer: Tokenizer,
    task: LocalTask | str,
    index: Any,
    settings: HarnessSettings,
) -> list[Score]:
    """Run one task, or group of tasks.

    Args:
        model: On its device.
        tokenizer: Of the model.
        task: In files here, or the name of one of the harness.
        index: See `open_harness`.
        settings: The rest.

    Raises:
        ValueError: The data of a task of the harness cannot be had.
    """
    import lm_eval  # optional
    from lm_eval.models.huggingface import HFLM

    for name in ("lm_eval", "lm_eval.models.huggingface"):
        logging.getLogger(name).setLevel(logging.ERROR)
    lm = HFLM(pretrained=model, tokenizer=tokenizer.hf, batch_size=settings.batch_size)
    is_local = isinstance(task, LocalTask)
    try:
        results = lm_eval.simple_evaluate(
            model=lm,
            tasks=[_definition(task) if isinstance(task, LocalTask) else task],
            task_manager=index,
            limit=None if is_local else settings.limit,
            num_fewshot=None if is_local else settings.num_fewshot,
            apply_chat_template=settings.chat_template,
            bootstrap_iters=1000,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
        )
    except (ConnectionError, FileNotFoundError) as error:
        name = task.name if isinstance(task, LocalTask) else task
        raise ValueError(
            f"--tasks {name}: the harness could not load its data ({error}); put the files into "
            "--data, or fetch the data set where there is internet"
        ) from None
    return list(_scores(results))


def _definition(task: LocalTask) -> dict[str, Any]:
    import datasets  # late: dear

    def rows(**_: Any) -> Any:
        return datasets.DatasetDict({"test": datasets.Dataset.from_list(list(task.rows))})

    return {"task": task.name, "custom_dataset": rows, "test_split": "test", **task.wording}


def _scores(results: dict[str, Any]) -> Any:
    """Of the tasks, or of the groups where there are any: a group has tens of tasks."""
    for name, figures in (results.get("groups") or results["results"]).items():
        better = results["higher_is_better"].get(name, {})
        items = results.get("samples", {}).get(name, [])
        for key, value in figures.items():
            metric, comma, filtered = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = figures.get(f"{metric}_stderr,{filtered}")
            each = [
                float(item[metric])
                for item in sorted(items, key=lambda item: item["doc_id"])
                if item["filter"] == filtered and isinstance(item.get(metric), int | float)
            ]
            # Of a corpus-level metric the items are no terms of a mean.
            is_mean = len(each) > 1 and abs(float(np.mean(each)) - value) < 1e-6
            yield Score(
                task=name,
                metric=metric if filtered == "none" else f"{metric} ({filtered})",
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, int | float) else None,
                higher_is_better=better.get(metric) is not False,
                each=each if is_mean else None,
            )
