"""Any flipped bit changes a hash; equal tensors have equal ones."""

import pytest
import torch

from taidscale.health.hashes import WeightHasher

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
def test_every_flipped_bit_is_seen(dtype: torch.dtype) -> None:
    hasher = WeightHasher(CPU)
    tensor = (torch.randn(70_000, generator=torch.Generator().manual_seed(0)) * 50).to(dtype)
    flat = tensor.view(torch.uint8)
    before = hasher.hashes([("a", tensor)])
    width = tensor.element_size()
    for place in (0, 1, 65_535, 65_536, 69_999):
        for byte in range(width):
            for bit in range(8):
                flat[width * place + byte] ^= 1 << bit
                assert hasher.hashes([("a", tensor)]) != before
                flat[width * place + byte] ^= 1 << bit
    assert hasher.hashes([("a", tensor)]) == before


def test_changes_that_a_plain_sum_would_miss_are_seen() -> None:
    hasher = WeightHasher(CPU)
    tensor = torch.arange(200_000, dtype=torch.float32)
    before = hasher.hashes([("a", tensor)])
    for one, other in ((0, 1), (3, 3 + (1 << 16)), (7, 7 + (2 << 16))):
        swapped = tensor.clone()
        swapped[[one, other]] = tensor[[other, one]]
        assert hasher.hashes([("a", swapped)]) != before


def test_shape_and_layout_do_not_matter_and_order_of_names_is_kept() -> None:
    tensor = torch.randn(3, 5)
    hasher = WeightHasher(CPU)
    hashes = hasher.hashes([("b", tensor), ("a", tensor.T.contiguous().T), ("c", tensor[:0])])
    assert list(hashes) == ["b", "a", "c"]
    assert hashes["a"] == hashes["b"]
    assert hashes == WeightHasher(CPU).hashes([("b", tensor), ("a", tensor), ("c", tensor[:0])])
    assert hasher.hashes([]) == {}
