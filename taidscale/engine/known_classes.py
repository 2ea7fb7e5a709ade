"""Reading checkpoints without running what a stranger may have put into them.

What `torch.save` writes is a pickle, which may name any function to be called while it is read;
the hashes in a manifest say that files are whole, not who wrote them. torch builds tensors and
plain values alone where `weights_only` is set, and the classes that it is given by name; a call
that says `weights_only=False`, as DeepSpeed's do, is overruled by an environment variable.
"""

import contextlib
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum
from deepspeed.utils.tensor_fragment import fragment_address
from numpy._core import multiarray

_OVERRULE = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"

KNOWN = [
    LossScaler,
    ZeroStageEnum,
    fragment_address,
    # The state of numpy's random numbers is an array.
    multiarray._reconstruct,  # type: ignore[attr-defined]
    np.ndarray,
    np.dtype,
    np.dtypes.UInt32DType,
]
"""Classes and functions in a student's checkpoint, besides those that torch takes anyway; of
DeepSpeed 0.19. None of them does anything but hold what it is given.
"""


@contextlib.contextmanager
def known_classes() -> Iterator[None]:
    """Within it, whatever loads a pickle by torch in this process builds known classes alone.

    Raises:
        ValueError: if a file holds something else; nothing of that was run.
    """
    before = os.environ.get(_OVERRULE)
    os.environ[_OVERRULE] = "1"
    try:
        with torch.serialization.safe_globals(KNOWN):
            yield
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal("a file of the checkpoint", error)) from None
    finally:
        if before is None:
            del os.environ[_OVERRULE]
        else:
            os.environ[_OVERRULE] = before


def read_known(file: Path, *, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """As `torch.load`.

    Args:
        file: to read.
        map_location: see there.
        mmap: tensors stay in the file until they are used.

    Raises:
        ValueError: as `known_classes`.
        OSError: if the file is missing.
    """
    try:
        with torch.serialization.safe_globals(KNOWN):
            return torch.load(file, map_location=map_location, mmap=mmap, weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(_refusal(str(file), error)) from None


def _refusal(what: str, error: Exception) -> str:
    text = str(error)
    found = [part.split()[0] for part in text.split("GLOBAL ")[1:2]]
    named = f" ({found[0]})" if found else ""
    return (
        f"{what} holds more than tensors, numbers and the classes of a checkpoint{named}: a "
        "damaged or hostile file, or one of another version of DeepSpeed. Nothing of it was run; "
        "use a checkpoint that you trust"
    )
