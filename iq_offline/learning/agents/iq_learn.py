"""Offline IQ-Learn: the objective for any actions, then its two kinds.

The networks, Q and V of either kind are in ``soft_q.py``.
"""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, UnitBox, call, normalized, rows_of, tensors
from iq_offline.learning.agents.soft_q import SoftActorCritic, SoftmaxOfQ, SoftQ
from iq_offline.learning.networks import gaussian, sample_squashed
from iq_offline.learning.objective import (
    beyond_half,
    beyond_one,
    divergence_loss,
    implied_reward,
    initial_value,
    iq_loss,
    soft_policy_loss,
    telescoped_value,
)

COEFFICIENTS = ("discount", "chi2_alpha", "temperature", "gradient_penalty", "behavior_anchor")
"""Keys of :class:`IQLearnConfig` that are factors in a loss: the learners of a population may have different ones."""
CHOOSING = (
    *("reward_penalty", "reward_learning_rate"),
    *("choose_every", "lasting", "relevance", "least_share", "outlier_error"),
)
"""Keys of :class:`IQLearnConfig` for those who choose from suboptimal data."""


class IQLearn(SoftQ):
    """The critic's loss as a function of (parameters, batch, noise), for whatever Q and V its kinds define.

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there; over which
            states each term is taken; and whether there is a gradient penalty at all, which costs time.
        suboptimal: whether batches hold the kind ``suboptimal`` beside ``expert``.
    """

    config: IQLearnConfig
    coefficients = COEFFICIENTS
    unread: tuple[str, ...] = CHOOSING

    def __init__(self, config: IQLearnConfig, suboptimal: bool = False) -> None:
        self.config = config
        self.discount = config.discount
        if config.divergence != "chi_squared":
            self.unread = (*self.unread, "chi2_alpha", "chi2_states")
        if config.divergence not in ("total_variation", "wasserstein"):
            self.unread = (*self.unread, "constraint_weight")
        if not config.target_network:
            self.unread = (*self.unread, "target_update_rate")
        self.next_critic = "target_critic" if config.target_network else "critic"
        self.target_update_rate = config.target_update_rate
        self.states: tuple[str, ...] = ("expert", "suboptimal") if suboptimal else ("expert",)
        self.kinds: tuple[str, ...] = (*self.states, "initial") if config.value_states == "initial" else self.states

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective, minimised in Q; the policy is held fixed, V(s') comes from the target critic, if any."""
        config, coefficients = self.config, tensors(parameters["coefficients"])
        discount, chi2_alpha = coefficients["discount"], coefficients["chi2_alpha"]
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        next_state = normalized(parameters, rows_of(batch, self.states, "next", "observation"))
        action = self.as_input(rows_of(batch, self.states, "action"))
        terminated = rows_of(batch, self.states, "next", "terminated")
        draws = rows_of(noise, self.states)

        q = self.q(parameters["critic"], state, action)
        next_value = self.value(parameters, self.next_critic, next_state, draws[:, 0])
        reward = implied_reward(q, next_value, terminated, discount)
        experts = len(batch["expert", "action"])

        if config.value_states == "initial":
            start = normalized(parameters, batch["initial", "observation"])
            start_value = self.value(parameters, "critic", start, noise["initial"][:, 0])
            value_term = initial_value(start_value, discount)
        else:
            rows = experts if config.value_states == "expert" else len(q)
            value = self.value(parameters, "critic", state[:rows], draws[:rows, 1])
            value_term = telescoped_value(value, next_value[:rows], terminated[:rows], discount)
        regularized = reward[:experts] if config.chi2_states == "expert" else reward
        at_expert = parameters["critic"], state[:experts], action[:experts]
        penalty = self.slope(*at_expert)
        if config.divergence == "chi_squared":
            loss = iq_loss(reward[:experts], value_term, regularized, chi2_alpha)
            own = {"critic/chi2": regularized.square().mean() / (4 * chi2_alpha)}
        else:
            violation = config.constraint_weight * self.violation(reward, *at_expert)
            loss = divergence_loss(reward[:experts], value_term, config.divergence, violation)
            own = {"critic/violation": violation}
        loss = loss + coefficients["gradient_penalty"] * penalty
        return loss, {
            "critic/loss": loss,
            "critic/expert_reward": reward[:experts].mean(),
            "critic/value_term": value_term,
            "critic/q": q.mean(),
            "critic/slope": penalty,
            **own,
        }

    def reward_bound(self, expert_share: float) -> float:
        """Of 2 alpha (d_E - d_pi) / d_mix over the mixture's transitions; over the expert's there is none below.

        At temperatures from 0.1 on there is none either: entropy is worth as much as rewards.
        """
        config = self.config
        if config.divergence == "total_variation":
            return 0.5
        two_sided = config.divergence == "chi_squared" and config.chi2_states == "mixture" and config.temperature < 0.1
        return 2 * config.chi2_alpha / min(expert_share, 1 - expert_share) if two_sided and expert_share < 1 else 0.0

    def violation(self, reward: Tensor, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """By how much the reward leaves what the divergence is a supremum over; 0 for those without such a bound."""
        if self.config.divergence == "total_variation":
            return beyond_half(reward)
        if self.config.divergence == "wasserstein":
            by = (0, 1) if action.is_floating_point() else (0,)
            slopes = grad(lambda s, a: self.q(critic, s, a, twice=True).sum(), argnums=by)(state, action)
            return beyond_one(torch.cat(slopes, -1))
        return reward.new_zeros(())

    def slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """What ``gradient_penalty`` weighs; 0 where there is no gradient to speak of."""
        return state.new_zeros(())


class ContinuousIQLearn(SoftActorCritic, IQLearn):
    """IQ-Learn for actions in a box.

    Args:
        encoder: of the observations.
        unit_box: maps the dataset's actions to [-1, 1].
        hidden_sizes: of the actor and of the critic.
        config: as for :class:`IQLearn`.
        suboptimal: as for :class:`IQLearn`.
    """

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        unit_box: UnitBox,
        hidden_sizes: tuple[int, ...],
        suboptimal: bool = False,
    ) -> None:
        super().__init__(config, suboptimal)
        self.make_networks(encoder, unit_box, hidden_sizes)

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

    def slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """E_E[|dQ/da|²] at the expert's actions in the unit box, where a soft-optimal expert has its maximum."""
        if not self.config.gradient_penalty:
            return state.new_zeros(())
        slope = grad(lambda at: self.q(critic, state, at, twice=True).sum())(action)
        return slope.square().sum(-1).mean()


class DiscreteIQLearn(SoftmaxOfQ, IQLearn):
    """IQ-Learn for finitely many actions."""

    unread: tuple[str, ...] = (
        *CHOOSING,
        "gradient_penalty",
        "behavior_anchor",
        "actor_follows_critic",
        "actor_learning_rate",
    )

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: ActionBranches,
        hidden_sizes: tuple[int, ...],
        suboptimal: bool = False,
    ) -> None:
        super().__init__(config, suboptimal)
        self.make_networks(encoder, actions, hidden_sizes)
