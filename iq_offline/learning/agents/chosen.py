"""Imitating the labelled expert and, of unlabelled data, what is worth it. The agents here differ in what they choose.

All of them learn the implied reward as a network of its own: r and Q determine each other (Q = r + gamma V(s'),
section 4 of the paper), and with data alone in the objective, the suboptimal in place of the policy's own,

    min_r  -E_E[r] + E_S[r] + E_mix[r²] / (4 alpha)        (eq. 10 with chi-squared; corollary 2.1 for the value term)

has no value in it. With equal halves its optimum is 4 alpha (d_E - d_S) / (d_E + d_S).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool
from tensordict import TensorDict
from torch import Tensor

from iq_offline.config import IQLearnConfig
from iq_offline.data.actions import ActionBranches
from iq_offline.data.spaces import ObservationEncoder
from iq_offline.learning.agents import Metrics, Phase, UnitBox, call, fresh, normalized, tensors
from iq_offline.learning.agents.bc import BC, robust_cloning
from iq_offline.learning.agents.reward_network import RewardNetwork
from iq_offline.learning.least_squares import absorbed, value_bounds
from iq_offline.learning.lookahead import Rows, best_ahead, lasting, outstanding, relevance
from iq_offline.learning.networks import Hidden, network
from iq_offline.learning.objective import beyond_one, separate_reward_loss

CHOSEN_COEFFICIENTS = ("chi2_alpha", "reward_penalty")
"""Keys of :class:`IQLearnConfig` that are factors in a loss here."""


@dataclass(frozen=True)
class Appraisal:
    """What the networks say of rows: those of whole episodes one below the other, then the labelled ones."""

    reward: Rows
    """r(s, a)."""
    value: Rows
    """V(s); 0 where nothing learns one."""
    following: Rows
    """V(s'), or what an end of the episode in s' is worth."""

    @classmethod
    def of_all(cls, parts: "list[Appraisal]") -> "Appraisal":
        """Parts below each other, on the CPU."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]).cpu() for field in fields(cls)))

    def is_finite(self) -> bool:
        """Whether every number is."""
        return all(bool(getattr(self, field.name).isfinite().all()) for field in fields(self))

    def parts(self, labelled: int) -> "tuple[Appraisal, Appraisal]":
        """The others, and the labelled ones at the end."""
        every = [getattr(self, field.name) for field in fields(self)]
        return Appraisal(*(one[:-labelled] for one in every)), Appraisal(*(one[-labelled:] for one in every))


class ChosenImitation(ABC):
    """Regression of actions on observations, over the labelled expert and over rows chosen by the implied reward.

    Args:
        config: coefficients and rates.
        encoder: of the observations.
        actions: the box that continuous actions are in, or the branches of finitely many.
        hidden: of every network.
    """

    averaged = "actor"
    target_update_rate = 0.0
    kinds: tuple[str, ...] = ("expert", "suboptimal", "imitated")
    noise_shape: tuple[int, ...] = (1,)
    unread: tuple[str, ...] = (
        *(
            "divergence",
            "constraint_weight",
            "temperature",
            "value_states",
            "chi2_states",
            "gradient_penalty",
            "behavior_anchor",
        ),
        *("critic_learning_rate", "adam_beta1", "target_network", "target_update_rate"),
        *("expert_term", "clip_targets", "absorbing_value", "value", "expectile", "advantage_temperature"),
        *("smoothness_penalty", "largest_slope", "critics"),
    )

    def __init__(
        self,
        config: IQLearnConfig,
        encoder: ObservationEncoder,
        actions: UnitBox | ActionBranches,
        hidden: Hidden,
    ) -> None:
        self.config = config
        self.discount = config.discount
        self.actions = actions
        self.cloning = BC(robust_cloning(config), encoder, actions, hidden, ("expert", "imitated"))
        if isinstance(actions, ActionBranches):
            self.unread = (*self.unread, "outlier_error")
        self.reward = RewardNetwork(encoder, actions, hidden)
        reward = Phase("reward", self.reward_loss, config.reward_learning_rate)
        self.phases: tuple[Phase, ...] = (reward, *self.more_critics(encoder, hidden), *self.cloning.phases)

    def more_critics(self, encoder: ObservationEncoder, hidden: Hidden) -> tuple[Phase, ...]:
        """Make what appraises rows besides the reward; returns what trains it."""
        return ()

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """Networks drawn from torch's global generator."""
        parameters = self.cloning.initial_parameters(observation_mean, observation_std)
        parameters["reward"] = fresh(self.reward.layers)
        values = {name: torch.tensor(getattr(self.config, name), dtype=torch.float64) for name in CHOSEN_COEFFICIENTS}
        parameters["coefficients"] = TensorDict(values)
        return parameters

    def reward_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """The objective in r, with a penalty on slopes over 1 between expert and suboptimal transitions.

        The chi-squared term is over equal halves whatever the shares of the batch. The penalty (Gulrajani et al., 2017,
        one-sided) is what lets few labelled points speak for their surroundings.
        """
        coefficients = tensors(parameters["coefficients"])
        expert, suboptimal = (self._reward_of(parameters, batch[kind]) for kind in ("expert", "suboptimal"))
        loss = separate_reward_loss(expert, suboptimal, coefficients["chi2_alpha"])
        penalty = self._steepness(parameters, batch, noise) if self.config.reward_penalty else loss.new_zeros(())
        total = loss + coefficients["reward_penalty"] * penalty
        return total, {
            "critic/loss": loss,
            "critic/expert_reward": expert.mean(),
            "critic/suboptimal_reward": suboptimal.mean(),
            "critic/penalty": penalty,
        }

    def reward_bound(self, expert_share: float) -> float:
        """4 alpha: the halves are equal whatever the shares of the batch."""
        return 4 * self.config.chi2_alpha

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """The actor's error, and r."""
        return self.cloning.diagnose(parameters, rows) | {"reward": self._reward_of(parameters, rows)}

    def appraise(self, parameters: TensorDict, rows: TensorDict) -> Appraisal:
        """What the networks say of a batch of rows."""
        reward = self._reward_of(parameters, rows)
        return Appraisal(reward, torch.zeros_like(reward), torch.zeros_like(reward))

    def choose(self, rows: Appraisal, last: Bool[Tensor, " rows"], labelled: int) -> tuple[Rows | None, Rows]:
        """What is learned about all rows: their returns, and how likely each is imitated. Labelled ones have weight 1.

        Args:
            rows: of all suboptimal data, whole episodes one below the other, and of the labelled expert.
            last: whether the row below is not what followed this one.
            labelled: how many are the expert's, at the end.
        """
        others, expert = rows.parts(labelled)
        weights = self.weigh(others, expert, last[:-labelled])
        return self.returns(rows, last), torch.cat([weights, torch.ones_like(expert.reward)])

    def returns(self, rows: Appraisal, last: Bool[Tensor, " rows"]) -> Rows | None:
        """What V is regressed to, of all rows; None where nothing learns one."""
        return None

    @abstractmethod
    def weigh(self, rows: Appraisal, expert: Appraisal, last: Bool[Tensor, " rows"]) -> Rows:
        """How much each row of the suboptimal data counts beside a labelled one.

        Args:
            rows: of the suboptimal data.
            expert: of the labelled rows.
            last: whether a suboptimal row is the last of its episode.
        """

    def near(
        self,
        score: Rows,
        level: Tensor,
        floor: Tensor,
        expert: Appraisal,
        likely: Bool[Tensor, " rows"] | None = None,
        possible: Bool[Tensor, " rows"] | None = None,
    ) -> Rows:
        """Weights by :func:`relevance`; the labelled rows count for ``least_rows``."""
        least = max(0, self.config.least_rows - len(expert.reward))
        return relevance(score, level, floor, self.config.relevance, least, likely, possible)

    def _reward_of(self, parameters: TensorDict, rows: TensorDict) -> Tensor:
        """r(s, a), shape ``(batch,)``."""
        return self.reward(parameters["reward"], self._inputs(parameters, rows))

    def _inputs(self, parameters: TensorDict, rows: TensorDict) -> Tensor:
        """As the reward reads them."""
        return self.reward.inputs(normalized(parameters, rows["observation"]), rows["action"])

    def _steepness(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> Tensor:
        """E[max(0, |dr| - 1)²] somewhere between a labelled and a suboptimal transition, in state and action."""
        count = min(len(batch[kind, "action"]) for kind in ("expert", "suboptimal"))
        expert, other = (self._inputs(parameters, batch[kind])[:count] for kind in ("expert", "suboptimal"))
        return beyond_one(self.reward.slopes_between(parameters["reward"], other, expert, noise["expert"][:count]))


class LookaheadIQLearn(ChosenImitation):
    """IQ-Learn in sample: what is imitated leads to where the expert is, by the values of the implied reward.

    V is learned on all of the data and on nothing else, from the returns of following them for as long as that pays. A
    row's weight is the highest V that its episode keeps up for a while from there on, held against that of the labelled
    states.
    """

    def more_critics(self, encoder: ObservationEncoder, hidden: Hidden) -> tuple[Phase, ...]:
        """V."""
        self.value_network = network(encoder, hidden, 1)
        return (Phase("value", self.value_loss, self.config.reward_learning_rate),)

    def initial_parameters(self, observation_mean: Tensor, observation_std: Tensor) -> TensorDict:
        """Networks drawn from torch's global generator."""
        parameters = super().initial_parameters(observation_mean, observation_std)
        parameters["value"] = fresh(self.value_network)
        return parameters

    def value_loss(self, parameters: TensorDict, batch: TensorDict, noise: TensorDict) -> tuple[Tensor, Metrics]:
        """E_E[(V(s) - G)²] + E_S[(V(s) - G)²], G the row's return as it was when the data were last gone through.

        The labelled rows are there for the level that all others are held against: V of data that nowhere come near the
        expert says nothing of its states.
        """
        expert, suboptimal = (self._value(parameters, batch[kind, "observation"]) for kind in ("expert", "suboptimal"))
        loss = (expert - batch["expert", "planned_return"]).square().mean()
        loss = loss + (suboptimal - batch["suboptimal", "planned_return"]).square().mean()
        return loss, {
            "critic/value_loss": loss,
            "critic/expert_value": expert.mean(),
            "critic/value": suboptimal.mean(),
        }

    def appraise(self, parameters: TensorDict, rows: TensorDict) -> Appraisal:
        """With values. An absorbing state goes on with the reward of the transition into it (LS-IQ's closed form)."""
        reward = self._reward_of(parameters, rows)
        return self._with_values(parameters, rows, reward, reward, self.config.chi2_alpha)

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """And V."""
        return super().diagnose(parameters, rows) | {"value": self._value(parameters, rows["observation"])}

    def returns(self, rows: Appraisal, last: Bool[Tensor, " rows"]) -> Rows:
        """By :func:`best_ahead`."""
        discount = self.config.discount
        return best_ahead(rows.reward + discount * rows.following, rows.reward, discount, last)

    def weigh(self, rows: Appraisal, expert: Appraisal, last: Bool[Tensor, " rows"]) -> Rows:
        """By the peak ahead of V, as far as it lasts, where that of r is nearer to the expert's r than to others'.

        V is bootstrapped, and may be wrong where nearly nobody comes by; r is not. With few labelled steps r says of no
        other that it is the expert's, but still which are the likeliest: where rows are missing it is some of these.
        """

        def peak(of: Rows) -> Rows:
            return best_ahead(lasting(of, self.config.lasting, last), 0.0, 1.0, last)

        reward = peak(rows.reward)
        likely = reward >= (expert.reward.mean() + rows.reward.mean()) / 2
        # Twice what relevance may find missing, so that there are enough.
        possible = outstanding(reward, max(1, min(2 * self.config.least_rows, len(reward) // 10)))
        floor = rows.value.kthvalue(1 + len(rows.value) // 20).values
        return self.near(peak(rows.value), expert.value.median(), floor, expert, likely, possible)

    def _with_values(
        self, parameters: TensorDict, rows: TensorDict, reward: Tensor, forever: Tensor, chi2_alpha: float
    ) -> Appraisal:
        """``forever``: what a next state earns from then on if it is absorbing.

        V(s') is kept within what rewards add up to (LS-IQ's clipped targets): the maximum in the returns takes up every
        error upwards, and where nearly nobody comes by nothing takes it back.
        """
        next_value = self._value(parameters, rows["next", "observation"])
        following = absorbed(next_value, rows["next", "terminated"], 1 / (1 - self.discount) * forever)
        bounds = value_bounds(chi2_alpha, 0.5, self.discount)
        return Appraisal(reward, self._value(parameters, rows["observation"]), following.clamp(*bounds))

    def _value(self, parameters: TensorDict, observation: Tensor) -> Tensor:
        state = normalized(parameters, observation)
        return call(self.value_network, parameters["value"], state).squeeze(-1)


class SurvivalImitation(LookaheadIQLearn):
    """The control that shows how much survival explains: nothing is rewarded, an end is as bad as r can be, for ever.

    The labelled transitions train V and count for its level, and are imitated; what they look like is not learned.
    """

    unread = (*LookaheadIQLearn.unread, "chi2_alpha", "reward_penalty")

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.phases = tuple(phase for phase in self.phases if phase.group != "reward")

    def reward_bound(self, expert_share: float) -> float:
        """No reward is learned."""
        return 0.0

    def diagnose(self, parameters: TensorDict, rows: TensorDict) -> Metrics:
        """The actor's error and V."""
        found = super().diagnose(parameters, rows)
        return {name: value for name, value in found.items() if name != "reward"}

    def appraise(self, parameters: TensorDict, rows: TensorDict) -> Appraisal:
        """An absorbing state has the value -2 / (1 - gamma): the unit is arbitrary, and this the default alpha's."""
        nothing = torch.zeros_like(rows["next", "terminated"])
        return self._with_values(parameters, rows, nothing, nothing - 2, 0.5)


class WeightedImitation(ChosenImitation):
    """The control that does not look ahead: each row by how much likelier it is the expert's, d_E / d_S.

    Of the optimal reward r that is (4 alpha + r) / (4 alpha - r): behavior cloning weighted by a discriminator. However
    small, the ratios of very many bad rows add up.
    """

    unread = (*ChosenImitation.unread, "discount", "lasting", "relevance", "least_rows")

    def weigh(self, rows: Appraisal, expert: Appraisal, last: Bool[Tensor, " rows"]) -> Rows:
        """The ratio, at most 100."""
        bound = 4 * self.config.chi2_alpha
        reward = rows.reward.clamp(-bound, bound)
        return ((bound + reward) / (bound - reward).clamp(min=1e-6)).clamp(1e-6, 100)


class BestEpisodesImitation(ChosenImitation):
    """The control for data that come as whole episodes of one policy: whole ones, by their mean reward."""

    unread = (*ChosenImitation.unread, "discount", "lasting")

    def weigh(self, rows: Appraisal, expert: Appraisal, last: Bool[Tensor, " rows"]) -> Rows:
        """By the mean reward of a row's episode, held against that of the labelled rows."""
        episode = last.cumsum(0) - last.long()
        total = torch.zeros(int(episode[-1]) + 1, dtype=rows.reward.dtype).index_add(0, episode, rows.reward)
        mean = total / episode.bincount()
        floor = mean.kthvalue(1 + len(mean) // 20).values
        return self.near(mean[episode], expert.reward.mean(), floor, expert)


POLICIES: dict[str, type[ChosenImitation]] = {
    "lookahead": LookaheadIQLearn,
    "survival": SurvivalImitation,
    "weighted": WeightedImitation,
    "best_episodes": BestEpisodesImitation,
}
"""By their names in the configuration."""
