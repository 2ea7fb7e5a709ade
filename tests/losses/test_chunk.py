"""How many tokens' logits exist at once: within the budget, and without effect on the result."""

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from taidscale.losses import chunking
from taidscale.losses.chunk import Chunk
from taidscale.losses.chunking import MULTIPLE, tokens_per_chunk
from taidscale.losses.fused_head import fused_head
from taidscale.losses.head_settings import HeadSettings
from taidscale.losses.moments import merged
from taidscale.losses.objective import Objective
from taidscale.losses.objectives.adaptive_kl import smallest_of_head
from taidscale.losses.signal import HeadSignal
from taidscale.losses.vocabulary import Vocabulary
from tests.losses.test_divergences import EVERY, logits
from tests.ranks import on_ranks

many = settings(max_examples=300, deadline=None, derandomize=True, database=None)


@many
@given(st.integers(1, 10**6), st.integers(1, 10**7), st.integers(1, 2**33))
def test_chunks_are_few_equal_and_within_the_budget(
    num_tokens: int, bytes_per_token: int, budget: int
) -> None:
    size = tokens_per_chunk(num_tokens, bytes_per_token, budget)
    fit = budget // bytes_per_token
    assert 1 <= size <= max(1, fit)
    multiple = MULTIPLE if fit >= MULTIPLE else 1
    assert size % multiple == 0 or size == num_tokens
    num_chunks = -(-num_tokens // size)
    most = max(1, fit // multiple * multiple)
    assert num_chunks == -(-num_tokens // most)  # as few as with the largest chunks
    assert size - num_tokens / num_chunks < multiple  # no smaller one would do


def test_known_sizes_of_chunks() -> None:
    assert MULTIPLE == 128
    assert tokens_per_chunk(4096, 2**20, 2**30) == 1024
    assert tokens_per_chunk(4096, 2**20, 2**30 + 2**27) == 1024  # 1,152 would fit
    assert tokens_per_chunk(4096, 2**20, 2**30 - 1) == 896  # 5 of 820 on average
    assert tokens_per_chunk(4096, 2**20, 100 * 2**20) == 100
    assert tokens_per_chunk(101, 2**20, 100 * 2**20) == 51
    assert tokens_per_chunk(7, 2**20, 1) == 1


@on_ranks(3)
def test_all_ranks_choose_the_same_chunks_by_the_largest_share() -> None:
    cpu, rank = torch.device("cpu"), dist.get_rank()
    for size in (7, 8, 9, 1000):
        vocabulary = Vocabulary.split(size, rank, 3)
        columns = vocabulary.stop - vocabulary.start
        for budget in (1, 47, 48, 100, 145, 400, 5000, 10**6):
            for overlap in (False, True):
                inputs = HeadSettings(vocabulary, dist.group.WORLD, budget, overlap=overlap)
                found = inputs.chunking(cpu).chunk_size(500, 16)
                assert found == 1 or found * columns * 16 * (1 + overlap) <= budget
                all_found = [None] * 3
                dist.all_gather_object(all_found, found)
                assert all_found == [found] * 3
                largest = -(-size // 3)
                assert found == tokens_per_chunk(500, largest * 16 * (1 + overlap), budget)
    fixed = HeadSettings(Vocabulary.split(7, rank, 3), dist.group.WORLD, 1, chunk_tokens=77)
    assert fixed.chunking(cpu).chunk_size(500, 16) == 77
    assert fixed.chunking(cpu).chunk_size(50, 16) == 50


@on_ranks(1)
def test_the_result_depends_on_neither_chunks_nor_blocks() -> None:
    """For one rank; that of several is compared with that of one in `test_fused_head`."""
    whole = losses_and_gradients(chunk_tokens=9)
    for choices in (
        *({"chunk_tokens": tokens} for tokens in (1, 4, 1000)),
        *({"logits_bytes": 7 * 16 * tokens} for tokens in (2, 1000)),
        {"chunk_tokens": 4, "overlap": True},
    ):
        assert_equal(losses_and_gradients(**choices), whole)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(chunking.BLOCK_ELEMENTS, "cpu", 7 * 2 + 1)
        assert_equal(losses_and_gradients(chunk_tokens=5), whole)


def losses_and_gradients(**choices: int) -> list[torch.Tensor]:
    """Of every divergence: loss, gradients of hidden states and head."""
    hidden, teacher_hidden = logits(9, 4)
    weight, teacher_weight = logits(7, 4, seed=1)
    labels = torch.tensor([0, 1, 2, -100, 4, 5, 6, 0, 1])
    teacher = HeadSignal(teacher_hidden, teacher_weight)
    inputs = [hidden.requires_grad_(), weight.requires_grad_()]
    inputs_settings = HeadSettings(Vocabulary.split(7, 0, 1), dist.group.WORLD, **choices)
    found = []
    for divergence in EVERY.values():
        objective = Objective(divergence, 1.5, 0.2)
        total, _ = fused_head(*inputs, labels, teacher, objective, inputs_settings)
        found += [total.detach(), *torch.autograd.grad(total, inputs)]
    return found


def assert_equal(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    for x, y in zip(found, expected, strict=True):
        assert (x - y).abs().max() <= 1e-12 * y.abs().max()


@on_ranks(3)
def test_the_head_of_adaptive_kl_is_found_over_all_ranks() -> None:
    student, teacher = (x.round() for x in logits(20, 7))  # with ties
    columns = Vocabulary.split(7, dist.get_rank(), 3).rows
    for dtype in (torch.float32, torch.float64):
        parts = [x[:, columns].to(dtype).contiguous() for x in (student, teacher)]
        chunk = Chunk(*parts, torch.zeros(20).long(), 1.0, dist.group.WORLD)
        local = chunk.local_moments(None)
        every = [torch.empty_like(local) for _ in range(3)]
        dist.all_gather(every, local)
        chunk = chunk.with_moments(merged(torch.stack(every), 1.0))
        p = teacher.softmax(1)
        for mass in (0.01, 0.5, 0.99):
            likeliest = p.sort(1, descending=True)[0]
            last = (likeliest.cumsum(1) < mass).sum(1, keepdim=True)
            expected = likeliest.gather(1, last)[:, 0]
            found = smallest_of_head(chunk, mass).double()
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0.0)
