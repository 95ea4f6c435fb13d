"""IQ-Learn for finitely many actions: the policy is the softmax of Q (section 4.1, soft Q-learning)."""

from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import fresh
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.agents.soft_q import SoftmaxOfQ


class DiscreteIQLearn(IQLearn, SoftmaxOfQ):
    """IQ-Learn for finitely many actions. Arguments are those of :class:`IQLearn`."""

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: ActionBranches,
        hidden_sizes: tuple[int, ...],
        others: tuple[str, ...] = (),
    ) -> None:
        super().__init__(config, encoder, actions, hidden_sizes, others)
        self.make_networks(encoder, actions, hidden_sizes)
        self.phases = self.in_turn(*self.phases)
        if self.regressed:
            self.averaged = "actor"

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """And the actor, where the policy is regressed."""
        parameters = super().initial_parameters(observation_mean, observation_std)
        if self.regressed:
            parameters["actor"] = fresh(self.cloning.actor)
        return parameters
