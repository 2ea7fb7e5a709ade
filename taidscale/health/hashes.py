"""Short numbers that tell whether two copies of a tensor are equal."""

from collections.abc import Iterable

import torch

_CHUNK = {"cpu": 1 << 16, "cuda": 1 << 22}
"""Elements hashed at once, 16 bytes each: what fits a CPU's cache, and what keeps a GPU busy."""
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class WeightHasher:
    """Hashes tensors of one device, in 64 bits.

    The hash is the sum of the elements' bits times an odd number for each place, modulo 2^64. A
    flipped bit changes the sum by a power of two times an odd number, which is never 0: no single
    flip goes unseen, and of other changes one in 2^64. Sums of integers do not depend on their
    order: equal bits give equal hashes, always.

    Cost: no collectives; four kernels for every chunk.
    """

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(0)
        factors = torch.randint(-(1 << 62), 1 << 62, (_CHUNK[device.type],), generator=generator)
        self._factors = (factors * 2 + 1).to(device)

    def hashes(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> dict[str, int]:
        """The hash of each tensor, of any shape and type; the device is waited for once."""
        named = {name: self._hash(tensor) for name, tensor in tensors}
        if not named:
            return {}
        return dict(zip(named, torch.stack(list(named.values())).tolist(), strict=True))

    def _hash(self, tensor: torch.Tensor) -> torch.Tensor:
        """[] int64, on the device."""
        with torch.no_grad():
            bits = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
            total = torch.zeros((), dtype=torch.int64, device=self._factors.device)
            for number, chunk in enumerate(bits.split(len(self._factors))):  # type: ignore[no-untyped-call]
                wide = chunk.to(self._factors.device, torch.int64, copy=True)
                wide.mul_(self._factors[: len(wide)])
                total += wide.sum() * (2 * number + 1)
            return total
