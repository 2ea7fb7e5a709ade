"""What else computes these losses: full logits and autograd, the TAID repository, Liger-Kernel.

Each takes a problem and an objective's name and returns the loss of a token, from which
gradient reaches the student's hidden states and head. Nothing of the two projects is kept
here: their own code is fetched and called.

Shapes: N tokens, V vocabulary entries, Ds and Dt the hidden sizes of student and teacher.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch

CACHE = Path.home() / ".cache" / "taidscale"
TAID_URL = "https://github.com/SakanaAI/TAID"
LIGER = "liger-kernel==0.8.5"

T_VALUE, BETA, SKEW = 0.4, 0.5, 0.1
HEAD_MASS, NON_TARGET_WEIGHT = 0.5, 0.5
ALPHA, ALPHA_BETA = 0.5, (0.2, 0.7)
"""The objectives' parameters: what the configuration has by default, and t where it starts."""


@dataclass(frozen=True)
class Problem:
    """What a loss is given; gradient reaches `hidden` and `weight`."""

    hidden: torch.Tensor
    """[N, Ds]."""
    weight: torch.Tensor
    """[V, Ds]."""
    teacher_hidden: torch.Tensor
    """[N, Dt]."""
    teacher_weight: torch.Tensor
    """[V, Dt]."""
    labels: torch.Tensor
    """[N] int64; all tokens have one."""

    def to(self, dtype: torch.dtype) -> "Problem":
        """The same numbers in another type, gradients apart."""
        floats = {
            name: value.detach().to(dtype, copy=True).requires_grad_(value.requires_grad)
            for name, value in vars(self).items()
            if value.is_floating_point()
        }
        return replace(self, **floats)

    def logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Student's and teacher's: [N, V] each; gradient reaches the student's."""
        with torch.no_grad():
            teacher = self.teacher_hidden @ self.teacher_weight.t()
        return self.hidden @ self.weight.t(), teacher


def dense(problem: Problem, objective: str) -> torch.Tensor:
    """Full logits and autograd, as one would write it down; the arithmetic is in float32."""
    student, teacher = (logits.float() for logits in problem.logits())
    return DENSE[objective](student, teacher, problem.labels).mean()


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return (log_p.exp() * (log_p - log_q)).sum(1)


