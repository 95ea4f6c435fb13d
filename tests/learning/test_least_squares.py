"""LS-IQ's closed forms: the square completed, the bounds it comes from, absorbing states, and a table solved."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from iq_offline.learning.least_squares import absorbed, fixed_target_loss, reward_bounds, value_bounds
from iq_offline.learning.objective import implied_reward, iq_loss, telescoped_value

DISCOUNT, ALPHA = 0.9, 0.3
SHARES = [(4, 4), (1, 7), (6, 2)]


def test_at_equal_halves_the_bounds_are_those_of_the_paper():
    """±1/c with c = 1 / (4 alpha): ±2 for the default alpha, and values within 200 at a discount of 0.99."""
    assert reward_bounds(0.5, 0.5) == (-2.0, 2.0)
    assert value_bounds(0.5, 0.5, 0.99) == pytest.approx((-200.0, 200.0))


@pytest.mark.parametrize(("experts", "others"), SHARES)
def test_the_square_is_completed(experts: int, others: int):
    """With E_S[r] as the value term the objective is a squared error from r_max and r_min, but for a constant."""
    torch.manual_seed(experts)
    expert, other = 3 * torch.randn(experts).double(), 3 * torch.randn(others).double()
    share = experts / (experts + others)
    lowest, highest = reward_bounds(ALPHA, share)
    squares = share * (expert - highest).square().mean() + (1 - share) * (other - lowest).square().mean()
    constant = -ALPHA / share - ALPHA / (1 - share)
    ours = iq_loss(expert, other.mean(), torch.cat([expert, other]), ALPHA)
    torch.testing.assert_close(ours, squares / (4 * ALPHA) + constant, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("experts", "others"), SHARES)
def test_the_fixed_target_takes_the_place_of_the_bootstrapped_one(experts: int, others: int):
    """Where V(s') is Q_max the two losses are the same function of Q, but for the constants of the square."""
    torch.manual_seed(others)
    share = experts / (experts + others)
    _, best = value_bounds(ALPHA, share, DISCOUNT)
    expert_q, other = 3 * torch.randn(experts).double(), 3 * torch.randn(others).double()
    zeros = torch.zeros(experts).double()
    expert = implied_reward(expert_q, zeros + best, zeros, DISCOUNT)
    bootstrapped = iq_loss(expert, other.mean(), torch.cat([expert, other]), ALPHA) + ALPHA / share
    fixed = fixed_target_loss(expert_q, other.mean(), other, ALPHA, share, DISCOUNT)
    torch.testing.assert_close(fixed, bootstrapped, rtol=0, atol=1e-11)


@pytest.mark.parametrize("share", [0.5, 0.125, 0.75])
def test_the_optimal_reward_lies_between_the_bounds_and_reaches_them_where_only_one_goes(share: float):
    expert = torch.tensor([0.5, 0.3, 0.2, 0.0]).double()
    other = torch.tensor([0.0, 0.1, 0.2, 0.7]).double()
    mixture = share * expert + (1 - share) * other
    best = 2 * ALPHA * (expert - other) / mixture
    lowest, highest = reward_bounds(ALPHA, share)
    assert best[0].item() == pytest.approx(highest)
    assert best[3].item() == pytest.approx(lowest)
    assert best[2] == 0
    assert lowest < best[1] < highest
    reward = torch.zeros(4).double().requires_grad_()
    loss = -(expert * reward).sum() + (other * reward).sum() + (mixture * reward.square()).sum() / (4 * ALPHA)
    (slope,) = torch.autograd.grad(loss, reward)
    torch.testing.assert_close(-slope * 2 * ALPHA / mixture, best, rtol=0, atol=1e-12)


def test_an_absorbing_state_is_the_geometric_series_of_its_reward():
    share = 0.25
    for reward, value in zip(reward_bounds(ALPHA, share), value_bounds(ALPHA, share, DISCOUNT), strict=True):
        series = sum(DISCOUNT**step * reward for step in range(500))
        assert value == pytest.approx(series, rel=1e-12)
    next_value = torch.tensor([3.0, 3.0, -4.0])
    found = absorbed(next_value, torch.tensor([0.0, 1.0, 1.0]), torch.tensor([12.0, 12.0, -8.0]))
    assert found.tolist() == [3.0, 12.0, -8.0]


@pytest.mark.parametrize("count", [3, 5])
def test_gradients_are_finite_differences(count: int):
    torch.manual_seed(2)
    inputs = tuple(torch.randn(shape).double().requires_grad_() for shape in ((count,), (), (6,)))
    share = count / (count + 6)

    def loss(expert_q: Tensor, value_term: Tensor, other: Tensor) -> Tensor:
        return fixed_target_loss(expert_q, value_term, other, ALPHA, share, DISCOUNT)

    assert torch.autograd.gradcheck(loss, inputs, atol=1e-8)


# ------------------------------------------------------------------------------------------------ a table solved


@dataclass(frozen=True)
class Moves:
    """Transitions of a deterministic decision process with six states and two actions, one below the other."""

    state: Tensor
    action: Tensor
    following: Tensor
    terminated: Tensor

    @classmethod
    def of(cls, *rows: tuple[int, int, int, int]) -> "Moves":
        state, action, following, ended = torch.tensor(rows).unbind(-1)
        return cls(state, action, following, ended.double())


EXPERT = Moves.of((0, 0, 1, 0), (1, 0, 2, 0), (2, 0, 1, 0), (0, 0, 1, 0))
"""From the start 0 into the loop 1, 2, where it stays for ever."""
OTHER = Moves.of((0, 0, 1, 0), (0, 1, 3, 0), (3, 0, 4, 0), (3, 1, 0, 0), (4, 0, 5, 1), (0, 1, 3, 0), (4, 1, 0, 0))
"""Mostly off to 3 and 4, where action 0 ends the episode in 5; once the expert's first step, and ways back to it."""
SHARE = len(EXPERT.state) / (len(EXPERT.state) + len(OTHER.state))


def fixed_point(policy: Tensor, absorbing: bool) -> tuple[Tensor, Tensor]:
    """Q of the losses' fixed point, solved by descending the loss for V(s') as it is, again and again; and V."""
    lowest, highest = value_bounds(ALPHA, SHARE, DISCOUNT)
    value = torch.zeros(6).double()
    q = torch.zeros(6, 2).double()
    for _ in range(400):
        following = value[OTHER.following].clamp(lowest, highest)
        ended = OTHER.terminated
        if absorbing:
            following = absorbed(following, ended, torch.full_like(following, lowest))
            ended = torch.zeros_like(ended)
        table = q.clone().requires_grad_()
        reward = implied_reward(table[OTHER.state, OTHER.action], following, ended, DISCOUNT)
        expert_q = table[EXPERT.state, EXPERT.action]
        loss = fixed_target_loss(expert_q, reward.mean(), reward, ALPHA, SHARE, DISCOUNT)
        (slope,) = torch.autograd.grad(loss, table, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), table)  # The loss is a sum of squares of single entries.
        q = q - torch.where(curvature > 0, slope.detach() / curvature.clamp(min=1e-9), torch.zeros_like(q))
        value = (policy * q).sum(-1)
    return q, value


