"""The equations, held against a tabular Markov decision process where every expectation is exact."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from iq_offline.learning.objective import (
    PHI,
    beyond_half,
    discrete_soft_value,
    divergence_loss,
    implied_reward,
    initial_value,
    iq_loss,
    phi,
    soft_policy_loss,
    soft_value,
    telescoped_value,
)

STATES, ACTIONS, DISCOUNT, TEMPERATURE = 5, 3, 0.9, 0.3


@dataclass(frozen=True)
class Tabular:
    """A random decision process with stochastic transitions."""

    transition: Tensor
    """P(s'|s,a), shape (states, actions, states)."""
    reward: Tensor
    """r(s,a), shape (states, actions)."""
    start: Tensor
    """p(s0), shape (states,)."""

    def occupancy(self, policy: Tensor) -> Tensor:
        """The discounted occupancy (1 - gamma) sum_t gamma^t P(s_t, a_t), shape (states, actions)."""
        moves = torch.einsum("sa,sat->st", policy, self.transition)
        states = torch.linalg.solve(torch.eye(STATES).double() - DISCOUNT * moves.T, (1 - DISCOUNT) * self.start)
        return states[:, None] * policy


@pytest.fixture
def process() -> Tabular:
    torch.manual_seed(3)
    transition = torch.distributions.Dirichlet(torch.full((STATES,), 0.5).double()).sample((STATES, ACTIONS))
    start = torch.softmax(torch.randn(STATES).double(), 0)
    return Tabular(transition, torch.randn(STATES, ACTIONS).double(), start)


def random_policy(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.softmax(2 * torch.randn(STATES, ACTIONS, generator=generator).double(), -1)


def soft_value_iteration(transition: Tensor, reward: Tensor, alive: Tensor) -> Tensor:
    """Q* by iteration; ``alive`` is 0 for the next states that end the episode, where nothing follows."""
    q = torch.zeros_like(reward)
    for _ in range(500):
        q = reward + DISCOUNT * transition @ (alive * discrete_soft_value(q, TEMPERATURE))
    return q


def expected_implied_reward(q: Tensor, value: Tensor, transition: Tensor, terminated: Tensor) -> Tensor:
    """E_{s'} of the package's implied reward, all triples (s, a, s') in one batch."""
    triples = implied_reward(
        q[:, :, None].expand_as(transition).reshape(-1),
        value.expand_as(transition).reshape(-1),
        terminated.expand_as(transition).reshape(-1),
        DISCOUNT,
    )
    return (transition * triples.view_as(transition)).sum(-1)


@pytest.mark.parametrize("ending_state", [None, 2])
def test_soft_value_iteration_gives_back_the_true_reward(process: Tabular, ending_state: int | None):
    terminated = torch.zeros(STATES).double()
    if ending_state is not None:
        terminated[ending_state] = 1
    q = soft_value_iteration(process.transition, process.reward, 1 - terminated)
    value = discrete_soft_value(q, TEMPERATURE)
    if ending_state is not None:
        value = torch.where(terminated == 1, 1e6, value)  # Whatever V says there, it must not count.
    recovered = expected_implied_reward(q, value, process.transition, terminated)
    torch.testing.assert_close(recovered, process.reward, rtol=0, atol=1e-10)


def test_another_q_implies_another_reward(process: Tabular):
    alive = torch.ones(STATES).double()
    q = soft_value_iteration(process.transition, process.reward, alive) + 0.5
    recovered = expected_implied_reward(q, discrete_soft_value(q, TEMPERATURE), process.transition, 1 - alive)
    torch.testing.assert_close(recovered, process.reward + 0.5 * (1 - DISCOUNT), rtol=0, atol=1e-10)


def test_sampled_soft_value_averages_to_the_exact_one():
    torch.manual_seed(0)
    q = torch.randn(7, ACTIONS).double()
    log_policy = torch.log_softmax(q / TEMPERATURE, -1)
    samples = soft_value(q.reshape(-1), log_policy.reshape(-1), TEMPERATURE).view_as(q)
    exact = discrete_soft_value(q, TEMPERATURE)
    torch.testing.assert_close((log_policy.exp() * samples).sum(-1), exact, rtol=0, atol=1e-12)
    torch.testing.assert_close(exact, TEMPERATURE * (q / TEMPERATURE).exp().sum(-1).log(), rtol=0, atol=1e-12)


def test_discrete_soft_value_of_tiny_temperature_is_the_maximum():
    q = torch.tensor([[1.0, -3.0, 0.5], [-200.0, -100.0, -300.0]])
    torch.testing.assert_close(discrete_soft_value(q, 1e-4), torch.tensor([1.0, -100.0]), rtol=0, atol=1e-4)


def test_potential_based_shaping_leaves_the_policy_unchanged(process: Tabular):
    potential = torch.linspace(-5, 5, STATES).double()
    shaping = DISCOUNT * process.transition @ potential - potential[:, None]
    alive = torch.ones(STATES).double()

    def policy(reward: Tensor) -> Tensor:
        return torch.softmax(soft_value_iteration(process.transition, reward, alive) / TEMPERATURE, -1)

    plain = policy(process.reward)
    torch.testing.assert_close(policy(process.reward + shaping), plain, rtol=0, atol=1e-10)
    not_a_potential = policy(process.reward + shaping + 0.5 * torch.eye(STATES, ACTIONS).double())
    assert (not_a_potential - plain).abs().max() > 0.05


@pytest.mark.parametrize("seed", range(3))
def test_telescoping_over_the_discounted_occupancy_of_any_policy(process: Tabular, seed: int):
    torch.manual_seed(seed)
    value = torch.randn(STATES).double()
    weights = process.occupancy(random_policy(seed))[:, :, None] * process.transition
    zero = torch.zeros(1).double()
    total = torch.zeros(()).double()
    for state in range(STATES):
        for following in range(STATES):
            one = telescoped_value(value[state : state + 1], value[following : following + 1], zero, DISCOUNT)
            total += weights[state, :, following].sum() * one
    assert weights.sum().item() == pytest.approx(1, abs=1e-12)
    at_start = sum(p * initial_value(v[None], DISCOUNT) for p, v in zip(process.start, value, strict=True))
    torch.testing.assert_close(total, at_start, rtol=0, atol=1e-12)


def test_uniform_weights_over_a_truncated_episode_do_not_telescope_but_discounted_weights_do():
    steps = 20
    value = torch.linspace(3.0, -1.0, steps + 1).double().sin()
    terms = torch.stack(
        [telescoped_value(value[t : t + 1], value[t + 1 : t + 2], torch.zeros(1).double(), DISCOUNT) for t in range(20)]
    )
    uniform = telescoped_value(value[:-1], value[1:], torch.zeros(steps).double(), DISCOUNT)
    at_start = initial_value(value[:1], DISCOUNT)

    boundary = DISCOUNT * (value[0] - value[-1]) / steps
    torch.testing.assert_close(uniform, (1 - DISCOUNT) * value[:-1].mean() + boundary, rtol=0, atol=1e-12)
    assert abs(uniform - at_start) > 0.01

    powers = DISCOUNT ** torch.arange(steps).double()
    discounted = (1 - DISCOUNT) * (powers * terms).sum()
    cut_off = (1 - DISCOUNT) * DISCOUNT**steps * value[-1]
    torch.testing.assert_close(discounted, at_start - cut_off, rtol=0, atol=1e-12)


def test_a_terminated_episode_telescopes_to_its_start_without_remainder():
    steps = 6
    torch.manual_seed(1)
    value = torch.randn(steps + 1).double()
    ends = (torch.arange(steps) == steps - 1).double()
    powers = DISCOUNT ** torch.arange(steps).double()
    terms = [telescoped_value(value[t : t + 1], value[t + 1 : t + 2], ends[t : t + 1], DISCOUNT) for t in range(steps)]
    total = (1 - DISCOUNT) * (powers * torch.stack(terms)).sum()
    torch.testing.assert_close(total, initial_value(value[:1], DISCOUNT), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("experts", "others"), [(4, 4), (1, 7), (6, 2)])
def test_the_two_forms_of_the_mixture_objective_agree(experts: int, others: int):
    """With the expert's share b of the mixture, phi's alpha a and chi2_alpha = a b.

    -E_E[r - r²/(4a)] + v + ((1-b)/b) E_S[r²/(4a)] = -E_E[r] + v + (b E_E[r²] + (1-b) E_S[r²]) / (4ab)
    """
    torch.manual_seed(experts)
    expert, other, value_term = torch.randn(experts).double(), torch.randn(others).double(), torch.randn(()).double()
    alpha, share = 0.7, experts / (experts + others)

    def phi(x: Tensor) -> Tensor:
        return x - x.square() / (4 * alpha)

    general = -phi(expert).mean() + value_term + (1 - share) / share * (other - phi(other)).mean()
    ours = iq_loss(expert, value_term, torch.cat([expert, other]), alpha * share)
    torch.testing.assert_close(ours, general, rtol=0, atol=1e-12)


def test_the_objective_is_its_formula():
    expert, regularized = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([2.0, -4.0])
    assert iq_loss(expert, torch.tensor(0.25), regularized, 0.5).item() == pytest.approx(-3 + 0.25 + 10 / 2)
    assert initial_value(torch.tensor([2.0, 4.0]), 0.75).item() == pytest.approx(0.75)
    assert telescoped_value(
        torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0]), torch.tensor([0.0, 1.0]), 0.5
    ).item() == pytest.approx((1 - 2 + 2) / 2)
    rewards = implied_reward(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 8.0]), torch.tensor([0.0, 1.0]), 0.5)
    assert rewards.tolist() == [-1.0, 2.0]
    assert soft_value(torch.tensor([1.0]), torch.tensor([-3.0]), 0.5).tolist() == [2.5]
    assert soft_policy_loss(torch.tensor([1.0, 5.0]), torch.tensor([2.0, 4.0]), 0.5).item() == pytest.approx(-1.5)


