"""Steps that were not finite are counted, explained and written down."""

import json
import math
from pathlib import Path

import pytest
import torch

from taidscale.config.health import HealthConfig
from taidscale.file_names import SKIPPED_FILE
from taidscale.health.nonfinite import Finding, Sign, SkippedSteps, origins_of
from taidscale.parallel.grid import AgreedError, make_grid
from tests.ranks import on_ranks


def finding(rank: int, sign: Sign, tp_size: int = 2) -> Finding:
    return Finding(rank, rank // tp_size, "node", sign, None)


def test_a_rank_that_only_shares_the_loss_is_innocent() -> None:
    layer, gradient = Sign(1, "student", "model.layers.3"), Sign(1, "gradient", "lm_head.weight")
    guilty, infected = finding(3, layer), finding(2, gradient)
    elsewhere, earlier = finding(0, gradient), finding(2, Sign(0, "gradient", "lm_head.weight"))
    assert origins_of([elsewhere, infected, earlier, guilty]) == [earlier, elsewhere, guilty]
    alone = [finding(2, gradient, tp_size=1), finding(3, layer, tp_size=1)]
    assert origins_of(alone) == alone


@on_ranks(4)
def test_the_rank_the_layer_and_the_samples_are_named(tmp_path: Path) -> None:
    grid = make_grid(2, torch.device("cpu"))
    skipped = SkippedSteps(HealthConfig(max_skipped_in_a_row=3), tmp_path, grid)
    keys = [torch.tensor([[rank, 5, 7], [-1, -1, -1]]) for rank in (grid.rank, grid.rank + 10)]
    signs = {2: [Sign(1, "gradient", "lm_head.weight")], 3: [Sign(1, "student", "model.layers.3")]}
    text = skipped.add(12, math.nan, math.inf, signs.get(grid.rank, []), [*keys])
    assert text.startswith("step 12 was skipped, the weights are as before: loss nan, gradient")
    assert "It began on rank 3 (" in text
    assert "in micro-batch 1 with the output of the student's model.layers.3;" in text
    assert str(tmp_path / SKIPPED_FILE) in text
    if grid.is_first:
        (line,) = map(json.loads, (tmp_path / SKIPPED_FILE).read_text().splitlines())
        assert (line["step"], line["rank"], line["keys"]) == (12, 3, [[13, 5, 7]])
        assert (line["micro_batch"], line["kind"]) == (1, "student")
        assert line["place"] == "model.layers.3"

    assert "No rank saw" in skipped.add(13, 1.0, math.inf, [], [None])
    everywhere = [Sign(0, "teacher")]
    with pytest.raises(AgreedError, match=r"so on all 4 ranks.*3 in a row.*max_skipped_in_a_row"):
        skipped.add(14, 1.0, math.inf, everywhere, [None])
    assert skipped.total == 3

    again = SkippedSteps(HealthConfig(max_skipped_in_a_row=3), tmp_path, grid)
    again.load_json(json.loads(json.dumps(skipped.to_json())))
    again.end_row()
    again.add(20, 1.0, math.inf, [], [])
    again.add(21, 1.0, math.inf, [], [])
    assert again.total == 5
