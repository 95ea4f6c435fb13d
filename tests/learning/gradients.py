"""Gradients of losses against finite differences."""

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.learning.agents import Loss

STEP = 1e-6


def slopes(
    loss: Loss, arguments: tuple[TensorDict, TensorDict, TensorDict], leaves: Sequence[Tensor], every: int
) -> tuple[list[float], list[float]]:
    """Derivatives of a loss in some numbers of its parameters: by autograd, and by central differences.

    Args:
        loss: of an agent.
        arguments: its parameters, in float64, batch and noise.
        leaves: of the parameters, that require gradients.
        every: of each leaf the numbers at its multiples.
    """
    gradients = torch.autograd.grad(loss(*arguments)[0], leaves)
    exact, differences = [], []
    with torch.no_grad():
        for leaf, gradient in zip(leaves, gradients, strict=True):
            flat = leaf.view(-1)
            for index in range(0, len(flat), every):
                losses = []
                for sign in (1, -2):
                    flat[index] += sign * STEP
                    losses.append(loss(*arguments)[0].item())
                flat[index] += STEP
                exact.append(gradient.reshape(-1)[index].item())
                differences.append((losses[0] - losses[1]) / (2 * STEP))
    return exact, differences
