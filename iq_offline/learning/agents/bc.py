"""Behavior cloning: the baseline that everything is held against. Same actor, same averaging, no critic."""

import torch
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import BCConfig
from iq_offline.learning.agents import Metrics, Phase, UnitBox, call, fresh, normalized
from iq_offline.learning.networks import gaussian, mlp, squashed_log_probability


class BC:
    """Regression of the expert's actions on its observations.

    ``squared_error``: E_E[|tanh(mean(s)) - a|²], the honest baseline for near-deterministic experts.
    ``likelihood``: E_E[-log pi(a|s)] of the squashed Gaussian, in use elsewhere; it spends itself on its variance.
    """

    def __init__(
        self,
        config: BCConfig,
        observation_size: int,
        action_size: int,
        unit_box: UnitBox,
        hidden_sizes: tuple[int, ...],
    ) -> None:
        self.unit_box = unit_box
        self.actor = mlp(observation_size, *hidden_sizes, 2 * action_size)
        self.target_update_rate = 0.0
        self.kinds: tuple[str, ...] = ("expert",)
        self.noise_shape: tuple[int, ...] = ()
        loss = self.squared_error if config.loss == "squared_error" else self.likelihood
        self.phases: tuple[Phase, ...] = (Phase("actor", loss, config.learning_rate),)

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """The network drawn from torch's global generator."""
        normalizer = TensorDict({"mean": observation_mean, "std": observation_std})
        return TensorDict({"actor": fresh(self.actor), "normalizer": normalizer})

    def squared_error(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E_E[|tanh(mean(s)) - a|²] over actions in the unit box."""
        mean, _, action = self._outputs(parameters, batch)
        loss = (torch.tanh(mean) - action).square().sum(-1).mean()
        return loss, {"actor/loss": loss, "actor/squared_error": loss}

    def likelihood(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E_E[-log pi(a|s)] over actions in the unit box."""
        mean, std, action = self._outputs(parameters, batch)
        loss = -squashed_log_probability(mean, std, action).mean()
        error = (torch.tanh(mean) - action).square().sum(-1).mean()
        return loss, {"actor/loss": loss, "actor/squared_error": error}

    def _outputs(self, parameters: TensorDict, batch: TensorDict) -> tuple[Tensor, Tensor, Tensor]:
        state = normalized(parameters, batch["expert", "observation"])
        mean, std = gaussian(call(self.actor, parameters["actor"], state))
        return mean, std, self.unit_box(batch["expert", "action"])
