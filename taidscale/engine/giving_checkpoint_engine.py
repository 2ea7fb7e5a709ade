"""What DeepSpeed writes and reads its files with."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from deepspeed.runtime.checkpoint_engine.torch_checkpoint_engine import TorchCheckpointEngine

from taidscale.engine.known_classes import read_known
from taidscale.engine.private import changed


class GivingCheckpointEngine(TorchCheckpointEngine):  # type: ignore[misc]
    """Gives the files to another, and keeps a failure until all ranks are past the barriers.

    It reads nothing but what a checkpoint holds; DeepSpeed's own would run whatever it reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._put: Callable[[Any, Path], None] | None = None
        self._failure: Exception | None = None

    @contextlib.contextmanager
    def given_to(self, put: Callable[[Any, Path], None]) -> Iterator[None]:
        """Raises, at its end, what `put` raised first."""
        self._put, self._failure = put, None
        yield
        if self._failure is not None:
            raise self._failure

    def load(self, path: str, map_location: Any = None) -> Any:
        """As `read_known`."""
        return read_known(Path(path), map_location=map_location)

    def save(self, state_dict: Any, path: str) -> None:
        """Give it away, until one has failed."""
        if "optimizer_state_dict" in state_dict:
            # In bf16 at stage 1 DeepSpeed leaves this out, and then cannot read its own file.
            state_dict["optimizer_state_dict"].setdefault("zero_stage", 1)
        if self._put is None:
            raise changed("it saves by itself")
        if self._failure is None:
            try:
                self._put(state_dict, Path(path))
            except Exception as error:  # raised later: DeepSpeed waits for this rank
                self._failure = error
