"""A door to `taidscale plan`, from a bare clone."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[1])

from taidscale.commands.plan import main

if __name__ == "__main__":
    sys.exit(main())
