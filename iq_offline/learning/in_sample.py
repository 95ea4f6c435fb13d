"""Values and policies from the data's own actions alone, never from one that nobody took.

The two regressions of implicit Q-learning (Kostrikov, Nair and Levine, ICLR 2022, arXiv:2110.06169), which ReCOIL
(Sikchi et al., ICLR 2024, arXiv:2302.08560) has, too.
"""

from jaxtyping import Float
from torch import Tensor

from iq_offline.learning.objective import Coefficient, Values

LARGEST_WEIGHT = 100.0
"""At which the weights of both papers are cut off."""


def expectile_loss(value: Values, q: Values, expectile: Coefficient) -> Float[Tensor, ""]:
    """E[|expectile - 1(Q < V)| (Q - V)²], to be minimised in V (implicit Q-learning, eq. 5).

    Its minimum over V(s) is that expectile of Q(s, a) over the data's actions: the mean at 1/2, and towards 1 the
    largest that is there.

    Args:
        value: V(s).
        q: Q(s, a) at actions of the data, fixed.
        expectile: in (0, 1).
    """
    error = q - value
    return ((expectile - (error < 0).to(error.dtype)).abs() * error.square()).mean()


def advantage_weights(q: Values, value: Values, temperature: Coefficient) -> Values:
    """exp((Q - V) / temperature), at most 100 (advantage-weighted regression; implicit Q-learning, eq. 7).

    The policy in which these weigh the data's actions is the best that stays as near to the data as the temperature
    asks for (Peng et al., 2019, arXiv:1910.00177).
    """
    return ((q - value) / temperature).exp().clamp(max=LARGEST_WEIGHT)
