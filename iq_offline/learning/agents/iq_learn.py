"""Offline IQ-Learn, LS-IQ and ReCOIL: one critic's objective, of which they choose different terms.

What Q and the policy are is up to the two kinds of actions (``iq_learn_continuous``, ``iq_learn_discrete``, on what all
learners of a soft Q share). Which terms make which algorithm is in ``docs/math.md``.
"""

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.func import grad

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Phase, Transitions, UnitBox, call, fresh, normalized, rows_of, tensors
from iq_offline.learning.agents.bc import BC, robust_cloning
from iq_offline.learning.agents.soft_q import SoftQ
from iq_offline.learning.in_sample import advantage_weights, expectile_loss
from iq_offline.learning.least_squares import absorbed, fixed_target_loss, reward_bounds, value_bounds
from iq_offline.learning.networks import Hidden, network
from iq_offline.learning.objective import (
    beyond_half,
    beyond_one,
    beyond_slope,
    divergence_loss,
    implied_reward,
    initial_value,
    iq_loss,
    telescoped_value,
)

COEFFICIENTS = ("discount", "chi2_alpha", "temperature", "gradient_penalty", "behavior_anchor")
"""Keys of :class:`IQLearnConfig` that are factors in a loss: the learners of a population may have different ones."""
IN_SAMPLE_COEFFICIENTS = ("expectile", "advantage_temperature")
"""Likewise, of those who stay with the data's actions."""
CHOOSING = (
    *("reward_penalty", "reward_learning_rate"),
    *("choose_every", "lasting", "relevance", "least_rows"),
)
"""Keys of :class:`IQLearnConfig` for those who choose from suboptimal data."""


