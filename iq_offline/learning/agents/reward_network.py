"""A reward r(s, a) as a network of its own, for whoever learns one by itself."""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import UnitBox, action_inputs, call
from iq_offline.learning.networks import Hidden, network


class RewardNetwork:
    """Layers whose weights come from outside.

    Args:
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of the layers between.
    """

    def __init__(self, encoder: ObservationEncoder, actions: UnitBox | ActionBranches, hidden: Hidden) -> None:
        self.actions = actions
        width = len(actions.center) if isinstance(actions, UnitBox) else sum(actions.counts)
        self.layers = network(encoder, hidden, 1, extra=width)

    def inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """State and action side by side.

        Args:
            state: as the networks read it.
            action: as the dataset has it.
        """
        return torch.cat([state, action_inputs(self.actions, action).to(state.dtype)], -1)

    def __call__(self, weights: TensorDict, inputs: Tensor, twice: bool = False) -> Tensor:
        """r, shape ``(batch,)``; ``twice`` as for :func:`call`."""
        return call(self.layers, weights, inputs, twice).squeeze(-1)

    def at(self, weights: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """r(s, a), shape ``(batch,)``; arguments as for :meth:`inputs`."""
        return self(weights, self.inputs(state, action))

    def slopes_between(self, weights: TensorDict, start: Tensor, end: Tensor, draws: Tensor) -> Tensor:
        """dr/d(s, a) somewhere on the way from ``start`` to ``end``, shape ``(batch, inputs)``.

        Args:
            weights: of the layers.
            start: inputs.
            end: as many.
            draws: where, standard normal, shape ``(batch, 1)``.
        """
        between = torch.lerp(start, end, torch.special.ndtr(draws))
        return grad(lambda at: self(weights, at, twice=True).sum())(between)
