"""GAIL on the soft actor-critic of all others here: a discriminator's reward in the place of an implied one."""

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config.baselines import GAILConfig
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.adversarial import adversarial_reward, discriminator_loss
from iq_offline.learning.agents import UnitBox
from iq_offline.learning.agents.learned_reward import LearnedReward
from iq_offline.learning.agents.soft_q import AnchoredActorCritic
from iq_offline.learning.networks import Hidden
from iq_offline.learning.objective import away_from_one

GAIL_COEFFICIENTS = ("discount", "temperature", "gradient_penalty", "behavior_anchor")
"""Keys of :class:`GAILConfig` that are factors in a loss: the learners of a population may have different ones."""


class GAIL(LearnedReward, AnchoredActorCritic):
    """The losses as functions of (parameters, batch, noise).

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there, and rates.
        encoder: of the observations.
        unit_box: maps the dataset's actions to [-1, 1].
        hidden: of the discriminator, of the critic and of the actor.
        others: the kinds of a batch beside ``expert``.
    """

    config: GAILConfig
    coefficients = GAIL_COEFFICIENTS
    steepness_weight = "gradient_penalty"
    unread: tuple[str, ...] = ()

    def __init__(
        self,
        config: GAILConfig,
        encoder: ObservationEncoder,
        unit_box: UnitBox,
        hidden: Hidden,
        others: tuple[str, ...] = ("online",),
    ) -> None:
        self.config = config
        self.discount = config.discount
        self.target_update_rate = config.target_update_rate
        self.states = self.kinds = ("expert", *others)
        self.critics = config.critics
        self.make_networks(encoder, unit_box, hidden)
        self.make_reward(encoder, unit_box, hidden, config.discriminator_learning_rate, config.adam_beta1)

    def separation(self, parameters: TensorDict, expert: Tensor, others: Tensor) -> Tensor:
        """The cross-entropy of a discriminator, whose logits these are."""
        return discriminator_loss(expert, others)

    def too_steep(self, slopes: Tensor) -> Tensor:
        """Slopes of 1 cost nothing, others do."""
        return away_from_one(slopes)

    def earned(self, parameters: TensorDict, output: Tensor) -> Tensor:
        """-log(1 - D)."""
        return adversarial_reward(output)

    def relative_density(self, parameters: TensorDict, output: Tensor) -> Tensor:
        """2 D - 1."""
        return torch.tanh(output / 2)

    def reward_bound(self, expert_share: float) -> float:
        """A ratio of distributions has none."""
        return 0.0
