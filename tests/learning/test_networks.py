"""The squashed Gaussian against torch.distributions, numerical integration and finite differences."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import torch
from gymnasium.spaces import Box, Dict, Discrete
from torch import Tensor
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from iq_offline.config import Normed
from iq_offline.data.spaces import ObservationEncoder, chosen_leaves
from iq_offline.learning.networks import (
    Hidden,
    ImageTorso,
    branch_values,
    gaussian,
    mlp,
    network,
    sample_squashed,
    squashed_log_probability,
)


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


def test_what_is_between_the_layers_of_the_network_that_acts_and_of_others():
    encoder = ObservationEncoder(chosen_leaves(Box(-1, 1, (3,)), (), "the test"))

    def normed(layer_norm: Normed, acts: bool) -> list[int]:
        layers = network(encoder, Hidden((4, 5), "elu", layer_norm), 2, acts=acts)
        assert sum(isinstance(layer, torch.nn.ELU if acts else torch.nn.ReLU) for layer in layers) == 2
        return [place for place, layer in enumerate(layers) if isinstance(layer, torch.nn.LayerNorm)]

    assert normed("none", False) == normed("none", True) == normed("critics", True) == []
    assert normed("critics", False) == normed("all", False) == normed("all", True) == [1, 4]


def test_branches_are_padded_with_minus_infinity():
    outputs = torch.arange(16.0).reshape(2, 8)
    infinity = -math.inf
    assert branch_values(outputs, (3, 1, 4)).tolist() == [
        [[0, 1, 2, infinity], [3, infinity, infinity, infinity], [4, 5, 6, 7]],
        [[8, 9, 10, infinity], [11, infinity, infinity, infinity], [12, 13, 14, 15]],
    ]
    assert branch_values(outputs, (8,)).tolist() == [[list(range(8))], [list(range(8, 16))]]


# ---------------------------------------------------------------------------------------------------- images


IMAGES = {
    "HWC": ((9, 11, 3), (9, 11, 3)),
    "CHW": ((3, 9, 11), (9, 11, 3)),
    "HW": ((9, 11), (9, 11, 1)),
    "HW1": ((9, 11, 1), (9, 11, 1)),
    "large HWC": ((40, 36, 3), (40, 36, 3)),
    "large CHW": ((2, 36, 40), (36, 40, 2)),
}


def channels_first(image: np.ndarray, layout: str) -> np.ndarray:
    """(C, H, W) of one frame, whatever it came as."""
    if layout.endswith("HWC") or layout == "HW1":
        return image.transpose(2, 0, 1)
    return image[None] if layout == "HW" else image


class Recorder(torch.nn.Module):
    """In place of the convolutions: what they would have seen."""

    def forward(self, image: Tensor) -> Tensor:
        self.seen = image.clone()
        return image.flatten(1)


@pytest.mark.parametrize("frame_stack", [1, 3])
@pytest.mark.parametrize("layout", IMAGES)
def test_convolutions_see_channels_where_they_are(layout: str, frame_stack: int):
    """Frames oldest first, each with its channels together; other features pass by in order."""
    shape, (height, width, channels) = IMAGES[layout]
    space = Dict({"a": Box(-1, 1, (2,)), "image": Box(0, 255, shape, np.uint8), "z": Discrete(3)})
    encoder = ObservationEncoder(chosen_leaves(space, (), "the test"), frame_stack)
    torso = ImageTorso(encoder)
    torso.images["1"] = recorder = Recorder()
    generator = np.random.default_rng(0)
    frames = generator.integers(0, 256, (2, 4, *shape), np.uint8)
    histories = [
        [{"a": np.array([t, b]), "image": frame, "z": np.int64(t % 3)} for t, frame in enumerate(episode)]
        for b, episode in enumerate(frames)
    ]
    features = encoder.encode(histories)
    extra = torch.tensor([[0.25], [0.5]])
    output = torso(torch.cat([features, extra], -1))
    expected = np.stack(
        [np.concatenate([channels_first(episode[t], layout) for t in range(4 - frame_stack, 4)]) for episode in frames]
    ).astype(np.float32)
    assert expected.shape == (2, channels * frame_stack, height, width)
    np.testing.assert_array_equal(recorder.seen.numpy(), expected)
    np.testing.assert_array_equal(output[:, :2].numpy(), [[3, 0], [3, 1]])
    np.testing.assert_array_equal(output[:, 2:-4].numpy(), expected.reshape(2, -1))
    np.testing.assert_array_equal(output[:, -4:].numpy(), [[1, 0, 0, 0.25], [1, 0, 0, 0.5]])


@pytest.mark.parametrize("layout", IMAGES)
def test_the_torso_is_convolutions_of_the_image(layout: str):
    """Against torch's own functions on the rearranged image."""
    shape, (height, width, channels) = IMAGES[layout]
    encoder = ObservationEncoder(chosen_leaves(Box(0, 255, shape, np.uint8), (), "the test"), 2)
    torch.manual_seed(0)
    behind = network(encoder, Hidden((6,)), 4, extra=2)
    names = [name for name, _ in behind.named_parameters()]
    large = min(height, width) >= 36
    convolutions = [name for name in names if name.startswith("torso.") and name.endswith("weight")]
    assert len(convolutions) == (3 if large else 2)
    assert [name for name in names if not name.startswith("torso.")] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    image, extra = torch.randn(3, 2 * channels, height, width), torch.randn(3, 2)
    stored = image.reshape(3, 2, channels, height, width)
    if layout.endswith("HWC") or layout == "HW1":
        stored = stored.permute(0, 1, 3, 4, 2)
    found = behind(torch.cat([stored.reshape(3, -1), extra], -1))
    weights = dict(behind.named_parameters())
    hidden = image
    for name, stride in zip(convolutions, (4, 2, 1) if large else (2, 2), strict=True):
        bias = weights[name.replace("weight", "bias")]
        hidden = torch.relu(torch.nn.functional.conv2d(hidden, weights[name], bias, stride))
    hidden = torch.cat([hidden.flatten(1), extra], -1)
    hidden = torch.relu(hidden @ weights["0.weight"].T + weights["0.bias"])
    expected = hidden @ weights["2.weight"].T + weights["2.bias"]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_each_image_has_convolutions_of_its_own():
    space = Dict({"left": Box(0, 255, (9, 9), np.uint8), "right": Box(0, 255, (8, 12, 2), np.uint8)})
    encoder = ObservationEncoder(chosen_leaves(space, ("right", "left"), "the test"))
    torso = ImageTorso(encoder)
    features = torch.rand(2, encoder.size)
    right = features[:, :192].reshape(2, 8, 12, 2).permute(0, 3, 1, 2)
    left = features[:, 192:].reshape(2, 1, 9, 9)
    expected = torch.cat([torso.images["0"](right), torso.images["1"](left)], -1)
    torch.testing.assert_close(torso(features), expected)
    assert torso.size == expected.shape[1]
