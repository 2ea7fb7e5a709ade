"""How a command ends: exit statuses, and what is said of a user's mistake."""

import os
import sys
from typing import NoReturn

USER_ERROR, START_AGAIN = 2, os.EX_TEMPFAIL
"""Exit statuses: starting again would not help; it goes on where it was (75)."""


def fail(problem: str) -> int:
    """Say it; the exit status."""
    print(f"error: {problem}", file=sys.stderr, flush=True)
    return USER_ERROR


def end_at_once(status: int) -> NoReturn:
    """End this process, whatever keeps it: data workers, collectives under way, threads.

    The other ranks would wait for it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
