"""Floating-point operations of a training token.

A product of a token with a matrix of P entries takes 2·P. Backward takes twice as much as forward.
A query meets, on average, half of the sequence. What gradient checkpointing computes again does
not count: these are the operations of the model, not of the machine (as in arXiv:2204.02311,
appendix B).
"""

from taidscale.models.shape import ModelShape


def forward_flops(model: ModelShape, seq_len: int) -> float:
    """Of one token in trunk and head, forward alone.

    Args:
        model: its shape.
        seq_len: S.
    """
    scores_and_values = 2 * 2 * model.query_size * (seq_len / 2)
    return 2.0 * model.matmul_parameters + model.num_layers * scores_and_values


def flops_per_token(student: ModelShape, teacher: ModelShape | None, seq_len: int) -> float:
    """Of one token of a step: 6·Ns + 2·Nt, and attention. For MFU.

    Args:
        student: forward and backward.
        teacher: forward alone; absent where there is none.
        seq_len: S.
    """
    without = 3 * forward_flops(student, seq_len)
    return without + (forward_flops(teacher, seq_len) if teacher is not None else 0.0)
