"""The ValueDICE objective, against occupancies that can be counted."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from iq_offline.learning.dice import log_mean_exp, mean, off_orthogonal, valuedice_objective, with_absorbing_state
from iq_offline.learning.objective import implied_reward
from tests.learning.test_objective import ACTIONS, DISCOUNT, STATES, Tabular, process, random_policy

__all__ = ["process"]


def log_ratio(nu: Tensor, policy: Tensor, process: Tabular) -> Tensor:
    """Values nu - B nu of every state and action, with exact expectations over s' and a'."""
    following = process.transition @ (policy * nu).sum(-1)
    zeros = torch.zeros(STATES * ACTIONS).double()
    return implied_reward(nu.reshape(-1), following.reshape(-1), zeros, DISCOUNT)


def objective(nu: Tensor, policy: Tensor, expert: Tensor, process: Tabular, other: Tensor, alpha: float) -> Tensor:
    """The package's, where E_E and E_S are over the occupancies ``expert`` and ``other``."""
    x = log_ratio(nu, policy, process)
    start = (process.start * (policy * nu).sum(-1)).sum()
    others = (x, other.reshape(-1)) if alpha else None
    return valuedice_objective((x, expert.reshape(-1)), start, DISCOUNT, others, alpha)


def lowest(of: Callable[[Tensor], Tensor], *shape: int) -> tuple[Tensor, float]:
    """Where a convex function of so many numbers is lowest, and how low."""
    at = torch.zeros(shape).double().requires_grad_()
    solver = torch.optim.LBFGS(
        [at], max_iter=2000, tolerance_grad=1e-11, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> float:
        solver.zero_grad()
        value = of(at)
        value.backward()
        return value  # type: ignore[return-value]

    solver.step(closure)
    return at.detach(), of(at).item()


def divergence(one: Tensor, other: Tensor) -> Tensor:
    return (one * (one / other).log()).sum()


@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.7])
def test_the_lowest_value_is_the_divergence_and_x_the_log_ratio(alpha: float, process: Tabular):
    """Of the two mixtures, where the other data are in both."""
    policy, expert, other = random_policy(0), process.occupancy(random_policy(1)), process.occupancy(random_policy(2))
    mine = (1 - alpha) * process.occupancy(policy) + alpha * other
    theirs = (1 - alpha) * expert + alpha * other
    nu, value = lowest(lambda nu: objective(nu, policy, expert, process, other, alpha), STATES, ACTIONS)
    assert value == pytest.approx(-divergence(mine, theirs).item(), abs=1e-9)
    assert abs(value) > 0.01
    apart = log_ratio(nu, policy, process).view(STATES, ACTIONS) - (mine / theirs).log()
    torch.testing.assert_close(apart, apart.mean().expand_as(apart), rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_the_policy_climbs_towards_the_expert(alpha: float, process: Tabular):
    """At the lowest nu the gradient through a' and a0 is that of minus the divergence, by finite differences."""
    expert_policy = random_policy(1)
    expert, other = process.occupancy(expert_policy), process.occupancy(random_policy(2))

    def negative_divergence(logits: Tensor) -> float:
        mine = (1 - alpha) * process.occupancy(torch.softmax(logits, -1)) + alpha * other
        return -divergence(mine, (1 - alpha) * expert + alpha * other).item()

    for logits, is_expert in ((random_policy(0).log(), False), (expert_policy.log(), True)):
        policy = torch.softmax(logits, -1)
        nu, _ = lowest(lambda nu, policy=policy: objective(nu, policy, expert, process, other, alpha), STATES, ACTIONS)
        at = logits.clone().requires_grad_()
        value = objective(nu, torch.softmax(at, -1), expert, process, other, alpha)
        (gradient,) = torch.autograd.grad(value, at)
        assert (gradient.abs().max() < 1e-6) == is_expert
        for state in range(STATES):
            for action in range(ACTIONS):
                step = torch.zeros_like(logits)
                step[state, action] = 1e-5
                difference = (negative_divergence(logits + step) - negative_divergence(logits - step)) / 2e-5
                assert gradient[state, action].item() == pytest.approx(difference, abs=1e-6)


# -------------------------------------------------------------------------------------------------- absorbing states

STEPS = 6


def on_an_episode(nu: Tensor) -> tuple[Tensor, Tensor]:
    """Of one terminated episode with one action: the log ratio of its rows, and which of them ends it."""
    terminated = torch.zeros(STEPS).double()
    terminated[-1] = 1
    following = torch.cat([nu[1:], torch.full((1,), 1e6).double()])  # Whatever nu says there, it must not count.
    return implied_reward(nu, following, terminated, DISCOUNT), terminated


def test_a_terminated_episode_with_its_absorbing_state_is_solved():
    """Rows and the absorbing state as data, all of them as starts, exact occupancies by hand.

    d is 1 for each row and w = gamma/(1 - gamma) for the absorbing state, over their sum. From starts like d the t-th
    row is reached with (1 - gamma) sum_k gamma^k = 1 - gamma^(t+1) of its share, and what is left is absorbed.
    """

    def of_nu(nu: Tensor) -> Tensor:
        x, terminated = on_an_episode(nu)
        start = mean(with_absorbing_state(nu, terminated, DISCOUNT))
        return valuedice_objective(with_absorbing_state(x, terminated, DISCOUNT), start, DISCOUNT)

    nu, value = lowest(of_nu, STEPS)
    absorbing = DISCOUNT / (1 - DISCOUNT)
    data = torch.cat([torch.ones(STEPS), torch.tensor([absorbing])]).double() / (STEPS + absorbing)
    reached = data.clone()
    reached[:-1] *= 1 - DISCOUNT ** torch.arange(1, STEPS + 1).double()
    reached[-1] = 1 - reached[:-1].sum()
    assert value == pytest.approx(-divergence(reached, data).item(), abs=1e-10)
    ratio = (reached / data).log()
    torch.testing.assert_close(on_an_episode(nu)[0], (ratio - ratio[-1])[:-1], rtol=0, atol=1e-5)


def test_cutting_the_bootstrap_alone_has_no_lowest_value():
    """Each nu further down, along the discounted time that is left, is better without end; not so with the state."""
    left = (1 - DISCOUNT ** torch.arange(STEPS, 0, -1).double()) / (1 - DISCOUNT)
    without, complete = [], []
    for depth in (1.0, 10.0, 100.0, 1000.0):
        x, terminated = on_an_episode(-depth * left)
        torch.testing.assert_close(x, torch.full((STEPS,), -depth).double(), rtol=0, atol=1e-9)
        rows = torch.full((STEPS,), 1 / STEPS).double()
        without.append(valuedice_objective((x, rows), (-depth * left * rows).sum(), DISCOUNT).item())
        start = mean(with_absorbing_state(-depth * left, terminated, DISCOUNT))
        complete.append(valuedice_objective(with_absorbing_state(x, terminated, DISCOUNT), start, DISCOUNT).item())
    assert without == sorted(without, reverse=True)
    assert without[-1] < -500
    assert complete == sorted(complete)
    assert complete[-1] > 100


def test_shares_of_rows_and_absorbing_states():
    values, terminated = torch.tensor([2.0, 4.0, 8.0]), torch.tensor([0.0, 1.0, 1.0])
    everything, shares = with_absorbing_state(values, terminated, 0.75)
    assert everything.tolist() == [2, 4, 8, 0, 0, 0]
    torch.testing.assert_close(shares, torch.tensor([1.0, 1, 1, 0, 3, 3]) / 9)
    assert mean((everything, shares)).item() == pytest.approx(14 / 9)
    assert with_absorbing_state(values, 0 * terminated, 0.75)[1].tolist() == pytest.approx([1 / 3] * 3 + [0] * 3)
    assert with_absorbing_state(values, terminated, 0.0)[1].tolist() == pytest.approx([1 / 3] * 3 + [0] * 3)


def test_exponentials_neither_overflow_nor_count_what_has_no_share():
    values = torch.tensor([1000.0, 1001.0, 9000.0], requires_grad=True)
    found = log_mean_exp((values, torch.tensor([0.25, 0.75, 0.0])))
    assert found.item() == pytest.approx(1000 + float(torch.tensor(0.25 + 0.75 * 2.718281828).log()), abs=1e-4)
    (gradient,) = torch.autograd.grad(found, values)
    weights = torch.tensor([0.25, 0.75 * 2.718281828])
    assert gradient.tolist() == pytest.approx([*(weights / weights.sum()).tolist(), 0], abs=1e-4)


def test_the_objective_is_its_formula():
    expert = torch.tensor([1.0, 2.0]), torch.tensor([0.25, 0.75])
    other = torch.tensor([-1.0, 3.0]), torch.tensor([0.5, 0.5])
    inside = 0.25 * 2.718281828 + 0.75 * 2.718281828**2
    plain = valuedice_objective(expert, torch.tensor(5.0), 0.9)
    assert plain.item() == pytest.approx(float(torch.tensor(inside).log()) - 0.1 * 5, rel=1e-6)
    of_other = 0.5 / 2.718281828 + 0.5 * 2.718281828**3
    mixed = valuedice_objective(expert, torch.tensor(5.0), 0.9, other, 0.2)
    expected = float(torch.tensor(0.8 * inside + 0.2 * of_other).log()) - 0.8 * 0.1 * 5 - 0.2 * 1
    assert mixed.item() == pytest.approx(expected, rel=1e-6)
    assert valuedice_objective(expert, torch.tensor(5.0), 0.9, other, 0.0).item() == pytest.approx(plain.item())


def test_units_whose_weights_are_orthogonal_cost_nothing():
    assert off_orthogonal(torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]])).item() == 0
    assert off_orthogonal(torch.tensor([[1.0, 2.0], [3.0, 4.0], [0.0, 1.0]])).item() == 2 * (11**2 + 2**2 + 4**2)
