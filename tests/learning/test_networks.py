"""The squashed Gaussian against torch.distributions, numerical integration and finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from iq_offline.learning.networks import gaussian, mlp, sample_squashed, squashed_log_probability


def reference(mean: Tensor, std: Tensor) -> TransformedDistribution:
    return TransformedDistribution(Independent(Normal(mean, std), 1), [TanhTransform()])


@pytest.fixture
def parameters() -> tuple[Tensor, Tensor, Tensor]:
    """Mean, standard deviation and noise."""
    torch.manual_seed(0)
    return torch.randn(50, 3).double(), torch.rand(50, 3).double() + 0.1, torch.randn(50, 3).double()


def test_samples_and_their_densities_are_those_of_the_transformed_distribution(parameters: tuple[Tensor, ...]):
    mean, std, noise = parameters
    action, log_probability = sample_squashed(mean, std, noise)
    torch.testing.assert_close(action, torch.tanh(mean + std * noise), rtol=0, atol=1e-15)
    torch.testing.assert_close(log_probability, reference(mean, std).log_prob(action), rtol=1e-9, atol=1e-9)


def test_density_of_given_actions_is_that_of_the_transformed_distribution(parameters: tuple[Tensor, ...]):
    mean, std, _ = parameters
    action = torch.rand(50, 3).double() * 1.98 - 0.99
    expected = reference(mean, std).log_prob(action)
    torch.testing.assert_close(squashed_log_probability(mean, std, action), expected, rtol=1e-9, atol=1e-9)


def test_both_densities_agree(parameters: tuple[Tensor, ...]):
    mean, std, noise = parameters
    action, log_probability = sample_squashed(mean, std, noise)
    inside = action.abs().amax(-1) < 1 - 1e-5
    assert inside.sum() > 40
    again = squashed_log_probability(mean, std, action)
    torch.testing.assert_close(again[inside], log_probability[inside], rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 0.3), (0.7, 0.5), (-1.5, 0.2), (0.2, math.exp(-5))])
def test_the_density_integrates_to_one(mean: float, std: float):
    def density(action: float) -> float:
        one = (torch.tensor([[value]], dtype=torch.float64) for value in (mean, std, action))
        return float(squashed_log_probability(*one).exp())

    around = [math.tanh(mean + deviations * std) for deviations in (-8, -3, 0, 3, 8)]
    total = sum(scipy.integrate.quad(density, low, high, epsabs=1e-9)[0] for low, high in pairwise(around))
    assert total == pytest.approx(1, abs=1e-6)


def test_dimensions_multiply():
    mean, std, noise = (torch.tensor([[0.3, -0.4]]), torch.tensor([[0.5, 2.0]]), torch.tensor([[1.0, -0.3]]))
    together = sample_squashed(mean, std, noise)[1]
    apart = sum(sample_squashed(mean[:, [i]], std[:, [i]], noise[:, [i]])[1] for i in range(2))
    torch.testing.assert_close(together, apart)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mean", [-1000.0, -60.0, 60.0, 1000.0])
@pytest.mark.parametrize("log_std", [-5.0, 2.0])
def test_far_out_neither_overflows_nor_loses_digits(dtype: torch.dtype, mean: float, log_std: float):
    """There log(1 - tanh(x)²) is 2 log 2 - 2|x|, to all digits."""
    center = torch.tensor([[mean]], dtype=dtype, requires_grad=True)
    std = torch.tensor([[math.exp(log_std)]], dtype=dtype, requires_grad=True)
    noise = torch.tensor([[1.5]], dtype=dtype)
    action, log_probability = sample_squashed(center, std, noise)
    before = mean + math.exp(log_std) * 1.5
    expected = -0.5 * 1.5**2 - log_std - 0.5 * math.log(2 * math.pi) - 2 * math.log(2) + 2 * abs(before)
    assert action.item() == pytest.approx(math.copysign(1, mean))
    assert log_probability.item() == pytest.approx(expected, rel=1e-6)
    gradients = torch.autograd.grad(log_probability.sum(), (center, std))
    slope = 2 * math.copysign(1, mean)
    assert gradients[0].item() == pytest.approx(slope, rel=1e-5)
    assert gradients[1].item() == pytest.approx(1.5 * slope - math.exp(-log_std), rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("face", [-1.0, 1.0])
def test_actions_at_the_faces_of_the_box_have_finite_densities_and_gradients(dtype: torch.dtype, face: float):
    mean = torch.tensor([[0.1]], dtype=dtype, requires_grad=True)
    std = torch.tensor([[0.7]], dtype=dtype, requires_grad=True)
    at_face = squashed_log_probability(mean, std, torch.tensor([[face]], dtype=dtype))
    inside = reference(mean.double(), std.double()).log_prob(torch.tensor([[face * (1 - 1e-6)]], dtype=torch.float64))
    assert at_face.item() == pytest.approx(inside.item(), abs=1 if dtype == torch.float32 else 1e-6)
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(at_face.sum(), (mean, std)))


def test_the_log_deviation_keeps_its_range():
    outputs = torch.tensor([[0.5, -0.5, 0.0, 100.0], [9.0, 8.0, -100.0, math.atanh(0.5)]])
    mean, std = gaussian(outputs)
    assert mean.tolist() == [[0.5, -0.5], [9.0, 8.0]]
    expected = torch.tensor([[-1.5, 2.0], [-5.0, -5 + 7 * 0.75]])
    torch.testing.assert_close(std.log(), expected, rtol=0, atol=1e-5)


def test_gradients_are_finite_differences(parameters: tuple[Tensor, ...]):
    mean, std, noise = (value[:4].clone().requires_grad_() for value in parameters)
    action = torch.tanh(noise).detach().requires_grad_()
    assert torch.autograd.gradcheck(sample_squashed, (mean, std, noise))
    assert torch.autograd.gradcheck(squashed_log_probability, (mean, std, action))
    assert torch.autograd.gradcheck(gaussian, (torch.randn(3, 4).double().requires_grad_(),))


def test_the_network_is_matrix_products_with_relu_between():
    torch.manual_seed(0)
    network = mlp(4, 6, 5, 2)
    inputs = 3 * torch.randn(40, 4)
    weights = {name: value.detach().numpy() for name, value in network.named_parameters()}
    assert sorted(weights) == ["0.bias", "0.weight", "2.bias", "2.weight", "4.bias", "4.weight"]
    hidden = inputs.numpy()
    for layer in (0, 2):
        hidden = np.maximum(hidden @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0)
    expected = hidden @ weights["4.weight"].T + weights["4.bias"]
    assert (expected < 0).any()  # Nothing after the last layer.
    np.testing.assert_allclose(network(inputs).detach().numpy(), expected, atol=1e-6)
