"""The IQ-Learn objective (Garg et al., NeurIPS 2021, arXiv:2106.12142), beside the paper.

    max_Q  E_E[phi(Q(s,a) - gamma V(s'))] - (1 - gamma) E_{s0}[V(s0)]          (eqs. 9 and 10)

With chi-squared, phi(x) = x - x²/(4 alpha), and minimised, this is three terms:

    -E_E[r]  +  value term  +  E_R[r²] / (4 alpha),        r = Q(s,a) - gamma (1 - terminated) V(s')

Each expectation is an argument here; which states it was taken over is the caller's choice (``agents/iq_learn.py``).
Every value has shape ``(batch,)``; the terms may be over batches of different sizes. ``terminated`` cuts the
bootstrap; a truncation never does. A coefficient is a number or a tensor of shape ``()``, as it is in a population.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Values = Float[Tensor, " batch"]
Coefficient = float | Float[Tensor, ""]


def implied_reward(
    q: Float[Tensor, "*critics batch"], next_value: Values, terminated: Values, discount: Coefficient
) -> Float[Tensor, "*critics batch"]:
    """r(s,a,s') = Q(s,a) - discount (1 - terminated) V(s'): the inverse soft Bellman operator (eq. 11).

    Args:
        q: Q(s, a), of several critics one row each.
        next_value: V(s').
        terminated: 1 where the episode ended in s' for good, else 0.
        discount: in [0, 1).
    """
    return q - discount * (1 - terminated) * next_value


def iq_loss(
    expert_reward: Values,
    value_term: Float[Tensor, ""],
    regularized_reward: Float[Tensor, " regularized"],
    chi2_alpha: Coefficient,
) -> Float[Tensor, ""]:
    """-E_E[r] + value term + E_R[r²] / (4 chi2_alpha), to be minimised (eq. 10 with chi-squared; eq. 12 offline).

    Args:
        expert_reward: r on transitions of the expert (the mean is over the expert's distribution).
        value_term: :func:`telescoped_value` over the expert's or the mixture's transitions, or :func:`initial_value`.
        regularized_reward: r on the transitions that the chi-squared term is taken over: the expert's (the paper
            offline) or the mixture's (the paper online; there the reward is bounded, by 4 chi2_alpha where the
            expert's are half of it, LS-IQ).
        chi2_alpha: the paper's alpha, positive; small means a strong penalty.
    """
    return -expert_reward.mean() + value_term + regularized_reward.square().mean() / (4 * chi2_alpha)


def separate_reward_loss(
    expert_reward: Values, other_reward: Float[Tensor, " others"], chi2_alpha: Coefficient
) -> Float[Tensor, ""]:
    """-E_E[r] + E_O[r] + (E_E[r²] + E_O[r²]) / (8 chi2_alpha), to be minimised in r itself.

    :func:`iq_loss` with other transitions in the place of the policy's own, so that no value is left in it, and the
    chi-squared term over equal halves whatever the shares of the batch.

    Args:
        expert_reward: r on transitions of the expert.
        other_reward: r on the others.
        chi2_alpha: as for :func:`iq_loss`; r is within 4 chi2_alpha of 0 at the optimum.
    """
    value_term = other_reward.mean()
    halves = [iq_loss(expert_reward, value_term, half, chi2_alpha) for half in (expert_reward, other_reward)]
    return (halves[0] + halves[1]) / 2


PHI: dict[str, Callable[[Values], Values]] = {
    "hellinger": lambda x: x / (1 + x),
    "kl": lambda x: -torch.exp(-x - 1),
    "reverse_kl": lambda x: 1 + torch.log(x),
    "jensen_shannon": lambda x: torch.log(2 - torch.exp(-x)),
    "total_variation": lambda x: x,
    "wasserstein": lambda x: x,
}
"""phi(x) = -f*(-x) of the other divergences d(policy, expert) (appendix B), by the f of each in ``docs/math.md``."""
_JENSEN_SHANNON = 1 / (2 * math.exp(-0.6) - 1)
PARABOLA = {
    "hellinger": (-0.9, 100.0, -2000.0),
    "kl": (-5.0, math.exp(4), -math.exp(4)),
    "reverse_kl": (0.1, 10.0, -100.0),
    "jensen_shannon": (-0.6, _JENSEN_SHANNON, -_JENSEN_SHANNON * (1 + _JENSEN_SHANNON)),
}
"""Above where phi ends (at -1, 0, -log 2) or grows without measure, and its two derivatives there."""


def phi(reward: Values, divergence: str) -> Values:
    """The concave function of a divergence other than chi-squared; phi' is d_policy / d_expert at the optimum.

    Below the first number of :data:`PARABOLA` it goes on as the parabola that touches it: finite, and its slope takes
    any value still, so that there is an optimum wherever the policy goes and the expert hardly does.
    """
    if divergence not in PARABOLA:
        return PHI[divergence](reward)
    lowest, slope, curvature = PARABOLA[divergence]
    below = (reward - lowest).clamp(max=0)
    return PHI[divergence](reward.clamp(min=lowest)) + slope * below + curvature / 2 * below.square()


def divergence_loss(
    expert_reward: Values, value_term: Float[Tensor, ""], divergence: str, violation: Float[Tensor, ""] | float
) -> Float[Tensor, ""]:
    """-E_E[phi(r)] + value term + a constraint's violation, to be minimised (eq. 9).

    Args:
        expert_reward: r on transitions of the expert.
        value_term: as for :func:`iq_loss`.
        divergence: a key of :data:`PHI`. Total variation and W1 have phi(x) = x, and bound the reward instead.
        violation: for total variation of |r| <= 1/2 (:func:`beyond_half`), for W1 of slopes at most 1; weighted.
    """
    return -phi(expert_reward, divergence).mean() + value_term + violation


def beyond_half(reward: Values) -> Float[Tensor, ""]:
    """E[max(0, |r| - 1/2)²]: by how much a reward leaves the bound that total variation is the supremum over."""
    return (reward.abs() - 0.5).clamp(min=0).square().mean()


def away_from_one(slopes: Float[Tensor, "batch inputs"]) -> Float[Tensor, ""]:
    """E[(|slope| - 1)²]: a gradient penalty (Gulrajani et al., 2017)."""
    return (slopes.square().sum(-1).add(1e-12).sqrt() - 1).square().mean()


def beyond_one(slopes: Float[Tensor, "batch inputs"]) -> Float[Tensor, ""]:
    """E[max(0, |slope| - 1)²]: the same on one side."""
    return (slopes.square().sum(-1).add(1e-12).sqrt() - 1).clamp(min=0).square().mean()


def beyond_slope(
    change: Values, distance: Float[Tensor, " batch"], largest: float, counted: Float[Tensor, " batch"]
) -> Float[Tensor, ""]:
    """E[max(0, |change| / (largest distance) - 1)²]: by how much a function is steeper than that between two points.

    Args:
        change: of the function, from one point to the other.
        distance: of the points, not negative.
        largest: slope that costs nothing, positive.
        counted: 1 for the pairs that count, else 0.
    """
    slope = change.abs() / (distance + 1e-6)
    return ((slope / largest - 1).clamp(min=0).square() * counted).mean()


def telescoped_value(value: Values, next_value: Values, terminated: Values, discount: Coefficient) -> Float[Tensor, ""]:
    """E_mu[V(s) - discount (1 - terminated) V(s')], which is (1 - discount) E[V(s0)] (corollary 2.1).

    Equal only where mu is the discounted occupancy of some policy with the same start states. Uniform sampling from
    finite episodes, as here and in the authors' experiments, gives (1 - discount) times the mean V plus terms at
    the ends of the episodes.
    """
    return (value - discount * (1 - terminated) * next_value).mean()


def initial_value(start_value: Values, discount: Coefficient) -> Float[Tensor, ""]:
    """(1 - discount) E_{s0}[V(s0)] over start states (eq. 9)."""
    return (1 - discount) * start_value.mean()


def soft_value(q: Values, log_probability: Values, temperature: Coefficient) -> Values:
    """V(s) = E_{a~pi}[Q(s,a) - temperature log pi(a|s)], by the one sample that q and log_probability come from."""
    return q - temperature * log_probability


def discrete_soft_value(q: Float[Tensor, "*batch actions"], temperature: Coefficient) -> Float[Tensor, "*batch"]:
    """V(s) = temperature logsumexp(Q(s,·) / temperature): the exact soft value for finitely many actions (eq. 3)."""
    return temperature * torch.logsumexp(q / temperature, dim=-1)


def soft_policy_loss(q: Values, log_probability: Values, temperature: Coefficient) -> Float[Tensor, ""]:
    """E_s[temperature log pi(a|s) - Q(s,a)]: minimised, pi moves towards exp(Q / temperature) (section 4.2)."""
    return (temperature * log_probability - q).mean()


def sqil_loss(
    expert_reward: Values, other_reward: Float[Tensor, " others"], other_weight: Coefficient
) -> Float[Tensor, ""]:
    """E_E[(r - 1)²] + other_weight E_S[r²], to be minimised: squared soft Bellman errors for rewards of 1 and 0.

    SQIL (Reddy et al., ICLR 2020, arXiv:1905.11108, algorithm 1; other_weight is its lambda_samp). With equal halves
    it is twice :func:`iq_loss` at chi2_alpha 1/4 on the mixture without the value term, and 1.

    Args:
        expert_reward: r = Q(s,a) - discount (1 - terminated) V(s') on transitions of the expert.
        other_reward: r on all other transitions: suboptimal data, or the policy's own.
        other_weight: not negative.
    """
    return (expert_reward - 1).square().mean() + other_weight * other_reward.square().mean()
