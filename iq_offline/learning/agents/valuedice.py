"""ValueDICE: the expert's occupancy, matched by one objective of a policy and nu (``learning/dice.py``)."""

from abc import ABC, abstractmethod

import torch
from tensordict import TensorDict
from torch import Tensor, nn
from torch.func import grad

from iq_offline.config.baselines import BCConfig, ValueDICEConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import (
    Metrics,
    Phase,
    Transitions,
    UnitBox,
    action_inputs,
    call,
    constants,
    fresh,
    normalized,
    rows_of,
    tensors,
)
from iq_offline.learning.agents.bc import BC
from iq_offline.learning.dice import mean, off_orthogonal, valuedice_objective, with_absorbing_state
from iq_offline.learning.networks import (
    Hidden,
    branch_values,
    drawn_branches,
    drawn_squashed,
    gaussian,
    network,
    sample_squashed,
)
from iq_offline.learning.objective import away_from_one, implied_reward

VALUEDICE_COEFFICIENTS = ("discount", "replay_alpha", "gradient_penalty", "orthogonal_penalty")
"""Keys of :class:`ValueDICEConfig` that are factors in a loss: the learners of a population may have different ones."""


class ValueDICE(ABC):
    """The losses of nu and of the actor as functions of (parameters, batch, noise), for any actions.

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there, and rates.
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of the actor and of nu.
        others: the kinds of a batch beside ``expert``, which both distributions have in common in the share
            ``replay_alpha``. Online the policy's own transitions are one of them.
    """

    averaged = "actor"
    target_update_rate = 0.0
    noise_shape: tuple[int, ...]
    nu_network: nn.Sequential

    def __init__(
        self,
        config: ValueDICEConfig,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
        others: tuple[str, ...] = (),
    ) -> None:
        self.config = config
        self.actions = actions
        self.discount = config.discount
        self.cloning = BC(BCConfig("likelihood"), encoder, actions, hidden)
        self.states: tuple[str, ...] = ("expert", *others)
        starts = ("initial",) if config.start_states == "initial" else ()
        self.kinds: tuple[str, ...] = (*self.states, *starts)
        self.unread: tuple[str, ...] = () if others else ("replay_alpha",)
        self.phases: tuple[Phase, ...] = (
            Phase("nu", self.nu_loss, config.nu_learning_rate, config.adam_beta1),
            Phase("actor", self.actor_loss, config.actor_learning_rate, config.adam_beta1),
        )

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """Networks drawn from torch's global generator."""
        networks = {"actor": fresh(self.cloning.actor), "nu": fresh(self.nu_network)}
        groups = constants(self.config, VALUEDICE_COEFFICIENTS, observation_mean, observation_std)
        return TensorDict({**networks, **groups})

    def nu_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective and the gradient penalty, minimised in nu; the policy is held fixed."""
        objective, metrics, rows, next_action = self._objective(
            parameters, parameters["nu"], parameters["actor"].detach(), batch, noise
        )
        penalty = objective.new_zeros(())
        if self.config.gradient_penalty:
            penalty = self._penalty(parameters["nu"], rows, next_action, rows_of(noise, self.states))
        loss = objective + parameters["coefficients", "gradient_penalty"] * penalty
        return loss, metrics | {"critic/loss": loss, "critic/penalty": penalty}

    def actor_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective with its sign turned, minimised in the policy through a' and a0; nu is held fixed."""
        objective = self._objective(parameters, parameters["nu"].detach(), parameters["actor"], batch, noise)[0]
        loss = -objective
        if self.config.orthogonal_penalty:
            penalty = self._orthogonal_penalty(parameters["actor"])
            loss = loss + parameters["coefficients", "orthogonal_penalty"] * penalty
        with torch.no_grad():
            error = self.cloning.diagnose(parameters, batch["expert"])["error"].mean()
        measure = "wrong_actions" if isinstance(self.actions, ActionBranches) else "squared_error"
        return loss, {"actor/loss": loss, f"actor/{measure}": error}

    def reward_bound(self, expert_share: float) -> float:
        """A ratio of distributions has none."""
        return 0.0

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """The actor's error; log d_E/d_pi but for a constant, as the reward; -nu, as Q, and a' without noise."""
        state, next_state = (
            normalized(parameters, rows["observation"]),
            normalized(parameters, rows["next", "observation"]),
        )
        nu = self.nu(parameters["nu"], state, action_inputs(self.actions, rows["action"]))
        silence = state.new_zeros(len(nu), self.noise_shape[-1])
        next_action = self.policy_actions(parameters["actor"], next_state, silence)
        next_nu = self.nu(parameters["nu"], next_state, next_action)
        log_ratio = implied_reward(nu, next_nu, rows["next", "terminated"], self.discount)
        return self.cloning.diagnose(parameters, rows) | {"reward": -log_ratio, "value": -nu}

    def act(self, parameters: TensorDict, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Drawn from the policy: points of the unit box ``(n, size)``, or indices ``(n, branches)``."""
        outputs = call(self.cloning.actor, parameters["actor"], normalized(parameters, observation))
        if isinstance(self.actions, ActionBranches):
            return drawn_branches(branch_values(outputs, self.actions.counts), generator)
        return drawn_squashed(outputs, generator)

    @abstractmethod
    def policy_actions(self, actor: TensorDict, state: Tensor, noise: Tensor) -> Tensor:
        """As :meth:`nu` takes them, with gradients."""

    @abstractmethod
    def nu(self, nu: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """Values of shape ``(batch,)``; expectations, if actions are distributions. ``twice``: as in :func:`call`."""

    @staticmethod
    def _orthogonal_penalty(actor: TensorDict) -> Tensor:
        """Of all layers' weights. By their names: biases of several networks are a matrix as well."""
        weights = [value for name, value in tensors(actor).items() if name.endswith("weight") and value.dim() > 1]
        products = [off_orthogonal(weight.flatten(1) if weight.dim() == 4 else weight) for weight in weights]
        return torch.stack(products).sum()

    def _objective(
        self, parameters: TensorDict, nu: TensorDict, actor: TensorDict, batch: TensorDict, noise: TensorDict
    ) -> tuple[Tensor, Metrics, Transitions, Tensor]:
        """The objective for these groups of parameters, and the policy's actions in the next states."""
        discount, alpha = parameters["coefficients", "discount"], parameters["coefficients", "replay_alpha"]
        rows, draws = Transitions.of(parameters, batch, self.states), rows_of(noise, self.states)
        next_action = self.policy_actions(actor, rows.next_state, draws[:, 0])
        of_data = self.nu(nu, rows.state, action_inputs(self.actions, rows.action).to(rows.state.dtype))
        log_ratio = implied_reward(of_data, self.nu(nu, rows.next_state, next_action), rows.terminated, discount)

        experts = len(batch["expert", "action"])
        if self.config.start_states == "initial":
            start = normalized(parameters, batch["initial", "observation"])
            start_nu = self.nu(nu, start, self.policy_actions(actor, start, noise["initial"][:, 1])).mean()
        else:
            start = rows.state[:experts]
            at_start = self.nu(nu, start, self.policy_actions(actor, start, draws[:experts, 1]))
            start_nu = mean(with_absorbing_state(at_start, rows.terminated[:experts], discount))
        expert = with_absorbing_state(log_ratio[:experts], rows.terminated[:experts], discount)
        other = None
        if len(self.states) > 1:
            other = with_absorbing_state(log_ratio[experts:], rows.terminated[experts:], discount)
        objective = valuedice_objective(expert, start_nu, discount, other, alpha)
        metrics = {
            "critic/divergence": -objective,
            "critic/expert_log_ratio": log_ratio[:experts].mean(),
            "critic/nu": of_data.mean(),
            "critic/start_nu": start_nu,
        }
        return objective, metrics, rows, next_action

    def _penalty(self, nu: TensorDict, rows: Transitions, next_action: Tensor, draws: Tensor) -> Tensor:
        """E[(|dnu| - 1)²] between the data and what the policy does in the next states of others of their rows."""
        share = torch.special.ndtr(draws[:, 2, :1])
        action = action_inputs(self.actions, rows.action).to(rows.state.dtype)
        state = torch.lerp(rows.next_state.roll(1, 0), rows.state, share)
        action = torch.lerp(next_action.roll(1, 0), action, share)
        by = (0,) if isinstance(self.actions, ActionBranches) else (0, 1)
        slopes = torch.cat(grad(lambda s, a: self.nu(nu, s, a, twice=True).sum(), argnums=by)(state, action), -1)
        return away_from_one(slopes)


class ContinuousValueDICE(ValueDICE):
    """Actions in a box: a squashed Gaussian, of which one action stands for the expectation, as in the paper."""

    def __init__(
        self,
        config: ValueDICEConfig,
        encoder: ObservationEncoder,
        actions: UnitBox,
        hidden: Hidden,
        others: tuple[str, ...] = (),
    ) -> None:
        super().__init__(config, encoder, actions, hidden, others)
        size = len(actions.center)
        self.nu_network = network(encoder, hidden, 1, extra=size)
        self.noise_shape: tuple[int, ...] = (3, size)

    def policy_actions(self, actor: TensorDict, state: Tensor, noise: Tensor) -> Tensor:
        """A sample, reparameterised."""
        centre, std = gaussian(call(self.cloning.actor, actor, state))
        return sample_squashed(centre, std, noise)[0]

    def nu(self, nu: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """One number from the state and the action."""
        return call(self.nu_network, nu, torch.cat([state, action], -1), twice).squeeze(-1)


class DiscreteValueDICE(ValueDICE):
    """Finitely many actions: a softmax, and exact expectations, as nu is a sum of one number a branch."""

    def __init__(
        self,
        config: ValueDICEConfig,
        encoder: ObservationEncoder,
        actions: ActionBranches,
        hidden: Hidden,
        others: tuple[str, ...] = (),
    ) -> None:
        super().__init__(config, encoder, actions, hidden, others)
        self.counts = actions.counts
        self.nu_network = network(encoder, hidden, sum(actions.counts))
        self.noise_shape: tuple[int, ...] = (3, 1)

    def policy_actions(self, actor: TensorDict, state: Tensor, noise: Tensor) -> Tensor:
        """The probabilities of each branch's actions, side by side; no noise is needed."""
        branches = call(self.cloning.actor, actor, state).split(self.counts, -1)
        return torch.cat([torch.softmax(branch, -1) for branch in branches], -1)

    def nu(self, nu: TensorDict, state: Tensor, action: Tensor, twice: bool = False) -> Tensor:
        """Over such probabilities, or ones and zeros."""
        return (call(self.nu_network, nu, state, twice) * action).sum(-1)
