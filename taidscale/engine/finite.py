"""Steps that are not finite: where it began on this rank, and that they change nothing.

Shapes: B sequences of S tokens per rank, Dt the teacher's hidden size.
"""

from functools import partial
from typing import Any

import torch
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from torch import nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from taidscale.engine.private import private
from taidscale.health.nonfinite import Kind, Sign


class FiniteWatch:
    """Sums of what flows through the student, in the order of the flow.

    A sum is finite only if all that it adds up is. The sums stay on the device, and nobody looks
    at them until a step has turned out not to be finite: then the first bad one tells the place.
    Gradients are seen as autograd makes them, before they are added to those of other
    micro-batches and of other ranks.

    Cost: no collectives; one kernel per tensor and micro-batch, which reads it once.
    Memory: 512 bytes per tensor of one micro-batch on a GPU, and 1 of each earlier one.
    """

    def __init__(self, module: nn.Module, layers: nn.ModuleList) -> None:
        """Watch the gradient of every parameter and the output of every layer.

        Args:
            module: whose parameters are trained; also those that ZeRO-3 has partitioned.
            layers: of it, in the order in which data flow through them.
        """
        self._places: list[tuple[Kind, str]] = []
        self._sums: list[torch.Tensor] = []  # of the present micro-batch, one for each place
        self._seen: list[tuple[list[tuple[Kind, str]], torch.Tensor]] = []
        self._step_is_done = True
        names = {layer: name for name, layer in module.named_modules()}
        for layer in layers:
            layer.register_forward_hook(partial(self._see_output, names[layer]))
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(partial(self.see, "gradient", name))  # type: ignore[no-untyped-call]

    def start_micro_batch(self) -> None:
        """Before its forward; the first one after a step forgets that step."""
        if self._step_is_done:
            self._seen, self._step_is_done = [], False
        else:
            self._end_micro_batch()

    def end_step(self) -> None:
        """After the backward of the last micro-batch."""
        self._end_micro_batch()
        self._step_is_done = True

    def see(self, kind: Kind, place: str, tensor: torch.Tensor) -> None:
        """Remember whether `tensor`, of any shape and floating type, is finite."""
        with torch.no_grad():
            self._sums.append(tensor.sum(dtype=torch.float32))
        self._places.append((kind, place))

    def first_signs(self) -> list[Sign]:
        """The first bad place of each micro-batch of the last step that has one.

        On a GPU it waits for all that was computed.
        """
        signs = []
        for number, (places, finite) in enumerate(self._seen):
            if not finite.all():
                signs.append(Sign(number, *places[finite.tolist().index(False)]))
        return signs

    def _end_micro_batch(self) -> None:
        places, self._places = self._places, []
        if self._seen and self._seen[-1][0] == places:
            places = self._seen[-1][0]  # as ever: one list for all
        self._seen.append((places, torch.stack(self._sums).isfinite()))
        self._sums = []

    def _see_output(self, name: str, layer: nn.Module, _: Any, output: Any) -> None:
        if layer.training:
            self.see("student", name, output[0] if isinstance(output, tuple) else output)


def clip_or_drop(module: nn.Module, max_norm: float) -> float:
    """At stage 0, what ZeRO's optimizers do of themselves: clip the gradient, or skip the step.

    Args:
        module: whose gradients are averaged over the ranks, and whole.
        max_norm: its largest L2 norm; 0 turns clipping off.

    Returns:
        The norm before; where it is not finite, there are no gradients any more.
    """
    parameters = [p for p in module.parameters() if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    if not norm.isfinite():
        module.zero_grad(set_to_none=True)
    elif max_norm:
        clip_grads_with_norm_(parameters, max_norm, norm)
    return float(norm)


def forget_skipped_gradients(optimizer: Any) -> None:
    """After a step that DeepSpeed skipped.

    It forgets them itself, except at stages 1 and 2 in bf16 with offload: there it would add the
    next gradients to them, and no step would ever be finite again.
    """
    if isinstance(optimizer, DeepSpeedZeroOptimizer) and private(optimizer, "cpu_offload"):
        gradients = private(optimizer, "averaged_gradients", dict)
        for group in gradients:
            gradients[group] = None
