"""A door: `python -m taidscale.restart` is `taidscale restart`."""

import sys
from importlib import import_module

if __name__ == "__main__":
    # By its name: the command stands above.
    sys.exit(import_module("taidscale.commands.restart").main())
