"""Find out, in a minute or two and before a run, whether this cluster computes right gradients.

torchrun --nnodes 8 ... -m taidscale verify CONFIG [section.setting=value ...]

Started on all nodes like the run itself, with the same arguments. With the run's own objective,
sizes, tp_size, precision and ZeRO stage it compares: the vocabulary-parallel loss and its gradients
with dense ones in float64; the first layers of the tensor-parallel teacher with the same layers
whole in float32; t, schedules and parameters of all ranks after training steps of small models;
such a run that was saved and loaded with an undisturbed one; and the nodes, as `taidscale nodes`
does. The exit status is 1 where something is wrong, and then the culprit is named; 2 where the
command is.
"""

import logging
import os

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.commands.parser import run_parser


def main(arguments: list[str] | None = None) -> int:
    """Check together; the first rank prints. The exit status is the same on all ranks."""
    options = run_parser("verify", __doc__).parse_intermixed_args(arguments)
    logging.basicConfig(level=logging.ERROR)
    from taidscale.config.load import load_config  # late: --help need not wait for it

    try:
        config = load_config(options.config, options.overrides)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if os.environ.get("RANK", "0") == "0" else USER_ERROR
    from taidscale.commands.work.verify import verify  # later still: torch is dear

    return verify(config)
