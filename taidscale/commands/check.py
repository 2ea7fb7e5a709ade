"""Say whether a configuration is right, at once: no model, no data and no GPU is looked at.

All that is wrong with it is said together; the exit status is 2 then.
"""

from taidscale.commands.outcome import fail
from taidscale.commands.parser import run_parser


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a wrong configuration."""
    options = run_parser("check", __doc__).parse_intermixed_args(arguments)
    # Late, as in all commands: --help need not wait for it.
    from taidscale.config.load import load_config

    try:
        config = load_config(options.config, options.overrides)
    except ValueError as error:
        return fail(str(error))
    teacher = f"teacher {config.teacher.model}" if config.teacher else "no teacher"
    print(
        f"{options.config} is right: {config.loss.objective}, {teacher}, {config.total_steps:,} "
        f"steps of {config.global_batch_size:,} x {config.seq_len:,} tokens in {config.run_dir}"
    )
    return 0
