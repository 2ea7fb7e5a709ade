"""A door: `python -m taidscale.stop` is `taidscale stop`."""

import sys
from importlib import import_module

if __name__ == "__main__":
    # By its name: the command stands above.
    sys.exit(import_module("taidscale.commands.stop").main())
