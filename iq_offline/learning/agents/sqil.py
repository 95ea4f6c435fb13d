"""SQIL: soft Q-learning where the expert's transitions are worth 1 and all others nothing (Reddy et al., ICLR 2020).

The loss is over kinds of data: what the policy itself does counts as other data, wherever it was recorded.

With expert data alone every reward is 1, Q = 1/(1 - gamma) explains all of them, and nothing tells actions apart. The
paper's regularised behavioral cloning (section 3.2), E_E[V(s) - Q(s,a)] + lambda E[r²], has an answer there; it is
IQ-Learn's objective with the value term over the expert's states and lambda = 1 / (4 chi2_alpha), so it is not here.
"""

from tensordict import TensorDict
from torch import Tensor

from iq_offline.config.baselines import SQILConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Transitions, UnitBox, rows_of
from iq_offline.learning.agents.soft_q import SoftActorCritic, SoftmaxOfQ, SoftQ
from iq_offline.learning.networks import Hidden
from iq_offline.learning.objective import implied_reward, sqil_loss

SQIL_COEFFICIENTS = ("discount", "temperature", "other_weight")
"""Keys of :class:`SQILConfig` that are factors in a loss: the learners of a population may have different ones."""


class SQIL(SoftQ):
    """The critic's loss as a function of (parameters, batch, noise).

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there, and rates.
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of the critic, and of the actor where there is one.
        others: the kinds of a batch beside ``expert``, whose reward is 0.
    """

    config: SQILConfig
    coefficients = SQIL_COEFFICIENTS
    kinds: tuple[str, ...]
    unread: tuple[str, ...] = ()

    def __init__(
        self,
        config: SQILConfig,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
        others: tuple[str, ...] = ("suboptimal",),
    ) -> None:
        self.config = config
        self.discount = config.discount
        self.target_update_rate = config.target_update_rate
        self.states = self.kinds = ("expert", *others)
        self.make_networks(encoder, actions, hidden)

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The squared soft Bellman errors; the policy is held fixed, V(s') comes from the target critic."""
        rows, draws = Transitions.of(parameters, batch, self.kinds), rows_of(noise, self.kinds)
        q = self.q(parameters["critic"], rows.state, self.as_input(rows.action))
        next_value = self.value(parameters, "target_critic", rows.next_state, draws[:, 0])
        reward = implied_reward(q, next_value, rows.terminated, parameters["coefficients", "discount"])
        experts = len(batch["expert", "action"])
        loss = sqil_loss(reward[:experts], reward[experts:], parameters["coefficients", "other_weight"])
        return loss, {
            "critic/loss": loss,
            "critic/expert_reward": reward[:experts].mean(),
            "critic/other_reward": reward[experts:].mean(),
            "critic/q": q.mean(),
        }

    def reward_bound(self, expert_share: float) -> float:
        """1: rewards are between 0 and 1. At temperatures from 0.1 on entropy is worth as much as they are: none."""
        return 1.0 if self.config.temperature < 0.1 else 0.0


class ContinuousSQIL(SQIL, SoftActorCritic):
    """SQIL for actions in a box, by soft actor-critic with one critic and a fixed temperature (section 4.3)."""


class DiscreteSQIL(SQIL, SoftmaxOfQ):
    """SQIL for finitely many actions, by soft Q-learning (algorithm 1)."""

    unread: tuple[str, ...] = ("actor_learning_rate",)
