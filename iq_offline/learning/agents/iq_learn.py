"""Offline IQ-Learn: the objective for any actions, then its two kinds.

Continuous actions have a policy of their own, a soft actor-critic step behind the critic (section 4.2); with finitely
many, the policy is the softmax of Q and there is nothing else to learn (section 4.1, soft Q-learning).
"""

from abc import ABC, abstractmethod

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Phase, UnitBox, call, fresh, normalized, rows_of, tensors
from iq_offline.learning.networks import (
    branch_values,
    chosen_branches,
    gaussian,
    network,
    sample_squashed,
    squashed_log_probability,
)
from iq_offline.learning.objective import (
    beyond_half,
    beyond_one,
    discrete_soft_value,
    divergence_loss,
    implied_reward,
    initial_value,
    iq_loss,
    soft_policy_loss,
    soft_value,
    telescoped_value,
)

COEFFICIENTS = ("discount", "chi2_alpha", "temperature", "gradient_penalty", "behavior_anchor")
"""Keys of :class:`IQLearnConfig` that are factors in a loss: the learners of a population may have different ones."""
CHOOSING = (
    *("reward_penalty", "reward_learning_rate"),
    *("choose_every", "lasting", "relevance", "least_share", "outlier_error"),
)
"""Keys of :class:`IQLearnConfig` for those who choose from suboptimal data."""


