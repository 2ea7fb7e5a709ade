"""Floating-point operations of a training token.

A product of a token with a matrix of P entries takes 2·P; of a mixture, only experts that the token
goes to count. A query multiplies the keys up to its own, or as many as its layer's window shows.
Backward takes twice as much as forward. What gradient checkpointing computes again does not count:
these are the operations of the model, not of the machine (as in arXiv:2204.02311, appendix B).
"""

from taidscale.models.shape import ModelShape


def forward_flops(model: ModelShape, seq_len: int) -> float:
    """Of one token in trunk and head, forward alone.

    Args:
        model: its shape.
        seq_len: S.
    """
    attention = model.attention
    a_key = 2.0 * (attention.query_size + attention.value_size)  # its scores and its values
    keys = sum(number * keys_seen(seq_len, layer.window) for layer, number in model.layers)
    return 2.0 * model.matmul_parameters + a_key * keys


def keys_seen(seq_len: int, window: int | None) -> float:
    """Keys that a query of a sequence sees on average, its own included.

    Args:
        seq_len: S.
        window: keys that it sees at most; None for all before it.
    """
    most = seq_len if window is None else min(window, seq_len)
    return most - most * (most - 1) / (2 * seq_len)  # the first ones see fewer


def flops_per_token(student: ModelShape, teacher: ModelShape | None, seq_len: int) -> float:
    """Of one token of a step: 6·Ns + 2·Nt, and attention. For MFU.

    Args:
        student: forward and backward.
        teacher: forward alone; absent where there is none.
        seq_len: S.
    """
    without = 3 * forward_flops(student, seq_len)
    return without + (forward_flops(teacher, seq_len) if teacher is not None else 0.0)
