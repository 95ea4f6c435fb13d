"""The ValueDICE objective (Kostrikov et al., ICLR 2020, arXiv:1912.05032), beside the paper.

The policy whose occupancy is the expert's is the one for which this is 0, its largest value:

    -KL(d_pi || d_E)  =  min_x  log E_E[exp x(s,a)] - E_pi[x(s,a)]                       (Donsker and Varadhan; eq. 7)

E_pi needs the policy's own transitions, which nobody has offline. With x = nu - B nu, where B nu(s,a) is
gamma E[nu(s',a')] over s' and a' ~ pi(·|s'), the sum over the policy's occupancy telescopes to its start:

    max_pi min_nu  log E_E[exp(nu(s,a) - B nu(s,a))] - (1 - gamma) E_{s0, a0~pi}[nu(s0,a0)]         (eqs. 10 and 11)

At the optimum nu - B nu is log d_pi/d_E and a constant: nu is what the policy's way from (s,a) on will cost, and -nu
takes the place of Q. With other data S in both of the distributions that are compared, in the share alpha,

    -KL((1 - alpha) d_pi + alpha d_S || (1 - alpha) d_E + alpha d_S)  =  min_nu
        log((1 - alpha) E_E[exp x] + alpha E_S[exp x]) - (1 - alpha)(1 - gamma) E_{s0, a0~pi}[nu] - alpha E_S[x]

(the paper's replay regularisation): S is seen by the logarithm and by the linear term alike, so that the optimum is
the same, pi as the expert, and x is log of the ratio of the two mixtures.

**Absorbing states.** Both distributions have to add up to 1. Where episodes end for good, the rest of the mass is in
an absorbing state; without it, cutting the bootstrap alone would let x grow without bound, as E_pi[1] would be smaller
than E_E[1] (``tests/learning/test_dice.py``). There nu is 0, which fixes its constant, and so is x:
:func:`with_absorbing_state` adds the state to the data without a network that looks at it.

**Start states.** Rows are drawn uniformly. Over long episodes that is an occupancy of which each part goes over into
the next, d = (1 - gamma) d + gamma P d: the discounted occupancy for starts that are distributed as d itself. So it is
all of the expert's states that belong in the place of s0 (the authors' experiments do it, too); with true start
states the rows would have to be weighted by gamma^t.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from iq_offline.learning.objective import Coefficient, Values

Measure = tuple[Float[Tensor, " _"], Float[Tensor, " _"]]
"""Values of something, and the shares of a distribution that they have; the shares add up to 1."""


def with_absorbing_state(values: Values, terminated: Values, discount: Coefficient) -> Measure:
    """Rows as a distribution, with the absorbing states that terminated ones lead to, where nu and log ratio are 0.

    A row weighs 1, an absorbing state discount / (1 - discount): the discounted time after the row.

    Args:
        values: nu or its log ratio of each row.
        terminated: 1 where the row's episode ended for good, else 0.
        discount: in [0, 1).
    """
    shares = torch.cat([torch.ones_like(terminated), terminated * discount / (1 - discount)])
    return torch.cat([values, torch.zeros_like(values)]), shares / shares.sum()


def mean(of: Measure) -> Float[Tensor, ""]:
    """The expectation."""
    values, shares = of
    return (values * shares).sum()


def log_mean_exp(of: Measure) -> Float[Tensor, ""]:
    """Log E[exp(·)], without overflow; what has no share does not count."""
    values, shares = of
    return torch.logsumexp(values + shares.log(), 0)


def valuedice_objective(
    expert: Measure,
    start_nu: Float[Tensor, ""],
    discount: Coefficient,
    other: Measure | None = None,
    alpha: Coefficient = 0.0,
) -> Float[Tensor, ""]:
    """Log E[exp x] - E_pi[x], to be minimised in nu and maximised in the policy; see above.

    Args:
        expert: x = nu(s,a) - discount (1 - terminated) nu(s',a') on the expert's transitions, a' by the policy
            (:func:`~iq_offline.learning.objective.implied_reward` of nu); E_E is over these.
        start_nu: E[nu(s0,a0)] over start states, a0 by the policy.
        discount: in [0, 1).
        other: x on the other data's transitions, E_S.
        alpha: their share in both distributions, in [0, 1).
    """
    at_start = (1 - discount) * start_nu
    if other is None:
        return log_mean_exp(expert) - at_start
    both = torch.cat([expert[0], other[0]]), torch.cat([(1 - alpha) * expert[1], alpha * other[1]])
    return log_mean_exp(both) - (1 - alpha) * at_start - alpha * mean(other)


def off_orthogonal(weight: Float[Tensor, "*members outputs inputs"]) -> Float[Tensor, ""]:
    """The sum of squared products of different units' weights (Brock et al., ICLR 2019, eq. 3); of members the mean.

    Not their sum: the objective reaches each of several that act together by their mean action, which is a share of it.
    """
    products = weight @ weight.mT
    return (products.square().sum((-2, -1)) - products.diagonal(dim1=-2, dim2=-1).square().sum(-1)).mean()
