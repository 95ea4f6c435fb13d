"""What learners have in common whose reward is a network of its own, beside the Q that it is worth to the policy.

The network tells the expert's transitions from all others, its slopes between the two are held, and the policy earns
what it says. Q follows by squared soft Bellman errors, and the policy follows Q. What tells apart is the subclasses'.
"""

from abc import abstractmethod

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Phase, Transitions, UnitBox, fresh, normalized, rows_of
from iq_offline.learning.agents.reward_network import RewardNetwork
from iq_offline.learning.agents.soft_q import SoftQ
from iq_offline.learning.networks import Hidden
from iq_offline.learning.objective import implied_reward


class LearnedReward(SoftQ):
    """The losses of reward and critic as functions of (parameters, batch, noise)."""

    steepness_weight: str
    """Key of the coefficient of :meth:`too_steep`."""
    reward: RewardNetwork

    def make_reward(
        self,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
        learning_rate: float,
        beta1: float = 0.9,
    ) -> None:
        """After the other networks, and learned before them.

        Args:
            encoder: of the observations.
            actions: the box that continuous actions are in, or the branches of finitely many.
            hidden: of the reward's network.
            learning_rate: Adam's, at the start.
            beta1: Adam's.
        """
        self.reward = RewardNetwork(encoder, actions, hidden)
        self.noise_shape = (3, max(1, self.noise_shape[-1]))  # One draw at least: where between two rows slopes are.
        self.phases = (Phase("reward", self.reward_loss, learning_rate, beta1), *self.phases)

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """And the reward, last."""
        parameters = super().initial_parameters(observation_mean, observation_std)
        parameters["reward"] = fresh(self.reward.layers)
        return parameters

    @abstractmethod
    def separation(self, parameters: TensorDict, expert: Tensor, others: Tensor) -> Tensor:
        """What is minimised in the network's outputs on the expert's transitions and on all others."""

    @abstractmethod
    def too_steep(self, slopes: Tensor) -> Tensor:
        """What its slopes cost, of shape ``(batch, inputs)``."""

    @abstractmethod
    def earned(self, parameters: TensorDict, output: Tensor) -> Tensor:
        """The policy's reward where the network says ``output``; never negative, as ends for good are worth 0."""

    @abstractmethod
    def relative_density(self, parameters: TensorDict, output: Tensor) -> Tensor:
        """(d_E - d) / (d_E + d) where the network says ``output``, d the density of all else.

        Within [-1, 1] at the optimum.
        """

    @torch.no_grad()
    def resemblance(self, parameters: TensorDict, batch: TensorDict) -> Tensor:
        """1 - (E_E[u] - E_O[u]) / 2, where u = (d_E - d_O) / (d_E + d_O): how alike the network finds the two.

        At its optimum 1 - E_mix[u²]: what the triangular discrimination (Le Cam's distance) of the expert's transitions
        and the online ones leaves of 1.
        """

        def mean_of(kind: str) -> Tensor:
            rows = Transitions.of(parameters, batch, (kind,))
            output = self.reward.at(parameters["reward"], rows.state, rows.action)
            return self.relative_density(parameters, output).mean()

        return (1 - (mean_of("expert") - mean_of("online")) / 2).clamp(0, 1)

    def reward_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The expert against everything else, and the slopes somewhere between each of it and one of the expert's."""
        rows, draws = Transitions.of(parameters, batch, self.states), rows_of(noise, self.states)
        inputs, experts = self.reward.inputs(rows.state, rows.action), len(batch["expert", "action"])
        output = self.reward(parameters["reward"], inputs)
        expert, others = output[:experts], output[experts:]
        paired = inputs[torch.arange(len(others), device=inputs.device) % experts]
        where = draws[experts:, 2, :1]
        penalty = self.too_steep(self.reward.slopes_between(parameters["reward"], paired, inputs[experts:], where))
        loss = self.separation(parameters, expert, others)
        loss = loss + parameters["coefficients", self.steepness_weight] * penalty
        return loss, {
            "reward/loss": loss,
            "reward/penalty": penalty,
            "reward/expert": expert.mean(),
            "reward/others": others.mean(),
        }

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """Squared soft Bellman errors; policy and reward are held fixed, V(s') is by the target critic."""
        rows, draws = Transitions.of(parameters, batch, self.states), rows_of(noise, self.states)
        output = self.reward.at(parameters["reward"].detach(), rows.state, rows.action)
        reward = self.earned(parameters, output)
        q = self.each_q(parameters["critic"], rows.state, self.as_input(rows.action))
        next_value = self.value(parameters, "target_critic", rows.next_state, draws[:, 0])
        implied = implied_reward(q, next_value, rows.terminated, parameters["coefficients", "discount"])
        loss = (implied - reward).square().mean()
        return loss, {"critic/loss": loss, "critic/reward": reward.mean(), "critic/q": q.mean()}

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """As all learners of a soft Q do, but the reward is the network's."""
        state = normalized(parameters, rows["observation"])
        output = self.reward.at(parameters["reward"], state, rows["action"])
        return super().diagnose(parameters, rows) | {"reward": self.earned(parameters, output)}
