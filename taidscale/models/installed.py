"""Where transformers 4 and 5 differ in a way that no other file can leave open."""

import importlib
from contextlib import AbstractContextManager
from importlib.metadata import version
from typing import cast

TRANSFORMERS = int(version("transformers").partition(".")[0])
"""Its major version: 4 or 5."""


def without_initialisation() -> AbstractContextManager[None]:
    """Models that are made inside get no initial weights: all of them are replaced.

    Of StableLM's norms transformers 4 fails to make some.
    """
    # What transformers exports of it does nothing more than this, under a name that has moved.
    place = "transformers.modeling_utils" if TRANSFORMERS < 5 else "transformers.initialization"
    return cast(AbstractContextManager[None], importlib.import_module(place).no_init_weights())
