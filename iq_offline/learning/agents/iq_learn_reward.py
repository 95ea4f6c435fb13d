"""IQ-Learn online with a reward of its own: r by the same objective as everywhere, Q as what it is worth to the policy.

r and Q determine each other (Q = r + gamma V(s'), section 4 of the paper), and with the transitions of others in the
place of the policy's own there is no value in the objective of r. As in ``chosen``, which learns r on recorded data:

    min_r  -E_E[r] + E_O[r] + (E_E[r²] + E_O[r²]) / (8 alpha)

At its optimum r = 4 alpha (d_E - d_O) / (d_E + d_O).
"""

from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, UnitBox
from iq_offline.learning.agents.learned_reward import LearnedReward
from iq_offline.learning.agents.soft_q import AnchoredActorCritic, SoftmaxOfQ
from iq_offline.learning.networks import Hidden
from iq_offline.learning.objective import beyond_one, separate_reward_loss

REWARD_COEFFICIENTS = ("discount", "chi2_alpha", "temperature", "reward_penalty", "behavior_anchor")
"""Keys of :class:`IQLearnConfig` that are factors in a loss here."""


class RewardIQLearn(LearnedReward):
    """The losses as functions of (parameters, batch, noise).

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there, and rates.
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of every network.
        others: the kinds of a batch beside ``expert``.
    """

    config: IQLearnConfig
    coefficients = REWARD_COEFFICIENTS
    steepness_weight = "reward_penalty"
    unread: tuple[str, ...] = (
        *("divergence", "constraint_weight", "value_states", "chi2_states", "gradient_penalty"),
        *("choose_every", "lasting", "relevance", "least_rows", "outlier_error"),
        *("expert_term", "clip_targets", "absorbing_value", "smoothness_penalty", "largest_slope", "target_network"),
        *("value", "expectile", "advantage_temperature"),
    )

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
        others: tuple[str, ...],
    ) -> None:
        self.config = config
        self.discount = config.discount
        self.target_update_rate = config.target_update_rate
        self.states = self.kinds = ("expert", *others)
        if isinstance(actions, UnitBox):
            self.critics = config.critics
        self.make_networks(encoder, actions, hidden)
        self.make_reward(encoder, actions, hidden, config.reward_learning_rate)

    def separation(self, parameters: TensorDict, expert: Tensor, others: Tensor) -> Tensor:
        """The objective in r."""
        return separate_reward_loss(expert, others, parameters["coefficients", "chi2_alpha"])

    def too_steep(self, slopes: Tensor) -> Tensor:
        """Slopes over 1."""
        return beyond_one(slopes)

    def earned(self, parameters: TensorDict, output: Tensor) -> Tensor:
        """The reward raised by its lowest value, -4 alpha: 0 where the expert never is, and after an end."""
        bound = 4 * parameters["coefficients", "chi2_alpha"]
        return (output + bound).clamp(output.new_zeros(()), 2 * bound)

    def relative_density(self, parameters: TensorDict, output: Tensor) -> Tensor:
        """The objective's optimum is 4 alpha times that."""
        return output / (4 * parameters["coefficients", "chi2_alpha"])

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """Reward and value where r was before it was raised."""
        found, raised = super().diagnose(parameters, rows), 4 * parameters["coefficients", "chi2_alpha"]
        return found | {"reward": found["reward"] - raised, "value": found["value"] - raised / (1 - self.discount)}

    def reward_bound(self, expert_share: float) -> float:
        """4 alpha: expert and others count as equal halves whatever the shares of the batch.

        None at temperatures from 0.1 on, where entropy is worth as much as rewards are.
        """
        return 4 * self.config.chi2_alpha if float(self.config.temperature) < 0.1 else 0.0


class ContinuousRewardIQLearn(RewardIQLearn, AnchoredActorCritic):
    """For actions in a box."""


class DiscreteRewardIQLearn(RewardIQLearn, SoftmaxOfQ):
    """For finitely many actions."""

    unread = (*RewardIQLearn.unread, "behavior_anchor", "actor_learning_rate", "critics")