class IQLearn(SoftQ):
    """The losses as functions of (parameters, batch, noise), for whatever Q and policy its kinds define.

    V is the policy's, or a network of its own that never leaves the data's actions. The policy is the kind's own, or an
    actor that is regressed to the data's actions. Both choices are the configuration's.

    Args:
        config: coefficients, which start the parameters' group ``coefficients`` and are read from there; which terms
            there are; and whether there is a gradient penalty at all, which costs time.
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of every network.
        others: kinds of the mixture beside ``expert``: ``suboptimal``, ``online``, both or none.
    """

    config: IQLearnConfig

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
        others: tuple[str, ...] = (),
    ) -> None:
        self.config = config
        self.discount = config.discount
        self.in_sample = config.value == "expectile"
        self.regressed = config.policy == "advantage_weighted"
        self.absorbing = config.absorbing_value in ("bound", "raised")
        finite = isinstance(actions, ActionBranches)
        self.smoothed = "online" in others and not finite and config.smoothness_penalty > 0
        self.unread = self._unread(finite, others)
        self.coefficients = (*COEFFICIENTS, *(name for name in IN_SAMPLE_COEFFICIENTS if name not in self.unread))
        self.next_critic = "target_critic" if config.target_network else "critic"
        self.target_update_rate = config.target_update_rate
        self.states: tuple[str, ...] = ("expert", *others)
        self.kinds: tuple[str, ...] = (*self.states, "initial") if config.value_states == "initial" else self.states
        if self.in_sample:
            self.value_network = network(encoder, hidden, 1)
        if self.regressed:
            self.averaged = "actor"
            self.cloning = BC(robust_cloning(config), encoder, actions, hidden, self.states, self.advantage_weights)
        self.make_networks(encoder, actions, hidden)
        self.phases = self._in_turn(*self.phases)

    def _in_turn(self, critic: Phase, *policy_step: Phase) -> tuple[Phase, ...]:
        """The critic's step, that of V where it is a network, and the regression or the kind's own policy step."""
        rate, beta1 = self.config.critic_learning_rate, float(self.config.adam_beta1)
        value = (Phase("value", self.value_loss, rate, beta1),) if self.in_sample else ()
        return (critic, *value, *(self.cloning.phases if self.regressed else policy_step))

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """And V, where it is a network."""
        parameters = super().initial_parameters(observation_mean, observation_std)
        if self.in_sample:
            parameters["value"] = fresh(self.value_network)
        return parameters

    def critic_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective, minimised in Q; the policy is held fixed, V(s') comes from the target critic, if any."""
        config, coefficients = self.config, tensors(parameters["coefficients"])
        discount, chi2_alpha = coefficients["discount"], coefficients["chi2_alpha"]
        rows, draws = Transitions.of(parameters, batch, self.states), rows_of(noise, self.states)
        state, action, terminated = rows.state, self.as_input(rows.action), rows.terminated

        q = self.q(parameters["critic"], state, action)
        next_value = self.value(parameters, self.next_critic, rows.next_state, draws[:, 0])
        experts = len(batch["expert", "action"])
        share = experts / len(q)
        raised = self.raised(parameters)
        if config.clip_targets or self.absorbing:
            bounds = value_bounds(chi2_alpha, share, discount)
            if config.absorbing_value == "raised":
                bounds = (torch.zeros_like(chi2_alpha), bounds[1])
            next_value, terminated = self._within(bounds, next_value, terminated, experts)
        reward = implied_reward(q, next_value, terminated, discount)

        if config.value_states == "initial":
            start = normalized(parameters, batch["initial", "observation"])
            start_value = self.value(parameters, "critic", start, noise["initial"][:, 0])
            value_term = initial_value(start_value, discount)
        elif config.value_states == "suboptimal":
            value_term = reward[experts:].mean()
        else:
            count = experts if config.value_states == "expert" else len(q)
            value = self.value(parameters, "critic", state[:count], draws[:count, 1])
            value_term = telescoped_value(value, next_value[:count], terminated[:count], discount)
        regularized = (reward[:experts] if config.chi2_states == "expert" else reward) - raised
        at_expert = parameters["critic"], state[:experts], action[:experts]
        penalty = self.slope(*at_expert)
        if config.expert_term == "fixed_target":
            loss = fixed_target_loss(q[:experts], value_term, reward[experts:], chi2_alpha, share, discount)
            own = {"critic/expert_q": q[:experts].mean()}
        elif config.divergence == "chi_squared":
            loss = iq_loss(reward[:experts], value_term, regularized, chi2_alpha)
            own = {"critic/chi2": regularized.square().mean() / (4 * chi2_alpha)}
        else:
            violation = config.constraint_weight * self.violation(reward, *at_expert)
            loss = divergence_loss(reward[:experts], value_term, config.divergence, violation)
            own = {"critic/violation": violation}
        loss = loss + coefficients["gradient_penalty"] * penalty
        if self.smoothed:
            steepness = self.steepness(parameters, rows, draws, experts, len(batch["online", "action"]))
            loss = loss + config.smoothness_penalty * steepness
            own |= {
                "critic/steepness": steepness,
                "critic/online_reward": reward[-len(batch["online", "action"]) :].mean(),
            }
        return loss, {
            "critic/loss": loss,
            "critic/expert_reward": reward[:experts].mean(),
            "critic/value_term": value_term,
            "critic/q": q.mean(),
            "critic/slope": penalty,
            **own,
        }

    def value_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """V as a network of its own, by an expectile of the target critic's Q over the actions of the data."""
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        action = self.as_input(rows_of(batch, self.states, "action"))
        value = self._data_value(parameters["value"], state)
        q = self.q(parameters[self.next_critic], state, action)
        loss = expectile_loss(value, q, parameters["coefficients", "expectile"])
        return loss, {"critic/value_loss": loss, "critic/value": value.mean()}

    @torch.no_grad()
    def advantage_weights(self, parameters: TensorDict, batch: TensorDict) -> Tensor:
        """How much each row of the data counts in the regression, by the target critic; shape ``(batch,)``."""
        state = normalized(parameters, rows_of(batch, self.states, "observation"))
        noise = state.new_zeros(len(state), self.noise_shape[-1])
        q = self.q(parameters[self.next_critic], state, self.as_input(rows_of(batch, self.states, "action")))
        value = self.value(parameters, self.next_critic, state, noise)
        return advantage_weights(q, value, parameters["coefficients", "advantage_temperature"])

    def value(self, parameters: TensorDict, critic: str, state: Tensor, noise: Tensor) -> Tensor:
        """V(s), shape ``(batch,)``: the policy's by that critic, or that of the data; fixed in this second case."""
        if self.in_sample:
            return self._data_value(parameters["value"].detach(), state)
        return super().value(parameters, critic, state, noise)

    def reward_bound(self, expert_share: float) -> float:
        """Of 2 alpha (d_E - d_pi) / d_mix over the mixture's transitions; over the expert's there is none below.

        Where V has an entropy at temperatures from 0.1 on there is none either: it is worth as much as rewards.
        """
        config = self.config
        if config.divergence == "total_variation":
            return 0.5
        two_sided = config.divergence == "chi_squared" and config.chi2_states == "mixture" and expert_share < 1
        if two_sided and (self.in_sample or float(config.temperature) < 0.1):
            return max(map(abs, reward_bounds(config.chi2_alpha, expert_share)))
        return 0.0

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """As all do; an absorbing value says what an end was worth at once, a regressed policy has its own error."""
        found = super().diagnose(parameters, rows)
        if self.absorbing:
            at_once = (1 - self.discount) * found["value"]
            found["reward"] = torch.where(rows["next", "terminated"] > 0, at_once, found["reward"])
        raised = self.raised(parameters)
        found |= {"reward": found["reward"] - raised, "value": found["value"] - raised / (1 - self.discount)}
        if self.regressed:
            found = {name: found[name] for name in ("reward", "value")} | self.cloning.diagnose(parameters, rows)
        return found

    def violation(self, reward: Tensor, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """By how much the reward leaves what the divergence is a supremum over; 0 for those without such a bound."""
        if self.config.divergence == "total_variation":
            return beyond_half(reward)
        if self.config.divergence == "wasserstein":
            by = (0, 1) if action.is_floating_point() else (0,)
            slopes = grad(lambda s, a: self.q(critic, s, a, twice=True).sum(), argnums=by)(state, action)
            return beyond_one(torch.cat(slopes, -1))
        return reward.new_zeros(())

    def raised(self, parameters: TensorDict) -> Tensor:
        """By how much all rewards are, above those of the paper."""
        chi2_alpha = parameters["coefficients", "chi2_alpha"]
        return 2 * chi2_alpha if self.config.absorbing_value == "raised" else torch.zeros_like(chi2_alpha)

    def steepness(self, parameters: TensorDict, rows: Transitions, draws: Tensor, experts: int, onlines: int) -> Tensor:
        """How steep the implied reward is between pairs of an expert's and an online transition.

        It is taken at two points of the straight line from (s, a, s') to (s, a, s'), as the slope of r is that of
        Q(s, a) and that of V(s') together, which cancel where they are large.
        """
        count = min(experts, onlines)
        ends = rows.state, self.as_input(rows.action), rows.next_state
        expert, online = ([end[chosen] for end in ends] for chosen in (slice(count), slice(-count, None)))

        def reward_at(share: Tensor) -> Tensor:
            state, action, next_state = map(torch.lerp, expert, online, [share[:, None]] * 3)
            next_value = self.value(parameters, "critic", next_state, torch.zeros_like(draws[:count, 0]))
            return self.q(parameters["critic"], state, action) - self.discount * next_value

        shares = torch.special.ndtr(draws[:count, 1:, 0])
        whole = torch.cat([there - here for here, there in zip(expert, online, strict=True)], -1)
        distance = (shares[:, 0] - shares[:, 1]).abs() * whole.square().sum(-1).sqrt()
        change = reward_at(shares[:, 0]) - reward_at(shares[:, 1])
        goes_on = (1 - rows.terminated[:count]) * (1 - rows.terminated[-count:])
        return beyond_slope(change, distance, self.config.largest_slope, goes_on)

    def slope(self, critic: TensorDict, state: Tensor, action: Tensor) -> Tensor:
        """What ``gradient_penalty`` weighs; 0 where there is no gradient to speak of."""
        return state.new_zeros(())

    def _within(
        self, bounds: tuple[Tensor, Tensor], next_value: Tensor, terminated: Tensor, experts: int
    ) -> tuple[Tensor, Tensor]:
        """V(s') and what cuts it: clipped, and after an end for ever at the bound of the kind that it came from."""
        lowest, highest = bounds
        if self.config.clip_targets:
            next_value = next_value.clamp(lowest, highest)
        if self.absorbing:
            of_expert = torch.arange(len(next_value), device=next_value.device) < experts
            next_value = absorbed(next_value, terminated, torch.where(of_expert, highest, lowest))
            terminated = torch.zeros_like(terminated)  # The episode goes on, in the absorbing state.
        return next_value, terminated

    def _data_value(self, value: TensorDict, state: Tensor) -> Tensor:
        return call(self.value_network, value, state).squeeze(-1)

    def _unread(self, finite: bool, others: tuple[str, ...]) -> tuple[str, ...]:
        """Keys without an effect on what is trained; ``finite``: actions are; ``others``: kinds beside ``expert``."""
        config, regressed, in_sample = self.config, self.regressed, self.in_sample
        without_effect = {
            "chi2_alpha": config.divergence != "chi_squared",
            "chi2_states": config.divergence != "chi_squared",
            "constraint_weight": config.divergence not in ("total_variation", "wasserstein"),
            "gradient_penalty": finite,
            "behavior_anchor": (finite and bool(others)) or regressed,
            "actor_learning_rate": finite and not regressed,
            "temperature": (in_sample or not finite) if regressed else in_sample and finite and "online" not in others,
            "target_update_rate": not config.target_network,
            "expectile": not in_sample,
            "advantage_temperature": not regressed,
            "outlier_error": finite or not regressed,
            "smoothness_penalty": finite or "online" not in others,
            "largest_slope": not self.smoothed,
        }
        return (*CHOOSING, "critics", *(name for name, idle in without_effect.items() if idle))
