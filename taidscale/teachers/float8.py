"""Projections of a frozen teacher in floats of 8 bits.

Weights are quantised once, with a factor for each output row; activations as they come, with a
factor for each token. Both are E4M3 (arXiv:2209.05433): 4 bits of exponent, 3 of mantissa, up to
448. Products are summed in higher precision. Embedding, norms, routers and the head stay as they
are. Weights that a file has in 8 bits get the factors of their rows all the same: what counts is
their values.

Shapes: n tokens, E experts.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import ScalingType

from taidscale.engine.row_parallel import RowParallelLinear, sum_over_ranks
from taidscale.teachers.experts import Experts, SharedExpert, gated
from taidscale.teachers.shares import COLUMNS, ROWS, WHOLE

FLOAT8 = torch.float8_e4m3fn
_LARGEST = 448.0
_LEAST = 1e-12
"""Below which a row counts as zero."""
_ALIGNED = 16
"""Sizes at whose multiples CUDA's kernel takes a matrix."""


def quantised(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [..., k] in 8 bits, and the factors of their rows [..., 1] in float32."""
    if values.shape[-1]:
        largest = values.abs().amax(-1, keepdim=True).float()
    else:  # a rank without heads
        largest = values.new_zeros(*values.shape[:-1], 1, dtype=torch.float32)
    factors = largest.clamp_min(_LEAST) / _LARGEST
    return (values.float() / factors).to(FLOAT8), factors


def scaled_product(
    inputs: torch.Tensor, weight: torch.Tensor, factors: torch.Tensor
) -> torch.Tensor:
    """inputs · (weight · factors)ᵀ, with inputs rounded to 8 bits: [n, in] to [n, out].

    Args:
        inputs: [n, in], of the type of the result.
        weight: [out, in], in 8 bits.
        factors: [out, 1], float32.
    """
    rounded, of_tokens = quantised(inputs)
    if _has_kernel(weight):
        return nn.functional.scaled_mm(
            rounded,
            weight.t(),
            of_tokens,
            ScalingType.RowWise,
            factors.t(),
            ScalingType.RowWise,
            output_dtype=inputs.dtype,
        )
    # The same arithmetic: products of two such numbers are exact in float32.
    sums = rounded.float() @ weight.float().t()
    return (sums * of_tokens * factors.t()).to(inputs.dtype)


def _has_kernel(weight: torch.Tensor) -> bool:
    fits = all(size % _ALIGNED == 0 for size in weight.shape[-2:])
    return weight.is_cuda and fits and torch.cuda.get_device_capability(weight.device) >= (8, 9)


class Float8Linear(nn.Module):
    """In place of a linear layer, also of one whose outputs are summed over ranks."""

    def __init__(self, linear: nn.Linear, group: dist.ProcessGroup | None) -> None:
        """Quantise its weight.

        Args:
            linear: with its weight.
            group: over which outputs are summed, if they are.
        """
        super().__init__()
        weight, self.factors = _quantised_parameters(linear.weight)
        self.weight, self.bias = weight, linear.bias
        self._group = group

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """[..., in] to [..., out].

        Cost: an all-reduce of the outputs, if they are summed.
        """
        outputs = scaled_product(inputs.flatten(0, -2), self.weight, self.factors)
        if self._group is not None:
            sum_over_ranks(outputs, self._group)
        if self.bias is not None:
            outputs += self.bias
        return outputs.view(*inputs.shape[:-1], -1)


class Float8Expert(nn.Module):
    """In place of the MLP that every token goes to."""

    def __init__(self, shared: SharedExpert) -> None:
        """Quantise its weights."""
        super().__init__()
        self.gate_up, self.gate_up_factors = _quantised_parameters(shared.gate_up)
        self.down, self.down_factors = _quantised_parameters(shared.down)
        self.gate, self._act = shared.gate, shared.act

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """This rank's part, [n, D]."""
        hidden = gated(scaled_product(tokens, self.gate_up, self.gate_up_factors), self._act)
        part = scaled_product(hidden, self.down, self.down_factors)
        return (
            part
            if self.gate is None
            else part.mul_(nn.functional.linear(tokens, self.gate).sigmoid())
        )


class Float8Experts(Experts):
    """In place of all experts.

    A group of tokens at a time: CUDA's kernel for groups is not used.
    """

    def __init__(self, experts: Experts) -> None:
        """Quantise their weights."""
        nn.Module.__init__(self)
        self.gate_up, self.gate_up_factors = _quantised_parameters(experts.gate_up)
        self.down, self.down_factors = _quantised_parameters(experts.down)
        self.act = experts.act

    def products(self, rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        """What each row's expert makes of it: [m, D] to the same."""
        parts, start = [], 0
        for expert, end in enumerate(ends.tolist()):
            own = rows[start:end]
            hidden = scaled_product(own, self.gate_up[expert], self.gate_up_factors[expert])
            hidden = gated(hidden, self.act)
            parts.append(scaled_product(hidden, self.down[expert], self.down_factors[expert]))
            start = end
        return torch.cat(parts)


def in_float8(name: str, module: nn.Module) -> nn.Module | None:
    """What takes the place of a module with its weights; None where it stays.

    Args:
        name: of the module, by which projections are told from routers.
        module: has its weights.
    """
    projection = name.rpartition(".")[2] in {*COLUMNS, *ROWS, *WHOLE}
    match module:
        case RowParallelLinear():
            return Float8Linear(module, module.group)
        case nn.Linear() if projection:
            return Float8Linear(module, None)
        case Experts():
            return Float8Experts(module)
        case SharedExpert():
            return Float8Expert(module)
    return None


def _quantised_parameters(weight: torch.Tensor) -> tuple[nn.Parameter, nn.Parameter]:
    values, factors = quantised(weight)
    kind: Any = {"requires_grad": False}
    return nn.Parameter(values, **kind), nn.Parameter(factors, **kind)