def _taid(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    mixed = (1 - T_VALUE) * z_s.detach() + T_VALUE * z_t
    return _kl(mixed.log_softmax(1), z_s.log_softmax(1))


def _forward_kl(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return _kl(z_t.log_softmax(1), z_s.log_softmax(1))


def _reverse_kl(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return _kl(z_s.log_softmax(1), z_t.log_softmax(1))


def _jensen_shannon(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    log_p, log_q = z_t.log_softmax(1), z_s.log_softmax(1)
    log_m = (BETA * log_p.exp() + (1 - BETA) * log_q.exp()).log()
    return BETA * _kl(log_p, log_m) + (1 - BETA) * _kl(log_q, log_m)


def _skew_forward_kl(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    log_p = z_t.log_softmax(1)
    return _kl(log_p, (SKEW * log_p.exp() + (1 - SKEW) * z_s.softmax(1)).log())


def _skew_reverse_kl(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    log_q = z_s.log_softmax(1)
    return _kl(log_q, (SKEW * log_q.exp() + (1 - SKEW) * z_t.softmax(1)).log())


def _total_variation(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    return (z_t.softmax(1) - z_s.softmax(1)).abs().sum(1) / 2


def _adaptive_kl(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    log_p, log_q = z_t.log_softmax(1), z_s.log_softmax(1)
    with torch.no_grad():
        likeliest, order = log_p.exp().sort(1, descending=True)
        in_head = (likeliest.cumsum(1) - likeliest < HEAD_MASS).to(likeliest)
        gap = (log_p.exp() - log_q.exp()).abs()
        share = (gap.gather(1, order) * in_head).sum(1) / gap.sum(1)
    return share * _kl(log_p, log_q) + (1 - share) * _kl(log_q, log_p)


def _decoupled_kl(z_s: torch.Tensor, z_t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    at = labels[:, None]
    p, q = z_t.softmax(1).gather(1, at)[:, 0], z_s.softmax(1).gather(1, at)[:, 0]
    target = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    others = [z.scatter(1, at, -1e30).log_softmax(1) for z in (z_t, z_s)]
    return target + NON_TARGET_WEIGHT * _kl(*others)


def _alpha_beta(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    (a, b), p, q = ALPHA_BETA, z_t.softmax(1), z_s.softmax(1)
    terms = a * p ** (a + b) + b * q ** (a + b) - (a + b) * p**a * q**b
    return terms.sum(1) / (a * b * (a + b))


def _alpha_mixture(z_s: torch.Tensor, z_t: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    a, log_q = (1 - ALPHA) / 2, z_s.log_softmax(1)
    with torch.no_grad():
        powers = T_VALUE * (a * z_t.log_softmax(1)).exp() + (1 - T_VALUE) * (a * log_q).exp()
        log_r = (powers.log() / a).log_softmax(1)
    return _kl(log_r, log_q)


DENSE: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "taid": _taid,
    "forward_kl": _forward_kl,
    "reverse_kl": _reverse_kl,
    "jensen_shannon": _jensen_shannon,
    "skew_forward_kl": _skew_forward_kl,
    "skew_reverse_kl": _skew_reverse_kl,
    "total_variation": _total_variation,
    "adaptive_kl": _adaptive_kl,
    "decoupled_kl": _decoupled_kl,
    "alpha_beta": _alpha_beta,
    "alpha_mixture": _alpha_mixture,
}
"""Divergence of each token, [N], from float32 logits and labels; by name in the configuration."""

REFERENCE: dict[str, tuple[str, dict[str, float]]] = {
    "taid": ("TAID", {}),
    "forward_kl": ("ForwardKL", {}),
    "reverse_kl": ("ReverseKL", {}),
    "jensen_shannon": ("JS", {"teacher_weight": BETA}),
    "skew_forward_kl": ("SkewForwardKL", {"target_weight": SKEW}),
    "skew_reverse_kl": ("SkewReverseKL", {"target_weight": SKEW}),
    "total_variation": ("TVD", {}),
    "adaptive_kl": ("AdaptiveKL", {"head_threshold": HEAD_MASS}),
    "decoupled_kl": ("DKD", {"alpha": 1.0, "beta": NON_TARGET_WEIGHT}),
}
"""The TAID repository's class for an objective, and its parameters."""

ENTROPY = "its loss leaves out the target's entropy, a constant: only gradients are compared"
REFERENCE_NOTES = {
    "taid": ENTROPY,
    "forward_kl": ENTROPY,
    "skew_forward_kl": ENTROPY,
    "adaptive_kl": "applies the head's mask in the order of the sort, lets gradient through the "
    "weights: another loss, nothing is compared",
    "decoupled_kl": "divides by all tokens, masked ones too; here none is masked",
}
"""Where the repository's loss differs on purpose or by mistake."""

LIGER_BETAS = {"forward_kl": 0.0, "jensen_shannon": BETA, "reverse_kl": 1.0}
"""Liger's generalised Jensen-Shannon divergence has the two KLs as its ends."""


def reference(problem: Problem, objective: str, checkout: Path) -> torch.Tensor:
    """The TAID repository's own loss of full logits.

    Args:
        problem: see there.
        objective: one of `REFERENCE`.
        checkout: of the repository.
    """
    losses = _taid_losses(checkout)
    name, parameters = REFERENCE[objective]
    student, teacher = problem.logits()
    mask = torch.ones_like(problem.labels)
    if objective == "taid":
        # Its constructor puts t on a GPU, and its `forward` would also move t.
        loss = losses.TAID.__new__(losses.TAID)
        torch.nn.Module.__init__(loss)
        loss.t = torch.tensor(T_VALUE, device=student.device)
        return _scalar(loss.compute_loss(student, teacher, mask))
    labels = torch.nn.functional.pad(problem.labels, (1, 0))  # it drops the first
    return _scalar(
        getattr(losses, name)(**parameters)(
            lightning_module=SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=0)),
            logits=student,
            teacher_logits=teacher,
            mask=mask,
            batch={"model_inputs": {"labels": labels}},
        )
    )


def comparable(objective: str) -> tuple[str, ...]:
    """What of the reference must agree with dense."""
    if objective == "adaptive_kl":
        return ()
    gradients = ("d_hidden", "d_weight")
    return gradients if REFERENCE_NOTES.get(objective) == ENTROPY else ("loss", *gradients)


def liger(problem: Problem, objective: str) -> torch.Tensor:
    """Liger-Kernel's chunked distillation loss, compiled on a GPU, as it comes."""
    losses: Any = import_module("liger_kernel.chunked_loss")
    loss = losses.LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0,
        weight_soft_loss=1.0,
        beta=LIGER_BETAS[objective],
        compiled=problem.hidden.is_cuda,
    )
    return _scalar(loss(*_for_liger(problem)))


def liger_triton(problem: Problem, objective: str) -> torch.Tensor:
    """Liger-Kernel's fused head with a Triton kernel, as it comes; CUDA alone."""
    losses: Any = import_module("liger_kernel.transformers.fused_linear_jsd")
    return _scalar(losses.LigerFusedLinearJSD(LIGER_BETAS[objective])(*_for_liger(problem)))


def _for_liger(problem: Problem) -> tuple[torch.Tensor, ...]:
    student = (problem.hidden, problem.weight)
    return (*student, problem.teacher_hidden, problem.teacher_weight, problem.labels)


def _scalar(loss: Any) -> torch.Tensor:
    assert isinstance(loss, torch.Tensor)
    return loss


def fetch_taid(source: Path | None, folder: Path) -> Path:
    """A checkout of the TAID repository.

    Args:
        source: a checkout or a bare repository; by default it is cloned, once.
        folder: where a bare repository is checked out.
    """
    if source is None:
        folder = CACHE / "TAID"
    elif (source / "src" / "distil_losses").is_dir():
        return source
    if not folder.exists():
        url = TAID_URL if source is None else source.resolve().as_uri()
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", url, folder], check=True)
    return folder


def fetch_liger() -> None:
    """Make Liger-Kernel importable, here and in processes started from here."""
    folder = CACHE / "liger"
    if folder.exists() and str(folder) not in sys.path:
        sys.path.append(str(folder))
    if find_spec("liger_kernel") is None:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", folder, LIGER], check=True)
        sys.path.append(str(folder))


@cache
def _taid_losses(checkout: Path) -> Any:
    """The repository's `distil_losses`, unchanged."""
    if find_spec("lightning") is None:
        # They import it for an annotation of a type only; nothing that is measured is replaced.
        for name in ("lightning", "lightning.pytorch"):
            stub: Any = ModuleType(name)
            stub.LightningModule = torch.nn.Module
            sys.modules[name] = stub
    package = checkout / "src" / "distil_losses"
    spec = spec_from_file_location(
        "taid_losses", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