@pytest.mark.parametrize("absorbing", [True, False])
def test_a_table_is_solved(absorbing: bool):
    """Values within the bounds; the bounds themselves where only one of the two goes; both reached by closed forms."""
    first = torch.tensor([1.0, 0.0]).double().expand(6, 2)
    q, value = fixed_point(first, absorbing)
    (lowest, highest), (worst, best) = value_bounds(ALPHA, SHARE, DISCOUNT), reward_bounds(ALPHA, SHARE)

    assert (q >= lowest - 1e-9).all()
    assert (q <= highest + 1e-9).all()
    # The expert's loop, where nobody else goes, is worth Q_max, and each step of it implies r_max.
    assert q[[1, 2], 0].tolist() == pytest.approx([highest] * 2, abs=1e-9)
    implied = implied_reward(q[[1, 2], 0], value[[2, 1]], torch.zeros(2).double(), DISCOUNT)
    assert implied.tolist() == pytest.approx([best] * 2, abs=1e-9)
    # The shared first step: between both targets, by how often each takes it.
    target = 2 * highest / 3 + (worst + DISCOUNT * highest) / 3
    assert q[0, 0].item() == pytest.approx(target, abs=1e-9)
    # What only others do earns r_min, whatever follows.
    assert q[3, 1].item() == pytest.approx(worst + DISCOUNT * value[0].item(), abs=1e-9)
    assert q[0, 1].item() == pytest.approx(worst + DISCOUNT * value[3].item(), abs=1e-9)
    # The end: for ever r_min, the lowest of all values; or 0 after it, and better than a long way on.
    assert q[4, 0].item() == pytest.approx(lowest if absorbing else worst, abs=1e-9)


def test_without_an_absorbing_value_an_end_is_better_than_going_on_among_others():
    """The survival bias that LS-IQ's closed form removes: one step from the end, and a loop that never ends."""
    lowest, _ = value_bounds(ALPHA, SHARE, DISCOUNT)
    worst, _ = reward_bounds(ALPHA, SHARE)
    for_ever_among_others = worst / (1 - DISCOUNT)
    first = torch.tensor([1.0, 0.0]).double().expand(6, 2)
    assert fixed_point(first, absorbing=False)[0][4, 0] > for_ever_among_others + 1
    assert fixed_point(first, absorbing=True)[0][4, 0].item() == pytest.approx(lowest) == for_ever_among_others


def test_raised_rewards_are_the_same_objective_elsewhere():
    """With Q raised by 2 alpha / (1 - gamma), 0 after an end is the lowest reward, -2 alpha, for ever."""
    torch.manual_seed(0)
    q, value, next_value = (torch.randn(8).double() for _ in range(3))
    terminated, discount, alpha, experts = (torch.arange(8) % 3 == 2).double(), 0.9, 0.4, 2
    raise_by = 2 * alpha / (1 - discount)

    def loss(up: float) -> torch.Tensor:
        after_end = torch.full_like(q, -raise_by) + up
        following = torch.where(terminated > 0, after_end, next_value + up)
        reward = implied_reward(q + up, following, torch.zeros_like(q), discount)
        level = up * (1 - discount)
        value_term = telescoped_value(value + up, following, torch.zeros_like(q), discount)
        return iq_loss(reward[:experts], value_term, reward - level, alpha)

    torch.testing.assert_close(loss(raise_by), loss(0.0), rtol=0, atol=1e-12)
