"""What the logits of a chunk take, with a kernel for the objective's gradient and without."""

from typing import Any

from taidscale.planning.memory import memory
from tests.planning.test_plan import tinyswallow


def test_objectives_without_a_kernel_need_blocks_besides() -> None:
    """Five blocks of 2^24 logits in float32, where no kernel writes the gradient."""

    def chunk(objective: str, **settings: Any) -> int:
        loss = {"objective": objective, "logits_mib": 1024, **settings}
        moments = memory(tinyswallow(loss=loss)).moments
        return max(moment.parts.get("logits of a chunk", 0) for moment in moments)

    blocks = 5 * 4 * 2**24
    with_kernel = chunk("forward_kl")
    assert chunk("taid") == chunk("reverse_kl") == with_kernel
    for objective in ("adaptive_kl", "decoupled_kl", "alpha_beta", "alpha_mixture"):
        assert chunk(objective) == with_kernel + blocks, objective
    assert chunk("taid", kernels=False) == with_kernel + blocks
