"""IQ-Learn as least squares, after LS-IQ (Al-Hafez et al., ICLR 2023, arXiv:2303.00599).

With the expert's share b of the mixture, and the other data in the place of the policy's own, the square completes:

    -E_E[r] + E_S[r] + E_mix[r²] / (4 alpha)
        = b/(4 alpha) E_E[(r - r_max)²] + (1-b)/(4 alpha) E_S[(r - r_min)²] - alpha/b - alpha/(1-b),

    r_max = 2 alpha / b,    r_min = -2 alpha / (1 - b).

So the objective is a squared Bellman error with these two rewards, and its optimum 2 alpha (d_E - d_S) / d_mix lies
between them. At equal halves they are ±4 alpha, which is ±1/c in the paper (c = 1 / (4 alpha)). Whoever earns r for
ever has r / (1 - discount): that bounds the values, is what an absorbing state is worth, and what an expert's Q is at
most.
"""

from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from iq_offline.learning.objective import Values

Number = TypeVar("Number", float, Tensor)


def reward_bounds(chi2_alpha: Number, expert_share: float) -> tuple[Number, Number]:
    """(r_min, r_max): the rewards of transitions that the expert never makes, and that nobody else does.

    Args:
        chi2_alpha: positive.
        expert_share: of the mixture that the chi-squared term is over, in (0, 1).
    """
    return -2 * chi2_alpha / (1 - expert_share), 2 * chi2_alpha / expert_share


def value_bounds(chi2_alpha: Number, expert_share: float, discount: Number) -> tuple[Number, Number]:
    """(Q_min, Q_max): what the rewards at their bounds add up to for ever, r / (1 - discount).

    Args:
        chi2_alpha: positive.
        expert_share: of the mixture, in (0, 1).
        discount: in [0, 1).
    """
    lowest, highest = reward_bounds(chi2_alpha, expert_share)
    return lowest / (1 - discount), highest / (1 - discount)


def absorbed(next_value: Values, terminated: Values, forever: Values) -> Values:
    """V(s') where the episode goes on, and the value of staying in s' for ever where it ended.

    Args:
        next_value: V(s').
        terminated: 1 where the episode ended in s' for good, else 0.
        forever: what is earned there, over 1 - discount.
    """
    return torch.where(terminated > 0, forever, next_value)


def fixed_target_loss(
    expert_q: Values,
    value_term: Float[Tensor, ""],
    other_reward: Float[Tensor, " others"],
    chi2_alpha: Number,
    expert_share: float,
    discount: Number,
) -> Float[Tensor, ""]:
    """b/(4 alpha) E_E[(Q - Q_max)²] + value term + (1-b)/(4 alpha) E_S[r²], to be minimised.

    :func:`~iq_offline.learning.objective.iq_loss` with the expert's target, r_max + discount V(s'), replaced by the
    best that can come of it, Q_max = r_max / (1 - discount): nothing of the expert's is bootstrapped.

    Args:
        expert_q: Q on transitions of the expert.
        value_term: as for :func:`~iq_offline.learning.objective.iq_loss`.
        other_reward: r on the rest of the mixture.
        chi2_alpha: positive.
        expert_share: b.
        discount: in [0, 1).
    """
    _, highest = value_bounds(chi2_alpha, expert_share, discount)
    expert = expert_share * (expert_q - highest).square().mean()
    others = (1 - expert_share) * other_reward.square().mean()
    return (expert + others) / (4 * chi2_alpha) + value_term