@pytest.mark.parametrize("value_states", ["mixture", "initial", "expert"])
@pytest.mark.parametrize("chi2_states", ["mixture", "expert"])
def test_the_optimum_is_the_closed_form(process: Tabular, value_states: str, chi2_states: str):
    """For a fixed policy with occupancy d_S, descending iq_loss gives r = 2 alpha (d_E - d_S) / d_R.

    On the mixture of equal halves d_R = (d_E + d_S) / 2: the reward keeps within 4 alpha; on expert samples alone
    d_R = d_E, and it does not. The value term is E_{d_S}[r] plus an entropy that does not depend on Q, whichever
    occupancy it is telescoped over.
    """
    alpha = 0.5
    policy = random_policy(11)
    expert, other = process.occupancy(random_policy(12)), process.occupancy(policy)
    mixture = (expert + other) / 2
    regularized = mixture if chi2_states == "mixture" else expert
    telescoped = (mixture if value_states == "mixture" else expert).sum(-1)
    zeros, rows = torch.zeros(STATES * ACTIONS).double(), STATES * ACTIONS

    def weighted(weights: Tensor, values: Tensor) -> Tensor:
        """Values whose plain mean is the weighted one."""
        return (weights * values * values.numel()).reshape(-1)

    def reward_and_loss(q: Tensor) -> tuple[Tensor, Tensor]:
        samples = soft_value(q.reshape(-1), policy.log().reshape(-1), TEMPERATURE).view_as(q)
        value = (policy * samples).sum(-1)
        next_value = process.transition @ value
        reward = implied_reward(q.reshape(-1), next_value.reshape(-1), zeros, DISCOUNT).view_as(q)
        if value_states == "initial":
            value_term = initial_value(weighted(process.start, value), DISCOUNT)
        else:
            moves = (mixture if value_states == "mixture" else expert) / telescoped[:, None]
            following = (moves * next_value).sum(-1)
            value_term = telescoped_value(
                weighted(telescoped, value), weighted(telescoped, following), zeros[:STATES], DISCOUNT
            )
        square_root = (regularized * rows).sqrt() * reward  # Its plain mean square is the weighted one.
        return reward, iq_loss(weighted(expert, reward), value_term, square_root.reshape(-1), alpha)

    q = torch.zeros(STATES, ACTIONS).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [q], lr=1, max_iter=2000, tolerance_grad=1e-13, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = reward_and_loss(q)[1]
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    reward = reward_and_loss(q)[0].detach()
    expected = 2 * alpha * (expert - other) / regularized
    torch.testing.assert_close(reward, expected, rtol=0, atol=1e-6)
    bound = 4 * alpha
    assert (reward.abs().max() <= bound) == (chi2_states == "mixture")


