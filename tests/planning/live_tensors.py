"""How many bytes of tensors exist, at every operation: exact, on any device, whoever frees them."""

import weakref
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from taidscale.metrics.clock import StepClock


class LiveTensors(TorchDispatchMode):
    """Counts each storage from the first operation that sees it until it is freed.

    What an operation allocates and frees inside itself is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.phase = "start"
        self.peaks: dict[str, int] = defaultdict(int)
        """By phase; those of the same name are one."""
        self._known: dict[int, tuple[int, weakref.ref[Any]]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, torch.Tensor) and leaf.device.type != "meta":
                self._see(leaf.untyped_storage())
        self.peaks[self.phase] = max(self.peaks[self.phase], self.live)
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._known.get(key)
        if known is not None and known[1]() is storage:
            if known[0] != size:  # resized
                self.live += size - known[0]
                self._known[key] = (size, known[1])
            return
        self.live += size
        self._known[key] = (size, weakref.ref(storage, partial(self._forget, key)))

    def _forget(self, key: int, reference: Callable[[], Any]) -> None:
        if key in self._known and self._known[key][1] is reference:
            self.live -= self._known.pop(key)[0]

    def forget_peaks(self) -> None:
        """Begin again with what is there now."""
        self.peaks.clear()


class PhaseClock(StepClock):
    """The clock of a run, which tells `LiveTensors` what goes on."""

    def __init__(self, device: torch.device, tensors: LiveTensors) -> None:
        super().__init__(device)
        self._tensors = tensors

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        outer, self._tensors.phase = self._tensors.phase, name
        with super().section(name):
            yield
        self._tensors.phase = outer
