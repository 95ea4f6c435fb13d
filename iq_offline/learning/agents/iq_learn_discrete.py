"""IQ-Learn for finitely many actions: the policy is the softmax of Q (section 4.1, soft Q-learning)."""

from tensordict import TensorDict
from torch import Tensor

from iq_offline.learning.agents import fresh
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.agents.soft_q import SoftmaxOfQ


class DiscreteIQLearn(IQLearn, SoftmaxOfQ):
    """IQ-Learn for finitely many actions. Arguments are those of :class:`IQLearn`."""

    @property
    def anchored(self) -> bool:  # type: ignore[override]
        """On expert data alone: others are there to move Q away from what was shown."""
        return self.states == ("expert",) and not self.regressed

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """And the actor, where the policy is regressed."""
        parameters = super().initial_parameters(observation_mean, observation_std)
        if self.regressed:
            parameters["actor"] = fresh(self.cloning.actor)
        return parameters
