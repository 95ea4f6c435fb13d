"""IQ-Learn for finitely many actions: the policy is the softmax of Q (section 4.1, soft Q-learning)."""

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, call, normalized
from iq_offline.learning.agents.iq_learn import IQLearn
from iq_offline.learning.networks import branch_values, chosen_branches, network
from iq_offline.learning.objective import discrete_soft_value


class DiscreteIQLearn(IQLearn):
    """IQ-Learn for finitely many actions: Q(s, a) is a sum of one number a branch, so that V(s) is exact.

    Discrete is one branch. For several, exp(Q/T) is a product of softmaxes and its logsumexp the sum of theirs.
    Arguments are those of :class:`IQLearn`.
    """

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: ActionBranches,
        hidden_sizes: tuple[int, ...],
        suboptimal: bool = False,
    ) -> None:
        super().__init__(config, encoder, actions, hidden_sizes, suboptimal)
        self.actions = actions
        self.averaged = "actor" if self.regressed else "critic"
        if self.regressed:
            self.actor = self.cloning.actor
        self.critic = network(encoder, hidden_sizes, sum(actions.counts))
        self.noise_shape: tuple[int, ...] = (3, 0)
        self.phases = self.in_turn(self.loss, ())

    def loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective, and how often the best action by Q is not the expert's."""
        loss, metrics = self.critic_loss(parameters, batch, noise)
        with torch.no_grad():
            state = normalized(parameters, batch["expert", "observation"])
            greedy = self._branches(parameters["critic"], state).argmax(-1)
            wrong = (greedy != batch["expert", "action"]).any(-1).to(loss.dtype).mean()
        return loss, metrics | {"actor/wrong_actions": wrong}

    def as_input(self, action: Tensor) -> Tensor:
        """Indices as they are."""
        return action

    def q(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """The sum over branches of the chosen values."""
        return self._branches(critic, state).gather(-1, action.unsqueeze(-1)).squeeze(-1).sum(-1)

    def policy_value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """Exact: the sum over branches of their soft values."""
        branches = self._branches(parameters[critic], state)
        return discrete_soft_value(branches, parameters["coefficients", "temperature"]).sum(-1)

    def errors(self, parameters: TensorDict, state: Tensor, action: Tensor) -> Metrics:
        """Of the softmax of Q, and of its largest value."""
        logits = self._branches(parameters["critic"], state) / parameters["coefficients", "temperature"]
        log_probability, wrong = chosen_branches(logits, action)
        return {"error": wrong, "log_likelihood": log_probability}

    def _branches(self, critic: TensorDict, state: Tensor) -> Tensor:
        return branch_values(call(self.critic, critic, state), self.actions.counts)