def test_one_sample_of_the_next_state_biases_the_square(process: Tabular):
    alpha = 0.5
    torch.manual_seed(5)
    value, q, value_term = torch.randn(STATES).double(), torch.randn(1).double(), torch.zeros(()).double()
    chances = process.transition[1, 2]
    zero = torch.zeros(1).double()
    sampled = torch.zeros(()).double()
    for chance, following in zip(chances, value, strict=True):
        reward = implied_reward(q, following[None], zero, DISCOUNT)
        sampled += chance * iq_loss(reward, value_term, reward, alpha)
    expected_reward = implied_reward(q, (chances @ value)[None], zero, DISCOUNT)
    exact = iq_loss(expected_reward, value_term, expected_reward, alpha)
    variance = chances @ value.square() - (chances @ value).square()
    assert variance > 0.01
    torch.testing.assert_close(sampled - exact, DISCOUNT**2 * variance / (4 * alpha), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("function", "constant", "shapes"),
    [
        (implied_reward, DISCOUNT, [(4,), (4,), (4,)]),
        (iq_loss, 0.5, [(4,), (), (6,)]),
        (telescoped_value, DISCOUNT, [(4,), (4,), (4,)]),
        (initial_value, DISCOUNT, [(4,)]),
        (soft_value, TEMPERATURE, [(4,), (4,)]),
        (discrete_soft_value, TEMPERATURE, [(4, ACTIONS)]),
        (soft_policy_loss, TEMPERATURE, [(4,), (4,)]),
    ],
)
def test_gradients_are_finite_differences(
    function: Callable[..., Tensor], constant: float, shapes: list[tuple[int, ...]]
):
    torch.manual_seed(2)
    inputs = tuple(torch.randn(shape).double().requires_grad_() for shape in shapes)
    assert torch.autograd.gradcheck(lambda *values: function(*values, constant), inputs, atol=1e-8)


