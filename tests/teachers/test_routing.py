"""What a router chooses, against its definition."""

import torch

from taidscale.teachers.routing import Router, Routing


def test_no_expert_of_a_closed_group_is_chosen() -> None:
    """Not even where all experts of the open groups rank below zero."""
    routing = Routing(8, 3, normalised=True, by_sigmoid=True, num_groups=4, groups_per_token=2)
    router = Router(routing, hidden_size=6)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        router.weight.normal_(generator=generator)
        router.e_score_correction_bias.uniform_(-3.0, -1.0, generator=generator)
        tokens = torch.randn(200, 6, generator=generator)
        chosen, weights = router(tokens)
        scores = (tokens @ router.weight.T).sigmoid()
    pairs = (scores + router.e_score_correction_bias).view(200, 4, 2)
    for token, (experts, ranks) in enumerate(zip(chosen.tolist(), pairs, strict=True)):
        open_groups = ranks.sum(-1).argsort(descending=True)[:2].tolist()
        allowed = [e for e in range(8) if e // 2 in open_groups]
        best = sorted(allowed, key=lambda e: -float(ranks.flatten()[e]))[:3]
        assert sorted(experts) == sorted(best), token
    torch.testing.assert_close(weights.sum(-1), torch.ones(200))
