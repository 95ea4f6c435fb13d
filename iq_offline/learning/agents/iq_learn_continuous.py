"""IQ-Learn for actions in a box: a policy of its own, and a soft actor-critic step behind the critic (section 4.2)."""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.learning.agents import call
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.agents.soft_q import AnchoredActorCritic
from iq_offline.learning.networks import gaussian


class ContinuousIQLearn(IQLearn, AnchoredActorCritic):
    """IQ-Learn for actions in a box. Arguments are those of :class:`IQLearn`, the box first seen as [-1, 1]."""

    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """A regressed policy is its mean alone, without an entropy."""
        if self.regressed and not self.in_sample:
            mean, _ = gaussian(call(self.actor, parameters["actor"].detach(), state))
            return self.q(parameters[critic], state, torch.tanh(mean))
        return super().value(parameters, critic, state, noise)

    def slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """E_E[|dQ/da|²] at the expert's actions in the unit box, where a soft-optimal expert has its maximum."""
        if not self.config.gradient_penalty:
            return state.new_zeros(())
        slope = grad(lambda at: self.q(critic, state, at, twice=True).sum())(action)
        return slope.square().sum(-1).mean()
