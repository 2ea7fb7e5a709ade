"""One of each divergence."""

from taidscale.losses.divergence import Divergence
from taidscale.losses.objectives.adaptive_kl import AdaptiveKL
from taidscale.losses.objectives.alpha_beta import AlphaBeta
from taidscale.losses.objectives.alpha_mixture import AlphaMixture
from taidscale.losses.objectives.decoupled_kl import DecoupledKL
from taidscale.losses.objectives.jensen_shannon import JensenShannon
from taidscale.losses.objectives.reverse_kl import ReverseKL
from taidscale.losses.objectives.skew_kl import SkewForwardKL, SkewReverseKL
from taidscale.losses.objectives.taid import Taid
from taidscale.losses.objectives.total_variation import TotalVariation

DIVERGENCES: dict[str, Divergence] = {
    "taid": Taid(0.4),
    "forward kl": Taid(1.0),
    "reverse kl": ReverseKL(),
    "jensen-shannon 0.5": JensenShannon(0.5),
    "jensen-shannon 0.1": JensenShannon(0.1),
    "skew forward kl": SkewForwardKL(0.1),
    "skew reverse kl": SkewReverseKL(0.1),
    "total variation": TotalVariation(),
    "adaptive kl": AdaptiveKL(0.5),
    "decoupled kl": DecoupledKL(1.0, 0.5),
    "α-β": AlphaBeta(0.2, 0.7),
    "α-mixture 0.5": AlphaMixture(0.5, 0.4, "mixture_to_student"),
    "α-mixture -1, learnt": AlphaMixture(-1.0, 0.1, "teacher_to_mixture"),
    "α-mixture 3, learnt": AlphaMixture(3.0, 0.3, "teacher_to_mixture"),
}
"""One of each, with the parameters that are usual."""
