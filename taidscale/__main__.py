"""`python -m taidscale` is the command `taidscale`, and what the launchers start."""

import sys

from taidscale.commands.dispatch import main

if __name__ == "__main__":
    sys.exit(main())
