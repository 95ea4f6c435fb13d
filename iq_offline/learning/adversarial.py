"""GAIL's two players (Ho and Ermon, NeurIPS 2016, arXiv:1606.03476), beside the paper.

    max_D  E_E[log D(s,a)] + E_pi[log(1 - D(s,a))],        D = sigmoid(logit)          (eq. 15, its D is 1 - D here)

and the policy maximises the sum of r = -log(1 - D), which is never negative: what ends an episode for good is worth 0,
the worst there is. At the optimum of D the logit is log d_E/d_pi. As in Discriminator-Actor-Critic (Kostrikov et al.,
ICLR 2019, arXiv:1809.02925) E_pi is over all that was ever collected, uncorrected, and the slopes are held to 1.
"""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from iq_offline.learning.objective import Values


def discriminator_loss(expert_logit: Values, other_logit: Float[Tensor, " others"]) -> Float[Tensor, ""]:
    """-E_E[log D] - E_S[log(1 - D)], to be minimised.

    Args:
        expert_logit: on the expert's transitions.
        other_logit: on the policy's, and on suboptimal data.
    """
    return softplus(-expert_logit).mean() + softplus(other_logit).mean()


def adversarial_reward(logit: Values) -> Values:
    """-log(1 - D), in [0, infinity)."""
    return softplus(logit)
