"""The networks: plain multilayer perceptrons, and the squashed Gaussian that actors speak in.

Actions here live in the unit box [-1, 1]: the dataset's box is mapped to it by the agents.
"""

import math
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0

Batch = Float[Tensor, "batch size"]


def mlp(*sizes: int) -> nn.Sequential:
    """Linear layers from ``sizes[0]`` inputs to ``sizes[-1]`` outputs, ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def gaussian(outputs: Float[Tensor, "batch twice"]) -> tuple[Batch, Batch]:
    """Mean and standard deviation, before the squashing, from an actor's outputs; log std in [-5, 2]."""
    mean, raw = outputs.chunk(2, dim=-1)
    log_std = LOG_STD_MIN + (LOG_STD_MAX - LOG_STD_MIN) * (torch.tanh(raw) + 1) / 2
    return mean, log_std.exp()


def sample_squashed(mean: Batch, std: Batch, noise: Batch) -> tuple[Batch, Float[Tensor, " batch"]]:
    """Actions tanh(mean + std noise) in the unit box, and their log-densities.

    Args:
        mean: before the squashing.
        std: before the squashing, positive.
        noise: standard normal.
    """
    before = mean + std * noise
    log_normal = -0.5 * noise.square() - std.log() - 0.5 * math.log(2 * math.pi)
    return torch.tanh(before), (log_normal - _log_tanh_slope(before)).sum(-1)


def squashed_log_probability(mean: Batch, std: Batch, action: Batch) -> Float[Tensor, " batch"]:
    """Log-density of actions of the unit box; those at its faces are read as 1e-6 inside it."""
    before = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
    log_normal = -0.5 * ((before - mean) / std).square() - std.log() - 0.5 * math.log(2 * math.pi)
    return (log_normal - _log_tanh_slope(before)).sum(-1)


def _log_tanh_slope(before: Batch) -> Batch:
    """log(1 - tanh(x)²), written so that it neither overflows nor loses digits for large |x|."""
    return 2 * (math.log(2) - before - nn.functional.softplus(-2 * before))
