"""Documents, weights and padding, in micro-batches."""

from pathlib import Path

import pytest
import torch

from taidscale.data.held_out import HeldOutLoader
from tests.data.conftest import write_samples
from tests.data.loading import SEQ_LEN, flat, training_loader


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two samples of 7 tokens: pieces of 3 and 4; and of 1, 4 and 2 of padding."""
    return write_samples(
        tmp_path / "packed",
        [[10, 11, 12, 20, 21, 22, 23], [30, 40, 41, 42, 43, 0, 0]],
        documents=[[3, 4], [1, 4]],
        weights=[[1, 0, 1, 1, 0.5, 1, 1], [1, 1, 1, 1, 1, 0, 0]],
    )


def test_weights_and_padding_reach_the_micro_batch(packed):
    (batch,) = training_loader(packed, grad_accum_steps=1, shuffle=False).next_step()
    assert batch.input_ids.tolist() == [[10, 11, 12, 20, 21, 22], [30, 40, 41, 42, 43, 0]]
    assert batch.labels.tolist() == [[-100, 12, 20, 21, 22, 23], [40, 41, 42, 43, -100, -100]]
    assert batch.weights.tolist() == [[0, 1, 1, 0.5, 1, 1], [1, 1, 1, 1, 0, 0]]
    assert batch.positions is None


def test_padding_is_not_learnt_where_nothing_has_weights(tmp_path):
    rows = [[10, 11, 12, 20, 21, 9, 9], [30, 31, 32, 33, 34, 35, 36]]
    folder = write_samples(tmp_path / "padded", rows, documents=[[3, 2], [7]])
    (batch,) = training_loader(folder, grad_accum_steps=1, shuffle=False).next_step()
    assert batch.labels.tolist() == [[11, 12, 20, 21, -100, -100], [31, 32, 33, 34, 35, 36]]
    assert batch.weights is None


def test_documents_reach_the_micro_batch(packed):
    settings = {"shuffle": False, "attention": "within_document"}
    (batch,) = training_loader(packed, grad_accum_steps=1, **settings).next_step()
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 2], [0, 0, 1, 2, 3, 0]]
    assert batch.labels.tolist() == [[-100, 12, -100, 21, 22, 23], [-100, 41, 42, 43, -100, -100]]
    assert batch.weights.tolist() == [[0, 1, 0, 0.5, 1, 1], [0, 1, 1, 1, 0, 0]]


def test_all_streams_have_weights_where_one_has(packed, numbered_shards):
    streams = [{"local": str(numbered_shards(4, SEQ_LEN))}, {"local": str(packed)}]
    steps = [training_loader(None, streams=streams).next_step() for _ in range(2)]
    for batch in flat(steps):
        of_numbered = batch.keys[:, 0] == 0
        assert (batch.weights[of_numbered] == 1).all()
        assert batch.weights.dtype == torch.float32


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("attention", ["across_documents", "within_document"])
def test_weights_that_no_loss_can_be_divided_by(
    tmp_path: Path, weight: float, attention: str
) -> None:
    folder = write_samples(tmp_path / "w", [[1] * 7], weights=[[1, 1, weight, 1, 1, 1, 1]])
    loader = training_loader(folder, grad_accum_steps=1, attention=attention)
    with pytest.raises(
        ValueError, match=r"stream, shard, sample .* token 2 has weight -?(1\.0|nan|inf)"
    ):
        loader.next_step()
    settings = {"seq_len": 6, "batch_size": 1, "rank": 0, "world_size": 1, "vocab_size": 99}
    with pytest.raises(ValueError, match="token 2 has weight"):
        next(iter(HeldOutLoader(folder, **settings)))
