"""What all learners of a soft Q have in common: the networks, Q and V, and what they say of recorded transitions.

In a box an actor follows the critic (section 4.2 of IQ-Learn, soft actor-critic); with finitely many actions the
policy is the softmax of Q and there is nothing else to learn (section 4.1). What differs is the critic's loss.
"""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import (
    Metrics,
    Phase,
    UnitBox,
    call,
    call_each,
    call_members,
    constants,
    fresh,
    normalized,
    rows_of,
    together,
)
from iq_offline.learning.networks import (
    Hidden,
    branch_values,
    chosen_branches,
    drawn_branches,
    drawn_squashed,
    gaussian,
    network,
    sample_squashed,
    squashed_log_probability,
)
from iq_offline.learning.objective import discrete_soft_value, implied_reward, soft_policy_loss, soft_value


class SoftQ(ABC):
    """The critic and its target; what follows the critic is the subclasses'."""

    averaged: str
    config: Any
    """The algorithm's section."""
    coefficients: tuple[str, ...]
    """Keys of the configuration that are factors in a loss: the learners of a population may have different ones."""
    critic: nn.Sequential
    critics = 1
    """Members of the critic's ensemble; V is by the smallest of their values."""
    discount: float
    noise_shape: tuple[int, ...]
    phases: tuple[Phase, ...]
    states: tuple[str, ...]
    """Kinds of data, the expert's first, on whose states the losses are."""

    @abstractmethod
    def make_networks(self, encoder: ObservationEncoder, actions: Any, hidden: Hidden) -> None:
        """Make them and the phases that train them; ``config`` and ``critics`` are known by then."""

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """The critic drawn from torch's global generator; the target starts as the critic."""
        critic = fresh(self.critic, self.critics)
        groups = constants(self.config, self.coefficients, observation_mean, observation_std)
        return TensorDict({"critic": critic, "target_critic": critic.clone(), **groups})

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """Q and the reward that it implies; V(s') here without noise and by the critic itself."""
        state, action = normalized(parameters, rows["observation"]), self.as_input(rows["action"])
        next_state = normalized(parameters, rows["next", "observation"])
        q = self.q(parameters["critic"], state, action)
        next_value = self.value(parameters, "critic", next_state, state.new_zeros(len(q), self.noise_shape[-1]))
        reward = implied_reward(q, next_value, rows["next", "terminated"], self.discount)
        return self.action_errors(parameters, state, action) | {"reward": reward, "value": q}

    @abstractmethod
    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """What the critic is moved by; the policy is held fixed."""

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
    def q(self, critic: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """Q(s, a), shape ``(batch,)``; ``twice`` as for :func:`call`."""

    def each_q(self, critic: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """Q(s, a) by every critic, shape ``(critics, batch)``; ``(batch,)`` of one."""
        return self.q(critic, state, action, twice)

    @abstractmethod
    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """V(s) by that critic, shape ``(batch,)``."""


class SoftActorCritic(SoftQ):
    """Actions in a box: an actor of its own, which follows the critic."""

    averaged = "actor"

    def make_networks(self, encoder: ObservationEncoder, actions: UnitBox, hidden: Hidden) -> None:
        """Three draws of an action a row: for V(s'), for V(s), and for the actor.

        Args:
            encoder: of the observations.
            actions: maps the dataset's actions to [-1, 1].
            hidden: of the actor and of the critic.
        """
        config, self.unit_box = self.config, actions
        size = len(actions.center)
        self.actor = network(encoder, hidden, 2 * size, acts=True, members=hidden.actors)
        self.critic = network(encoder, hidden, 1, extra=size)
        self.noise_shape: tuple[int, ...] = (3, size)
        self.phases: tuple[Phase, ...] = (
            Phase("critic", self.critic_loss, config.critic_learning_rate, config.adam_beta1),
            Phase("actor", self.actor_loss, config.actor_learning_rate, config.adam_beta1),
        )

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """And the actor, drawn before the critic: behavior cloning of the same seed begins with the same one."""
        actor = fresh(self.actor)
        parameters = super().initial_parameters(observation_mean, observation_std)
        parameters["actor"] = actor
        return parameters

    def actor_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """One policy step on the states of the data, by :meth:`policy_loss`; the critic is held fixed."""
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        each = call_members(self.actor, parameters["actor"], state)
        mean, std = gaussian(together(self.actor, each))
        action, log_probability = sample_squashed(mean, std, rows_of(noise, self.states)[:, 2])
        expert_action = self.as_input(batch["expert", "action"])
        means, _ = gaussian(each[:, : len(expert_action)])
        error = (torch.tanh(means) - expert_action).square().sum(-1).mean()
        loss = self.policy_loss(parameters, state, action, log_probability, error)
        metrics = {"actor/entropy": -log_probability.mean(), "actor/squared_error": error}
        if "start" in parameters:
            apart = self.distance_from_start(parameters, state, mean)
            with torch.no_grad():
                scale = self.q(parameters["critic"], state, action).abs().mean()
            loss = loss + parameters["start", "weight"] * scale * apart
            metrics["actor/from_start"] = apart
        return loss, {"actor/loss": loss} | metrics

    def start_group(self, parameters: TensorDict) -> TensorDict:
        """The group ``start`` of the parameters, which nothing trains: the actor that fine-tuning begins with.

        With it there, the actor's loss has ``weight`` times E[|Q|] E[|tanh(mean(s)) - tanh(mean_start(s))|²] as well,
        over all states of a batch. In units of |Q|, as TD3+BC's (Fujimoto and Gu, 2021). ``trust``: how much this actor
        is to be trusted, a factor of the weight.
        """
        weight, trust = torch.tensor([0.0, 1.0], dtype=torch.float64)
        return TensorDict({"actor": parameters["actor"].clone(), "weight": weight, "trust": trust})

    def resemblance(self, parameters: TensorDict, batch: TensorDict) -> Tensor:
        """Of the online transitions in a batch to the expert's, within [0, 1]; 1 where nothing is learned of that."""
        return torch.tensor(1.0)

    def distance_from_start(self, parameters: TensorDict, state: Tensor, mean: Tensor) -> Tensor:
        """The mean over states of the squared distance between the actor's actions and those it began with."""
        theirs, _ = gaussian(call(self.actor, parameters["start", "actor"], state))
        return (torch.tanh(mean) - torch.tanh(theirs)).square().sum(-1).mean()

    def policy_loss(
        self, parameters: TensorDict, state: Tensor, action: Tensor, log_probability: Tensor, error: Tensor
    ) -> Tensor:
        """That of soft actor-critic.

        Args:
            parameters: all of them.
            state: as the networks read it.
            action: of the policy, with gradients.
            log_probability: of this action.
            error: E_E[|tanh(mean(s)) - a|²] of every member of the actor, which not every policy minds.
        """
        q = self.q(parameters["critic"], state, action)
        return soft_policy_loss(q, log_probability, parameters["coefficients", "temperature"])

    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """From the squashed Gaussian."""
        return drawn_squashed(call(self.actor, parameters["actor"], normalized(parameters, observation)), generator)

    def as_input(self, action: Tensor) -> Tensor:
        """In the unit box."""
        return self.unit_box(action)

    def each_q(self, critic: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """One number from the state and the action, of each critic where there are several."""
        outputs = call if self.critics == 1 else call_each
        return outputs(self.critic, critic, torch.cat([state, action], -1), twice).squeeze(-1)

    def q(self, critic: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """The smallest of the critics' numbers."""
        each = self.each_q(critic, state, action, twice)
        return each if self.critics == 1 else each.amin(0)

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


class AnchoredActorCritic(SoftActorCritic):
    """The actor is held to the expert's actions if asked for, as TD3+BC's (Fujimoto and Gu, 2021) to all of the data.

    Reads ``behavior_anchor`` of the coefficients.
    """

    def policy_loss(
        self, parameters: TensorDict, state: Tensor, action: Tensor, log_probability: Tensor, error: Tensor
    ) -> Tensor:
        """And the squared error from the expert's actions."""
        free = super().policy_loss(parameters, state, action, log_probability, error)
        return parameters["coefficients", "behavior_anchor"] * error + free


class SoftmaxOfQ(SoftQ):
    """Finitely many actions: Q(s, a) is a sum of one number a branch, so that V(s) is exact.

    Discrete is one branch. For several, exp(Q/T) is a product of softmaxes and its logsumexp the sum of theirs.
    """

    averaged = "critic"
    anchored = False
    """Whether the softmax is held to the expert's actions, by ``behavior_anchor`` of the coefficients."""

    def make_networks(self, encoder: ObservationEncoder, actions: ActionBranches, hidden: Hidden) -> None:
        """No draws.

        Args:
            encoder: of the observations.
            actions: their branches.
            hidden: of the critic.
        """
        self.actions = actions
        self.critic = network(encoder, hidden, sum(actions.counts), acts=self.averaged == "critic")
        self.noise_shape: tuple[int, ...] = (3, 0)
        self.phases: tuple[Phase, ...] = (
            Phase("critic", self.loss, self.config.critic_learning_rate, self.config.adam_beta1),
        )

    def loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The critic's, that of the expert's actions under the softmax where it is anchored, and how often it errs."""
        loss, metrics = self.critic_loss(parameters, batch, noise)
        state = normalized(parameters, batch["expert", "observation"])
        with nullcontext() if self.anchored else torch.no_grad():
            found = self.action_errors(parameters, state, batch["expert", "action"])
        if self.anchored:
            loss = loss - parameters["coefficients", "behavior_anchor"] * found["log_likelihood"].mean()
        return loss, metrics | {"actor/wrong_actions": found["error"].mean()}

    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """From the softmax of Q, a branch at a time."""
        logits = self._branches(parameters["critic"], normalized(parameters, observation))
        return drawn_branches(logits / parameters["coefficients", "temperature"], generator)

    def as_input(self, action: Tensor) -> Tensor:
        """Indices as they are."""
        return action

    def q(self, critic: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """The sum over branches of the chosen values."""
        return self._branches(critic, state, twice).gather(-1, action.unsqueeze(-1)).squeeze(-1).sum(-1)

    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """Exact: the sum over branches of their soft values."""
        branches = self._branches(parameters[critic], state)
        return discrete_soft_value(branches, parameters["coefficients", "temperature"]).sum(-1)

    def action_errors(self, parameters: TensorDict, state: Tensor, action: Tensor) -> Metrics:
        """Of the softmax of Q, and of its largest value."""
        logits = self._branches(parameters["critic"], state) / parameters["coefficients", "temperature"]
        log_probability, wrong = chosen_branches(logits, action)
        return {"error": wrong, "log_likelihood": log_probability}

    def _branches(self, critic: TensorDict, state: Tensor, twice: bool = False) -> Tensor:
        return branch_values(call(self.critic, critic, state, twice), self.actions.counts)
