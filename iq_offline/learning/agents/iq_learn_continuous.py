"""IQ-Learn for actions in a box: a policy of its own, and a soft actor-critic step behind the critic (section 4.2)."""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.config import IQLearnConfig
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Phase, UnitBox, call, normalized, rows_of, tensors
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.networks import gaussian, network, sample_squashed, squashed_log_probability
from iq_offline.learning.objective import soft_policy_loss, soft_value


class ContinuousIQLearn(IQLearn):
    """IQ-Learn for actions in a box. Arguments are those of :class:`IQLearn`, the box first seen as [-1, 1]."""

    averaged = "actor"

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        unit_box: UnitBox,
        hidden_sizes: tuple[int, ...],
        suboptimal: bool = False,
    ) -> None:
        super().__init__(config, encoder, unit_box, hidden_sizes, suboptimal)
        self.unit_box = unit_box
        size = len(unit_box.center)
        self.actor = self.cloning.actor if self.regressed else network(encoder, hidden_sizes, 2 * size)
        self.critic = network(encoder, hidden_sizes, 1, extra=size)
        self.noise_shape: tuple[int, ...] = (3, size)
        step = Phase("actor", self.actor_loss, config.actor_learning_rate, config.adam_beta1)
        self.phases = self.in_turn(self.critic_loss, (step,))

    def actor_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """One soft actor-critic policy step on the states of the data, anchored to the expert's actions if asked for.

        The anchor is that of TD3+BC (Fujimoto and Gu, 2021), here to the labelled expert alone.
        """
        coefficients = tensors(parameters["coefficients"])
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        draws = rows_of(noise, self.states)
        mean, std = gaussian(call(self.actor, parameters["actor"], state))
        action, log_probability = sample_squashed(mean, std, draws[:, 2])
        expert_action = self.as_input(batch["expert", "action"])
        error = (torch.tanh(mean[: len(expert_action)]) - expert_action).square().sum(-1).mean()
        loss = coefficients["behavior_anchor"] * error
        if self.config.actor_follows_critic:
            q = self.q(parameters["critic"], state, action)
            loss = loss + soft_policy_loss(q, log_probability, coefficients["temperature"])
        return loss, {
            "actor/loss": loss,
            "actor/entropy": -log_probability.mean(),
            "actor/squared_error": error,
        }

    def as_input(self, action: Tensor) -> Tensor:
        """In the unit box."""
        return self.unit_box(action)

    def q(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """One number from the state and the action."""
        return call(self.critic, critic, torch.cat([state, action], -1)).squeeze(-1)

    def policy_value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """By one action of the policy; a regressed policy is its mean alone, without an entropy."""
        mean, std = gaussian(call(self.actor, parameters["actor"].detach(), state))
        if self.regressed:
            return self.q(parameters[critic], state, torch.tanh(mean))
        action, log_probability = sample_squashed(mean, std, noise)
        q = self.q(parameters[critic], state, action)
        return soft_value(q, log_probability, parameters["coefficients", "temperature"])

    def errors(self, parameters: TensorDict, state: Tensor, action: Tensor) -> Metrics:
        """Of the squashed Gaussian, and of its mode."""
        mean, std = gaussian(call(self.actor, parameters["actor"], state))
        error = (torch.tanh(mean) - action).square().sum(-1)
        return {"error": error, "log_likelihood": squashed_log_probability(mean, std, action)}

    def slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """E_E[|dQ/da|²] at the expert's actions in the unit box, where a soft-optimal expert has its maximum."""
        if not self.config.gradient_penalty:
            return state.new_zeros(())
        slope = grad(lambda at: self.q(critic, state, at).sum())(action)
        return slope.square().sum(-1).mean()
