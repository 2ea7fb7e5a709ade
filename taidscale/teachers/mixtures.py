"""Where a trunk of transformers has mixtures of experts, and ours in their place."""

from typing import Any

import torch.distributed as dist
from torch import nn
from transformers import PretrainedConfig

from taidscale.models.reads import Read, Reads
from taidscale.models.stored_names import expert_names
from taidscale.teachers.experts import Experts, MixtureOfExperts, SharedExpert
from taidscale.teachers.routing import Router, routing_of
from taidscale.teachers.shares import Share, length


def is_mixture(module: nn.Module) -> bool:
    """Whether a module of transformers holds experts and chooses among them."""
    return hasattr(module, "experts") and hasattr(module, "gate")


def replace_mixture(
    trunk: nn.Module,
    name: str,
    architecture: PretrainedConfig,
    share: Share,
    group: dist.ProcessGroup | None,
    prefix: str,
) -> Reads:
    """Put this rank's part of our mixture where transformers' is, its parameters on meta.

    Args:
        trunk: is changed.
        name: of the mixture in it.
        architecture: of the model.
        share: of this rank.
        group: of the ranks that hold the rest; None if there are none.
        prefix: of the trunk's names in files.

    Returns:
        What each of its parameters is read from.
    """
    theirs: Any = trunk.get_submodule(name)
    mixtral = architecture.model_type == "mixtral"
    files = expert_names(architecture.model_type)
    layer, _, attribute = name.rpartition(".")
    in_files = f"{prefix}.{layer}.{files.block}"
    routing = routing_of(architecture)
    width = architecture.intermediate_size if mixtral else architecture.moe_intermediate_size
    columns = share.columns(width)
    size, act = architecture.hidden_size, architecture.hidden_act
    weight, gate = next(theirs.experts.parameters()), theirs.gate.weight  # 5 may have it in float32
    kind: Any = {"dtype": weight.dtype, "device": weight.device}
    router = Router(routing, size, **{**kind, "dtype": gate.dtype})
    experts = Experts(routing.num_experts, size, length(columns), act, **kind)
    reads = {f"{name}.router.weight": [Read(f"{in_files}.gate.weight")]}
    if routing.by_sigmoid:
        bias = "e_score_correction_bias"
        reads[f"{name}.router.{bias}"] = [Read(f"{in_files}.gate.{bias}")]
    reads |= {
        f"{name}.experts.gate_up": [
            Read(f"{in_files}.experts.{expert}.{part}.weight", columns)
            for expert in range(routing.num_experts)
            for part in (files.gate, files.up)
        ],
        f"{name}.experts.down": [
            Read(f"{in_files}.experts.{expert}.{files.down}.weight", columns, dim=1)
            for expert in range(routing.num_experts)
        ],
    }
    shared, more = _shared_expert(theirs, name, in_files, share, act, kind)
    pair = attribute == "block_sparse_moe"
    ours = MixtureOfExperts(router, experts, shared, group, with_logits=pair)
    trunk.set_submodule(name, ours.requires_grad_(False).eval())
    return reads | more


def _shared_expert(
    theirs: Any, name: str, in_files: str, share: Share, act: str, kind: dict[str, Any]
) -> tuple[SharedExpert | None, Reads]:
    for called in ("shared_expert", "shared_experts"):
        if hasattr(theirs, called):
            mlp = getattr(theirs, called)
            columns = share.columns(mlp.gate_proj.out_features)
            gated = hasattr(theirs, "shared_expert_gate")
            shared = SharedExpert(
                mlp.gate_proj.in_features, length(columns), act, has_gate=gated, **kind
            )
            reads = {
                f"{name}.shared.gate_up": [
                    Read(f"{in_files}.{called}.{part}.weight", columns)
                    for part in ("gate_proj", "up_proj")
                ],
                f"{name}.shared.down": [
                    Read(f"{in_files}.{called}.down_proj.weight", columns, dim=1)
                ],
            }
            if gated:
                reads[f"{name}.shared.gate"] = [Read(f"{in_files}.shared_expert_gate.weight")]
            return shared, reads
    return None, {}