def test_terminated_cuts_the_bootstrap_and_its_gradient():
    next_value = torch.tensor([3.0, 3.0], requires_grad=True)
    reward = implied_reward(torch.tensor([1.0, 1.0]), next_value, torch.tensor([0.0, 1.0]), DISCOUNT)
    value_term = telescoped_value(torch.tensor([1.0, 1.0]), next_value, torch.tensor([0.0, 1.0]), DISCOUNT)
    assert reward.tolist() == pytest.approx([1 - 2.7, 1.0])
    (gradient,) = torch.autograd.grad(iq_loss(reward, value_term, reward, 0.5), next_value)
    assert gradient[0].abs() > 0.1
    assert gradient[1] == 0


F_OF_DIVERGENCES = {
    "hellinger": lambda u: (u.sqrt() - 1) ** 2,
    "kl": lambda u: u * u.log(),
    "reverse_kl": lambda u: -u.log(),
    "jensen_shannon": lambda u: u * u.log() - (u + 1) * ((u + 1) / 2).log(),
}


@pytest.mark.parametrize("divergence", sorted(F_OF_DIVERGENCES))
def test_the_best_reward_attains_the_divergence(divergence: str):
    """max_r E_E[phi(r)] - E_pi[r] is sum d_E f(d_pi / d_E), over distributions that can be counted."""
    torch.manual_seed(3)
    expert, policy = torch.rand(2, 7).double().add(0.2).unbind()
    expert, policy = expert / expert.sum(), policy / policy.sum()
    reward = torch.full((7,), 0.5).double().requires_grad_()
    optimizer = torch.optim.LBFGS([reward], lr=1, max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (policy * reward).sum() - (expert * phi(reward, divergence)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    distance = (expert * F_OF_DIVERGENCES[divergence](policy / expert)).sum()
    torch.testing.assert_close(-closure().detach(), distance, rtol=1e-8, atol=1e-10)
    (slope,) = torch.autograd.grad(phi(reward, divergence).sum(), reward)
    torch.testing.assert_close(slope, policy / expert, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("divergence", sorted(PHI))
def test_phi_is_concave_finite_and_smooth_everywhere(divergence: str):
    points = torch.linspace(-30, 30, 60_001).double().requires_grad_()
    values = phi(points, divergence)
    (slopes,) = torch.autograd.grad(values.sum(), points)
    assert values.isfinite().all()
    assert (slopes > 0).all()
    assert (slopes.diff() <= 1e-9).all()
    numeric = values.detach().diff() / points.detach().diff()
    between = torch.stack([slopes[:-1], slopes[1:]])
    assert (numeric <= between.max(0).values + 1e-6).all()
    assert (numeric >= between.min(0).values - 1e-6).all()


@pytest.mark.parametrize("divergence", sorted(F_OF_DIVERGENCES))
def test_there_is_an_optimum_however_rare_the_expert_is(divergence: str):
    """phi' takes any value, so that E_E[phi(r)] - E_pi[r] is bounded where d_pi / d_E is 1,000."""
    points = torch.linspace(-2000, 2000, 400_001).double().requires_grad_()
    objective = 0.001 * phi(points, divergence) - points
    (slopes,) = torch.autograd.grad(phi(points, divergence).sum(), points)
    best = int(objective.argmax())
    assert 0 < best < 400_000
    assert slopes[best].item() == pytest.approx(1000, rel=0.03)


def test_the_divergence_loss_is_its_terms():
    reward = torch.tensor([0.2, -0.7, 1.5]).double()
    found = divergence_loss(reward, torch.tensor(0.3).double(), "hellinger", torch.tensor(0.25).double())
    assert found.item() == pytest.approx(-(0.2 / 1.2 - 0.7 / 0.3 + 1.5 / 2.5) / 3 + 0.3 + 0.25)
    assert beyond_half(reward).item() == pytest.approx((0.2**2 + 1.0**2) / 3)
    assert beyond_half(torch.tensor([0.5, -0.5, 0.1])).item() == 0
