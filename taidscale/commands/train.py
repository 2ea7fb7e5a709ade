"""Distil, on this rank: `taidscale train CONFIG [section.setting=value ...]`.

deepspeed --module taidscale train CONFIG, torchrun -m taidscale train CONFIG, and the scripts in
`launchers/` start it on many. Started again, it continues from the last checkpoint.
"""

import logging
import os
import time

from taidscale.commands.outcome import USER_ERROR, fail
from taidscale.commands.parser import run_parser

log = logging.getLogger(__name__)


def main(arguments: list[str] | None = None) -> int:
    """The command; its exit status is 2 for a user's error, 75 where it wants to go on."""
    options = run_parser("train", __doc__).parse_intermixed_args(arguments)
    is_first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("taidscale").setLevel(logging.INFO if is_first else logging.ERROR)
    log.info("reading %s", options.config)
    # Late, as in all commands: --help need not wait for it.
    from taidscale.config.load import load_config

    try:
        config = load_config(options.config, options.overrides)
    except ValueError as error:  # alike on all ranks
        return fail(str(error)) if is_first else USER_ERROR
    log.info("importing torch and DeepSpeed")
    began = time.monotonic()
    from taidscale.commands.work.train import start  # later still: a typo needs no torch

    log.info("imported in %.1f s", time.monotonic() - began)
    return start(config)
