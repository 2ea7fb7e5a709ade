"""Buffers that must keep their precision through DeepSpeed's casts."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from taidscale.engine.private import changed


def check_rope(module: nn.Module) -> None:
    """Refuse RoPE frequencies that are not float32.

    Raises:
        PrivateNameError: if DeepSpeed's casts have reached them by another way.
    """
    for name, buffer in module.named_buffers():
        if name.endswith("inv_freq") and buffer.dtype != torch.float32:
            raise changed(f"{name} became {buffer.dtype}")


@contextmanager
def kept_buffers(module: nn.Module, device: torch.device) -> Iterator[None]:
    """Put every buffer of `module` back on leaving, on `device`, as it was.

    DeepSpeed casts a model with all its buffers. RoPE frequencies in bf16 turn positions of
    long sequences by wrong angles: 0.4 nats at 4,096 tokens, and no error anywhere.
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    yield
    for name, buffer in buffers.items():
        owner, _, last = name.rpartition(".")
        setattr(module.get_submodule(owner), last, buffer.to(device))
