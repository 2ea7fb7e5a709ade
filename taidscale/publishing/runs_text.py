"""What a card says about the runs that a student went through."""

from taidscale.publishing.card import table
from taidscale.publishing.stages import Stage


def taught(stage: Stage) -> str:
    """What a run did, in a few words."""
    teachers = " and then ".join(stage.teachers)
    return f"distilled from {teachers}" if teachers else "trained without a teacher"


def limits(stages: tuple[Stage, ...]) -> str:
    """What the student cannot do, by what it learnt from."""
    *earlier, last = stages
    if last.teachers:
        how = (
            "The student was trained to give each next token the probabilities that its teacher "
            "gives it, on the\ndata above. It keeps the teacher's errors and biases, adds its own, "
            "and knows less."
        )
    elif any(stage.teachers for stage in earlier):
        how = (
            "In an earlier run the student was trained to give each next token the probabilities "
            "that a teacher gives\nit, and in the last one to predict the data above, without a "
            "teacher. It keeps errors and biases of both,\nand adds its own."
        )
    else:
        how = (
            "The model was trained to predict the data above, without a teacher. It keeps their "
            "errors and biases,\nand adds its own."
        )
    what = "how near it is to the teacher" if last.teachers else "how well it predicts such text"
    return (
        f"## Limits\n\n{how} Figures on\nheld-out tokens say {what}, not whether what it writes is "
        "true, harmless or\nuseful; test that for the use that you have in mind."
    )


def runs_section(stages: tuple[Stage, ...]) -> str:
    """A row for each part of each run; nothing where there was no more than one."""
    if sum(len(stage.parts) for stage in stages) == 1:
        return ""
    rows = [["run", "first weights", "steps", "objective", "teacher", "tokens", "data"]]
    for number, stage in enumerate(stages, start=1):
        ends = [part.from_step for part in stage.parts[1:]] + [stage.num_steps]
        for part, end in zip(stage.parts, ends, strict=True):
            is_first = part == stage.parts[0]
            rows.append(
                [
                    str(number),
                    (stage.first_weights or "random") if is_first else "",
                    f"{part.from_step + 1:,} to {end:,}",
                    part.objective,
                    part.learnt_from or "none",
                    f"{stage.num_tokens:,}" if is_first else "",
                    ", ".join(stage.data) if is_first else "",
                ]
            )
    return "## Runs\n\n" + table(rows)