class IQLearn(ABC):
    """The critic's loss as a function of (parameters, batch, noise), for whatever Q and V its kinds define.

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there; over which
            states each term is taken; and whether there is a gradient penalty at all, which costs time.
        others: kinds of the mixture beside ``expert``: ``suboptimal``, ``online``, both or none.
    """

    averaged: str
    phases: tuple[Phase, ...]
    noise_shape: tuple[int, ...]
    unread: tuple[str, ...] = CHOOSING

    def __init__(self, config: IQLearnConfig, others: tuple[str, ...] = ()) -> None:
        self.config = config
        self.discount = config.discount
        if config.divergence != "chi_squared":
            self.unread = (*self.unread, "chi2_alpha", "chi2_states")
        if config.divergence not in ("total_variation", "wasserstein"):
            self.unread = (*self.unread, "constraint_weight")
        self.target_update_rate = config.target_update_rate
        self.states: tuple[str, ...] = ("expert", *others)
        self.kinds: tuple[str, ...] = (*self.states, "initial") if config.value_states == "initial" else self.states

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective, minimised in Q; the policy is held fixed, V(s') comes from the target critic."""
        config, coefficients = self.config, tensors(parameters["coefficients"])
        discount, chi2_alpha = coefficients["discount"], coefficients["chi2_alpha"]
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        next_state = normalized(parameters, rows_of(batch, self.states, "next", "observation"))
        action = self.as_input(rows_of(batch, self.states, "action"))
        terminated = rows_of(batch, self.states, "next", "terminated")
        draws = rows_of(noise, self.states)

        q = self.q(parameters["critic"], state, action)
        next_value = self.value(parameters, "target_critic", next_state, draws[:, 0])
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

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """Q and the reward that it implies; V(s') here without noise and by the critic itself."""
        state, action = normalized(parameters, rows["observation"]), self.as_input(rows["action"])
        next_state = normalized(parameters, rows["next", "observation"])
        q = self.q(parameters["critic"], state, action)
        next_value = self.value(parameters, "critic", next_state, state.new_zeros(len(q), self.noise_shape[-1]))
        reward = implied_reward(q, next_value, rows["next", "terminated"], self.discount)
        return self.action_errors(parameters, state, action) | {"reward": reward, "value": q}

    @abstractmethod
    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Drawn from the policy: points of the unit box ``(n, size)``, or indices ``(n, branches)``."""

    @abstractmethod
    def action_errors(self, parameters: TensorDict, state: Tensor, action: Tensor) -> Metrics:
        """``error`` and ``log_likelihood`` of each row, under the policy."""

    @abstractmethod
    def as_input(self, action: Tensor) -> Tensor:
        """The dataset's actions as :meth:`q` takes them."""

    @abstractmethod
    def q(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """Q(s, a), shape ``(batch,)``."""

    @abstractmethod
    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """V(s) by that critic, shape ``(batch,)``."""

    def violation(self, reward: Tensor, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """By how much the reward leaves what the divergence is a supremum over; 0 for those without such a bound."""
        if self.config.divergence == "total_variation":
            return beyond_half(reward)
        if self.config.divergence == "wasserstein":
            by = (0, 1) if action.is_floating_point() else (0,)
            slopes = grad(lambda s, a: self.q(critic, s, a).sum(), argnums=by)(state, action)
            return beyond_one(torch.cat(slopes, -1))
        return reward.new_zeros(())

    def slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """What ``gradient_penalty`` weighs; 0 where there is no gradient to speak of."""
        return state.new_zeros(())

    def constants(self, observation_mean: Tensor, observation_std: Tensor) -> dict[str, TensorDict]:
        """The groups of parameters that nothing moves."""
        config = self.config
        coefficients = {name: torch.tensor(getattr(config, name), dtype=torch.float64) for name in COEFFICIENTS}
        normalizer = {"mean": observation_mean, "std": observation_std}
        return {"normalizer": TensorDict(normalizer), "coefficients": TensorDict(coefficients)}


class ContinuousIQLearn(IQLearn):
    """IQ-Learn for actions in a box.

    Args:
        encoder: of the observations.
        unit_box: maps the dataset's actions to [-1, 1].
        hidden_sizes: of the actor and of the critic.
        config: as for :class:`IQLearn`.
        others: as for :class:`IQLearn`.
    """

    averaged = "actor"

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        unit_box: UnitBox,
        hidden_sizes: tuple[int, ...],
        others: tuple[str, ...] = (),
    ) -> None:
        super().__init__(config, others)
        self.unit_box = unit_box
        size = len(unit_box.center)
        self.actor = network(encoder, hidden_sizes, 2 * size)
        self.critic = network(encoder, hidden_sizes, 1, extra=size)
        self.noise_shape: tuple[int, ...] = (3, size)
        self.phases = (
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
                **self.constants(observation_mean, observation_std),
            }
        )

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

    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """From the squashed Gaussian."""
        mean, std = gaussian(call(self.actor, parameters["actor"], normalized(parameters, observation)))
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return sample_squashed(mean, std, noise)[0]

    def as_input(self, action: Tensor) -> Tensor:
        """In the unit box."""
        return self.unit_box(action)

    def q(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """One number from the state and the action."""
        return call(self.critic, critic, torch.cat([state, action], -1)).squeeze(-1)

    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """By one action of the policy."""
        mean, std = gaussian(call(self.actor, parameters["actor"].detach(), state))
        action, log_probability = sample_squashed(mean, std, noise)
        q = self.q(parameters[critic], state, action)
        return soft_value(q, log_probability, parameters["coefficients", "temperature"])

    def action_errors(self, parameters: TensorDict, state: Tensor, action: Tensor) -> Metrics:
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


class DiscreteIQLearn(IQLearn):
    """IQ-Learn for finitely many actions: Q(s, a) is a sum of one number a branch, so that V(s) is exact.

    Discrete is one branch. For several, exp(Q/T) is a product of softmaxes and its logsumexp the sum of theirs.
    """

    averaged = "critic"
    unread = (*CHOOSING, "gradient_penalty", "behavior_anchor", "actor_follows_critic", "actor_learning_rate")

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: ActionBranches,
        hidden_sizes: tuple[int, ...],
        others: tuple[str, ...] = (),
    ) -> None:
        super().__init__(config, others)
        self.actions = actions
        self.critic = network(encoder, hidden_sizes, sum(actions.counts))
        self.noise_shape: tuple[int, ...] = (3, 0)
        self.phases = (Phase("critic", self.loss, config.critic_learning_rate, config.adam_beta1),)

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """The network drawn from torch's global generator; the target starts as it."""
        critic = fresh(self.critic)
        constants = self.constants(observation_mean, observation_std)
        return TensorDict({"critic": critic, "target_critic": critic.clone(), **constants})

    def loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective, and how often the best action by Q is not the expert's."""
        loss, metrics = self.critic_loss(parameters, batch, noise)
        with torch.no_grad():
            state = normalized(parameters, batch["expert", "observation"])
            greedy = self._branches(parameters["critic"], state).argmax(-1)
            wrong = (greedy != batch["expert", "action"]).any(-1).to(loss.dtype).mean()
        return loss, metrics | {"actor/wrong_actions": wrong}

    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """From the softmax of Q, a branch at a time."""
        logits = self._branches(parameters["critic"], normalized(parameters, observation))
        probability = torch.softmax(logits / parameters["coefficients", "temperature"], -1)
        drawn = torch.multinomial(probability.flatten(0, 1), 1, generator=generator)
        return drawn.reshape(probability.shape[:-1])

    def as_input(self, action: Tensor) -> Tensor:
        """Indices as they are."""
        return action

    def q(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """The sum over branches of the chosen values."""
        return self._branches(critic, state).gather(-1, action.unsqueeze(-1)).squeeze(-1).sum(-1)

    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """Exact: the sum over branches of their soft values."""
        branches = self._branches(parameters[critic], state)
        return discrete_soft_value(branches, parameters["coefficients", "temperature"]).sum(-1)

    def action_errors(self, parameters: TensorDict, state: Tensor, action: Tensor) -> Metrics:
        """Of the softmax of Q, and of its largest value."""
        logits = self._branches(parameters["critic"], state) / parameters["coefficients", "temperature"]
        log_probability, wrong = chosen_branches(logits, action)
        return {"error": wrong, "log_likelihood": log_probability}

    def _branches(self, critic: TensorDict, state: Tensor) -> Tensor:
        return branch_values(call(self.critic, critic, state), self.actions.counts)
