"""Behavior cloning: the baseline that everything is held against. Same actor, same averaging, no critic."""

from collections.abc import Callable

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import BCConfig, IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Phase, UnitBox, call, call_members, fresh, normalized, rows_of
from iq_offline.learning.networks import (
    Hidden,
    branch_values,
    chosen_branches,
    gaussian,
    network,
    squashed_log_probability,
)


def robust_cloning(config: IQLearnConfig) -> BCConfig:
    """Of the actor, where IQ-Learn imitates rows that are not all the expert's."""
    return BCConfig("robust", float(config.actor_learning_rate), outlier_error=config.outlier_error)


class BC:
    """Regression of the expert's actions on its observations.

    ``squared_error``: E_E[|tanh(mean(s)) - a|²], the honest baseline for near-deterministic experts.
    ``robust``: the same, for data of which a part is somebody else's: what is far off hardly counts.
    ``likelihood``: E_E[-log pi(a|s)] of the squashed Gaussian, in use elsewhere; it spends itself on its variance.
    With finitely many actions both are E_E[-log pi(a|s)] of a softmax, the branches independent of each other.

    Args:
        config: the loss and its rate.
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of the actor.
        kinds: of the data that are imitated.
        weights: (parameters, batch) -> one for each row, in the order of ``kinds``; default all alike.
    """

    averaged = "actor"
    discount = 0.0

    def __init__(
        self,
        config: BCConfig,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
        kinds: tuple[str, ...] = ("expert",),
        weights: Callable[[TensorDict, TensorDict], Tensor] | None = None,
    ) -> None:
        self.actions = actions
        self.weights = weights
        self.has_likelihood = config.loss == "likelihood"
        self.target_update_rate = 0.0
        self.kinds = kinds
        self.noise_shape: tuple[int, ...] = ()
        finite = isinstance(actions, ActionBranches)
        self.unread: tuple[str, ...] = ("loss",) * finite + ("outlier_error",) * (finite or config.loss != "robust")
        if isinstance(actions, ActionBranches):
            self.actor = network(encoder, hidden, sum(actions.counts), acts=True)
            loss = self.cross_entropy
        else:
            self.actor = network(encoder, hidden, 2 * len(actions.center), acts=True, members=hidden.actors)
            self.outlier_square = len(actions.center) * config.outlier_error**2
            losses = {"squared_error": self.squared_error, "robust": self.robust, "likelihood": self.likelihood}
            loss = losses[config.loss]
        self.phases: tuple[Phase, ...] = (Phase("actor", loss, config.learning_rate),)

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """The network drawn from torch's global generator."""
        normalizer = TensorDict({"mean": observation_mean, "std": observation_std})
        return TensorDict({"actor": fresh(self.actor), "normalizer": normalizer})

    def squared_error(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E[|tanh(mean(s)) - a|²] over actions in the unit box."""
        mean, _, action = self._outputs(parameters, batch)
        error = (torch.tanh(mean) - action).square().sum(-1)
        return self._weighted(parameters, batch, error, {"actor/squared_error": error})

    def robust(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E[c² log(1 + |tanh(mean(s)) - a|² / c²)], the Cauchy loss: at c its slope is half the square's.

        An action that nothing around it explains is an outlier, and the policy is not pulled towards it: what it
        approaches is where most actions are, not their mean (Black and Anandan, 1996; Barron, CVPR 2019, alpha = 0).
        """
        mean, _, action = self._outputs(parameters, batch)
        error = (torch.tanh(mean) - action).square().sum(-1)
        loss = self.outlier_square * torch.log1p(error / self.outlier_square)
        return self._weighted(parameters, batch, loss, {"actor/squared_error": error})

    def likelihood(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E[-log pi(a|s)] over actions in the unit box."""
        mean, std, action = self._outputs(parameters, batch)
        loss = -squashed_log_probability(mean, std, action)
        error = (torch.tanh(mean) - action).square().sum(-1)
        return self._weighted(parameters, batch, loss, {"actor/squared_error": error})

    def cross_entropy(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E[-log pi(a|s)] of a softmax, summed over the branches."""
        observation, action = (rows_of(batch, self.kinds, key) for key in ("observation", "action"))
        log_probability, wrong = self._categorical(parameters, observation, action)
        return self._weighted(parameters, batch, -log_probability, {"actor/wrong_actions": wrong})

    def reward_bound(self, expert_share: float) -> float:
        """No reward is learned."""
        return 0.0

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """The error; the log-likelihood where it is what was learned."""
        if isinstance(self.actions, ActionBranches):
            log_probability, wrong = self._categorical(parameters, rows["observation"], rows["action"])
            return {"error": wrong, "log_likelihood": log_probability}
        mean, std = self._gaussian(parameters, rows["observation"])
        action = self.actions(rows["action"])
        found = {"error": (torch.tanh(mean) - action).square().sum(-1)}
        return found | ({"log_likelihood": squashed_log_probability(mean, std, action)} if self.has_likelihood else {})

    def _weighted(
        self, parameters: TensorDict, batch: TensorDict, losses: Tensor, errors: Metrics
    ) -> tuple[Tensor, Metrics]:
        """The mean loss; of weights also their effective number, (sum w)² / sum w², as a share of the rows."""
        metrics = {name: error.mean() for name, error in errors.items()}
        if self.weights:
            weights = self.weights(parameters, batch)
            losses = weights * losses
            # By the largest one, as the squares of small ones are 0.
            relative = weights / weights.max().clamp(min=torch.finfo(weights.dtype).tiny)
            metrics["actor/effective_share"] = relative.mean().square() / relative.square().mean().clamp(min=1e-30)
        loss = losses.mean()
        return loss, {"actor/loss": loss, **metrics}

    def _categorical(self, parameters: TensorDict, observation: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.actions, ActionBranches)
        state = normalized(parameters, observation)
        logits = branch_values(call(self.actor, parameters["actor"], state), self.actions.counts)
        return chosen_branches(logits, action)

    def _gaussian(self, parameters: TensorDict, observation: Tensor) -> tuple[Tensor, Tensor]:
        return gaussian(call(self.actor, parameters["actor"], normalized(parameters, observation)))

    def _outputs(self, parameters: TensorDict, batch: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
        """Of every member, which regresses by itself: mean and deviation ``(members, batch, size)``; the actions."""
        assert isinstance(self.actions, UnitBox)
        state = normalized(parameters, rows_of(batch, self.kinds, "observation"))
        mean, std = gaussian(call_members(self.actor, parameters["actor"], state))
        return mean, std, self.actions(rows_of(batch, self.kinds, "action"))
