"""Look at the nodes of a run, in seconds, before it starts.

torchrun --nnodes 8 ... -m taidscale nodes CONFIG [section.setting=value ...]

Started on all nodes like the run itself, with the same arguments; `--check` of the scripts in
`launchers/` does that. It compares versions, devices, clocks, memory and the speed of computing, of
all-reduces inside nodes and between neighbours, and of writing to the folder of the checkpoints.
The exit status is 1 where something is wrong, 2 where the command is.
"""

import logging
import os

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.commands.parser import run_parser


def main(arguments: list[str] | None = None) -> int:
    """Measure together; the first rank prints. The exit status is the same on all ranks."""
    options = run_parser("nodes", __doc__).parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    from taidscale.config.load import load_config  # late: --help need not wait for it

    try:
        config = load_config(options.config, options.overrides)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if os.environ.get("RANK", "0") == "0" else USER_ERROR
    from taidscale.commands.work.nodes import check_nodes  # later still: torch is dear

    return check_nodes(config)
