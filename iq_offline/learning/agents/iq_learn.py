"""Offline IQ-Learn for continuous actions: the objective with a soft actor-critic policy step (section 4)."""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.config import IQLearnConfig
from iq_offline.learning.agents import Metrics, Phase, UnitBox, call, fresh, normalized, rows_of
from iq_offline.learning.networks import gaussian, mlp, sample_squashed
from iq_offline.learning.objective import (
    implied_reward,
    initial_value,
    iq_loss,
    soft_policy_loss,
    soft_value,
    telescoped_value,
)


class IQLearn:
    """Losses of IQ-Learn as functions of (parameters, batch, noise).

    Args:
        config: coefficients, and over which states each term is taken.
        observation_size: numbers in an observation.
        unit_box: maps the dataset's actions to [-1, 1].
        hidden_sizes: of the actor and of the critic.
        suboptimal: whether batches hold the kind ``suboptimal`` beside ``expert``.
    """

    def __init__(
        self,
        config: IQLearnConfig,
        observation_size: int,
        action_size: int,
        unit_box: UnitBox,
        hidden_sizes: tuple[int, ...],
        suboptimal: bool = False,
    ) -> None:
        self.config = config
        self.unit_box = unit_box
        self.actor = mlp(observation_size, *hidden_sizes, 2 * action_size)
        self.critic = mlp(observation_size + action_size, *hidden_sizes, 1)
        self.target_update_rate = config.target_update_rate
        self.states: tuple[str, ...] = ("expert", "suboptimal") if suboptimal else ("expert",)
        self.kinds: tuple[str, ...] = (*self.states, "initial") if config.value_states == "initial" else self.states
        self.noise_shape: tuple[int, ...] = (3, action_size)
        self.phases: tuple[Phase, ...] = (
            Phase("critic", self.critic_loss, config.critic_learning_rate, config.adam_beta1),
            Phase("actor", self.actor_loss, config.actor_learning_rate, config.adam_beta1),
        )

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """Networks drawn from torch's global generator; the target starts as the critic."""
        critic = fresh(self.critic)
        return TensorDict(
            {
                "actor": fresh(self.actor),
                "critic": critic,
                "target_critic": critic.clone(),
                "normalizer": TensorDict({"mean": observation_mean, "std": observation_std}),
            }
        )

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective, minimised in Q; the policy is held fixed, V(s') comes from the target critic."""
        config = self.config
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        next_state = normalized(parameters, rows_of(batch, self.states, "next", "observation"))
        action = self.unit_box(rows_of(batch, self.states, "action"))
        terminated = rows_of(batch, self.states, "next", "terminated")
        draws = rows_of(noise, self.states)

        q = self._q(parameters["critic"], state, action)
        next_value = self._value(parameters, "target_critic", next_state, draws[:, 0])
        reward = implied_reward(q, next_value, terminated, config.discount)
        experts = len(batch["expert", "action"])

        if config.value_states == "initial":
            start = normalized(parameters, batch["initial", "observation"])
            start_value = self._value(parameters, "critic", start, noise["initial"][:, 0])
            value_term = initial_value(start_value, config.discount)
        else:
            rows = experts if config.value_states == "expert" else len(q)
            value = self._value(parameters, "critic", state[:rows], draws[:rows, 1])
            value_term = telescoped_value(value, next_value[:rows], terminated[:rows], config.discount)
        regularized = reward[:experts] if config.chi2_states == "expert" else reward
        loss = iq_loss(reward[:experts], value_term, regularized, config.chi2_alpha)
        penalty = torch.zeros(())
        if config.gradient_penalty:
            penalty = self._slope(parameters["critic"], state[:experts], action[:experts])
            loss = loss + config.gradient_penalty * penalty
        return loss, {
            "critic/loss": loss,
            "critic/expert_reward": reward[:experts].mean(),
            "critic/value_term": value_term,
            "critic/chi2": regularized.square().mean() / (4 * config.chi2_alpha),
            "critic/q": q.mean(),
            "critic/slope": penalty,
        }

    def actor_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """One soft actor-critic policy step on the states of the data."""
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        draws = rows_of(noise, self.states)
        mean, std = gaussian(call(self.actor, parameters["actor"], state))
        action, log_probability = sample_squashed(mean, std, draws[:, 2])
        loss = soft_policy_loss(self._q(parameters["critic"], state, action), log_probability, self.config.temperature)
        expert_action = self.unit_box(batch["expert", "action"])
        error = (torch.tanh(mean[: len(expert_action)]) - expert_action).square().sum(-1).mean()
        return loss, {
            "actor/loss": loss,
            "actor/entropy": -log_probability.mean(),
            "actor/squared_error": error,
        }

    def _q(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        return call(self.critic, critic, torch.cat([state, action], -1)).squeeze(-1)

    def _slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """E_E[|dQ/du|²] at the expert's actions a = tanh(u), where a soft-optimal expert has its maximum.

        Before the squashing, as the actor feels it: at the faces of the box Q may well rise outwards.
        """
        slope = grad(lambda at: self._q(critic, state, at).sum())(action) * (1 - action.square())
        return slope.square().sum(-1).mean()

    def _value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        mean, std = gaussian(call(self.actor, parameters["actor"].detach(), state))
        action, log_probability = sample_squashed(mean, std, noise)
        return soft_value(self._q(parameters[critic], state, action), log_probability, self.config.temperature)
