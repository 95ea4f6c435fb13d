"""Expectiles and advantage weights against closed forms, scipy and finite differences."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import expectile as scipy_expectile
from torch import Tensor

from iq_offline.learning.in_sample import advantage_weights, expectile_loss

SAMPLE = torch.tensor([-3.0, 0.5, 1.0, 1.0, 2.5, 9.0]).double()


def found(expectile: float, sample: Tensor = SAMPLE) -> float:
    """The one V that the loss is smallest at, by Newton's steps."""
    value = torch.zeros(()).double()
    for _ in range(200):
        value = value.detach().requires_grad_()
        (slope,) = torch.autograd.grad(expectile_loss(value.expand(len(sample)), sample, expectile), value)
        above = (sample < value.detach()).double().mean().item()
        value = value - slope / (2 * (above * (1 - expectile) + (1 - above) * expectile))
    return value.item()


@pytest.mark.parametrize("expectile", [0.1, 0.5, 0.7, 0.9, 0.98])
def test_the_minimum_is_scipys_expectile(expectile: float):
    assert found(expectile) == pytest.approx(float(scipy_expectile(SAMPLE.numpy(), alpha=expectile)), abs=1e-9)


def test_a_half_is_the_mean_and_one_the_maximum():
    assert found(0.5) == pytest.approx(SAMPLE.mean().item(), abs=1e-12)
    assert found(1 - 1e-9) == pytest.approx(9.0, abs=1e-6)
    assert found(1e-9) == pytest.approx(-3.0, abs=1e-6)


@pytest.mark.parametrize("expectile", [0.2, 0.9])
def test_of_two_points_it_is_their_weighted_mean(expectile: float):
    """(1 - t) (v - a) = t (b - v)."""
    pair = torch.tensor([-1.0, 5.0]).double()
    assert found(expectile, pair) == pytest.approx(expectile * 5 + (1 - expectile) * -1, abs=1e-9)


def test_the_loss_is_its_formula():
    value, q = torch.tensor([1.0, 1.0, -2.0]).double(), torch.tensor([3.0, 0.0, -2.0]).double()
    assert expectile_loss(value, q, 0.8).item() == pytest.approx((0.8 * 4 + 0.2 * 1) / 3)


def test_gradients_are_finite_differences():
    torch.manual_seed(0)
    value, q = (torch.randn(5).double().requires_grad_() for _ in range(2))
    assert torch.autograd.gradcheck(lambda value, q: expectile_loss(value, q, 0.9), (value, q), atol=1e-8)


def test_weights_are_exponential_and_cut_off():
    q, value = torch.tensor([1.0, 0.0, -50.0, 3.0, 800.0]).double(), torch.zeros(5).double()
    weights = advantage_weights(q, value, 0.5)
    expected = [math.exp(2), 1.0, math.exp(-100), 100.0, 100.0]
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-12)
    assert weights[3] == 100 < math.exp(6)


def test_the_weights_are_the_policy_that_stays_near_the_data():
    """max_pi E_pi[A] - T KL(pi | data) is at pi = data exp(A / T) / Z, over actions that can be counted."""
    torch.manual_seed(1)
    data, advantage, temperature = torch.softmax(torch.randn(6).double(), 0), torch.randn(6).double(), 0.7
    logits = torch.zeros(6).double().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [logits], lr=1, max_iter=300, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        policy = torch.softmax(logits, 0)
        loss = -(policy * advantage).sum() + temperature * (policy * (policy / data).log()).sum()
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    weighted = data * advantage_weights(advantage, torch.zeros(6).double(), temperature)
    torch.testing.assert_close(torch.softmax(logits.detach(), 0), weighted / weighted.sum(), rtol=0, atol=1e-6)
