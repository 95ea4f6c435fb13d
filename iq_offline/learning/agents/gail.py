"""GAIL on the soft actor-critic of all others here: a discriminator's reward in the place of an implied one."""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.config.baselines import GAILConfig
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.adversarial import adversarial_reward, discriminator_loss
from iq_offline.learning.agents import Metrics, Phase, Transitions, UnitBox, call, fresh, normalized, rows_of
from iq_offline.learning.agents.soft_q import SoftActorCritic
from iq_offline.learning.networks import network
from iq_offline.learning.objective import away_from_one, implied_reward

GAIL_COEFFICIENTS = ("discount", "temperature", "gradient_penalty")
"""Keys of :class:`GAILConfig` that are factors in a loss: the learners of a population may have different ones."""


class GAIL(SoftActorCritic):
    """The losses as functions of (parameters, batch, noise).

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there, and rates.
        encoder: of the observations.
        unit_box: maps the dataset's actions to [-1, 1].
        hidden_sizes: of the discriminator, of the critic and of the actor.
        others: the kinds of a batch beside ``expert``.
    """

    config: GAILConfig
    coefficients = GAIL_COEFFICIENTS
    unread: tuple[str, ...] = ()

    def __init__(
        self,
        config: GAILConfig,
        encoder: ObservationEncoder,
        unit_box: UnitBox,
        hidden_sizes: tuple[int, ...],
        others: tuple[str, ...] = ("online",),
    ) -> None:
        self.config = config
        self.discount = config.discount
        self.target_update_rate = config.target_update_rate
        self.states = self.kinds = ("expert", *others)
        self.make_networks(encoder, unit_box, hidden_sizes)
        self.discriminator = network(encoder, hidden_sizes, 1, extra=len(unit_box.center))
        rate = config.discriminator_learning_rate
        self.phases = (Phase("discriminator", self.discriminator_loss, rate, config.adam_beta1), *self.phases)

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """And the discriminator, last."""
        parameters = super().initial_parameters(observation_mean, observation_std)
        parameters["discriminator"] = fresh(self.discriminator)
        return parameters

    def discriminator_loss(
        self, parameters: TensorDict, batch: TensorDict, noise: TensorDict
    ) -> tuple[Tensor, Metrics]:
        """The expert against everything else, and the slopes between pairs of both."""
        rows, draws = Transitions.of(parameters, batch, self.states), rows_of(noise, self.states)
        state, action = rows.state, self.as_input(rows.action)
        experts = len(batch["expert", "action"])
        logit = self.logit(parameters["discriminator"], state, action)
        expert, other = logit[:experts], logit[experts:]
        share = torch.special.ndtr(draws[:, 2, :1])
        state, action = (torch.lerp(values.roll(experts, 0), values, share) for values in (state, action))
        logit_at = lambda s, a: self.logit(parameters["discriminator"], s, a, twice=True).sum()  # noqa: E731
        penalty = away_from_one(torch.cat(grad(logit_at, argnums=(0, 1))(state, action), -1))
        loss = discriminator_loss(expert, other) + parameters["coefficients", "gradient_penalty"] * penalty
        return loss, {
            "discriminator/loss": loss,
            "discriminator/penalty": penalty,
            "discriminator/expert_logit": expert.mean(),
            "discriminator/other_logit": other.mean(),
        }

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """Squared soft Bellman errors; policy and discriminator are held fixed, V(s') is by the target critic."""
        rows, draws = Transitions.of(parameters, batch, self.states), rows_of(noise, self.states)
        action = self.as_input(rows.action)
        reward = adversarial_reward(self.logit(parameters["discriminator"].detach(), rows.state, action))
        q = self.q(parameters["critic"], rows.state, action)
        next_value = self.value(parameters, "target_critic", rows.next_state, draws[:, 0])
        implied = implied_reward(q, next_value, rows.terminated, parameters["coefficients", "discount"])
        loss = (implied - reward).square().mean()
        return loss, {"critic/loss": loss, "critic/reward": reward.mean(), "critic/q": q.mean()}

    def logit(self, discriminator: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """Of being the expert's, shape ``(batch,)``; ``twice`` as for :func:`call`."""
        return call(self.discriminator, discriminator, torch.cat([state, action], -1), twice).squeeze(-1)

    def reward_bound(self, expert_share: float) -> float:
        """A ratio of distributions has none."""
        return 0.0

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """As all soft actor-critics do, but the reward is the discriminator's."""
        state, action = normalized(parameters, rows["observation"]), self.as_input(rows["action"])
        reward = adversarial_reward(self.logit(parameters["discriminator"], state, action))
        return super().diagnose(parameters, rows) | {"reward": reward}
