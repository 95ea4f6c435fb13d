"""The configuration of IQ-Learn and its relatives: which terms there are, and which of them go together."""

import dataclasses
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from iq_offline.errors import UserError

STRICT = ConfigDict(extra="forbid")

Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, config=STRICT)
class IQLearnConfig:
    """IQ-Learn: the terms of the critic's objective, where the policy comes from, and their coefficients."""

    discount: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Gamma."""
    divergence: Literal[
        "chi_squared", "hellinger", "kl", "reverse_kl", "jensen_shannon", "total_variation", "wasserstein"
    ] = "chi_squared"
    """Between policy and expert. Only chi_squared is tuned; the last two bound the reward, or its slopes."""
    chi2_alpha: Annotated[float, Field(gt=0)] = 0.5
    """The paper's alpha in phi(x) = x - x²/(4 alpha)."""
    temperature: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Entropy coefficient, fixed. auto: 0.001; online, where the policy explores, 0.1 (soft_actor_critic: 0.01)."""
    value_states: Literal["auto", "expert", "mixture", "initial", "suboptimal"] = "auto"
    """States of the value term; auto is expert without suboptimal data and mixture with it. suboptimal: E_S[r], these
    data's own actions in the place of the policy's; auto where V is in sample."""
    chi2_states: Literal["auto", "expert", "mixture"] = "auto"
    """Transitions of the chi-squared term; auto as above."""
    gradient_penalty: Annotated[float, Field(ge=0)] = 0.3
    """Weight of E_E[|dQ/da|²] at the expert's actions, added to the critic's loss. 0: the paper's loss."""
    constraint_weight: Annotated[float, Field(ge=0)] = 10.0
    """total_variation, wasserstein: of E[max(0, |r| - 1/2)²] over the batch; of E_E[max(0, |dQ| - 1)²]."""
    behavior_anchor: Annotated[float, Field(ge=0)] | Literal["auto"] = "auto"
    """Weight of E_E[|tanh(mean(s)) - a|²] in the actor's loss; with finitely many actions, on expert data alone, of
    -E_E[log pi(a|s)] in the critic's. 0: the paper's policy step. auto: 30 on expert data alone; 10 where others are
    learned from, too; learned_reward: half of what Q is where policy and expert are alike, 2 chi2_alpha /
    (1 - discount)."""
    critic_learning_rate: Rate = 1e-3
    """Adam's, at the start."""
    actor_learning_rate: Rate | Literal["auto"] = "auto"
    """Adam's, at the start. auto: 0.0003, behavior cloning's rate, where the actor imitates what is chosen or an
    anchored or regressed one learns from expert data alone, and online, where data are still coming; else 0.001."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] | Literal["auto"] = "auto"
    """Adam's momentum for both. auto: 0.9 on expert data alone, as in behavior cloning, unless soft_actor_critic has a
    behavior_anchor of 0; else 0.5: without an anchor critic and actor circle around the expert at 0.9 instead of
    settling."""
    target_network: bool = True
    """Off: V(s') by the critic itself, and the gradient goes through it, as the paper does offline."""
    target_update_rate: Rate = 0.005
    """How fast the target critic follows."""
    policy: Literal[
        "auto",
        "soft_actor_critic",
        "learned_reward",
        "advantage_weighted",
        "lookahead",
        "survival",
        "weighted",
        "best_episodes",
    ] = "auto"
    """Where the policy comes from. soft_actor_critic: from Q (with finitely many actions, its softmax).
    advantage_weighted: regression on all data's actions, weighted by exp((Q - V) / advantage_temperature). lookahead:
    by imitating what of the suboptimal data leads to where the expert is. learned_reward: online, soft actor-critic for
    a reward that is learned by itself. auto: lookahead where there are suboptimal data, online learned_reward; but
    soft_actor_critic where terms are asked for that Q alone has (divergence, expert_term, clip_targets,
    absorbing_value, value).
    Controls: survival looks ahead for the ends of episodes alone; weighted and best_episodes do not look ahead, and
    imitate single transitions and whole episodes by their reward."""
    reward_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Choosing, learned_reward: weight of E[max(0, |dr| - 1)²] between labelled and other transitions."""
    reward_learning_rate: Rate = 3e-4
    """Choosing, learned_reward: Adam's, at the start, for the reward, and the value that is regressed to it."""
    choose_every: Positive = 250
    """Choosing: gradient steps after which all data are gone through anew (about 4 s a million rows)."""
    lasting: Positive = 50
    """lookahead: an episode comes to a value if it keeps it up for so many steps on average, or for all that it has."""
    relevance: Annotated[float, Field(ge=0)] = 40.0
    """lookahead, best_episodes: how sharply rows are preferred that come near the expert's value."""
    least_rows: Positive = 1_000
    """lookahead, best_episodes: what the weights of all rows add up to at least, a labelled one's being 1; no more is
    asked for than a twentieth of the suboptimal rows."""
    outlier_error: Annotated[float, Field(gt=0)] = 0.5
    """Choosing, advantage_weighted: as bc.outlier_error, for the actor. Not all that is imitated is the expert's."""
    expert_term: Literal["implied_reward", "fixed_target"] = "implied_reward"
    """What raises Q at the expert's transitions. fixed_target (LS-IQ): the squared error from r_max / (1 - discount),
    r_max the bound of rewards where the chi-squared term is over the mixture."""
    clip_targets: bool = False
    """LS-IQ: keep V(s') within what rewards at their bounds add up to."""
    absorbing_value: Literal["auto", "zero", "bound", "raised"] = "auto"
    """Value after a termination. bound (LS-IQ): r / (1 - discount), r the upper bound of rewards where it was the
    expert's and the lower one elsewhere. raised: the same where all rewards are raised by 2 chi2_alpha, so that none is
    negative and the worst end is worth 0, where Q begins. auto: zero; online, with soft_actor_critic, raised, or bound
    where V is over suboptimal data alone."""
    smoothness_penalty: Annotated[float, Field(ge=0)] = 10.0
    """Online soft_actor_critic, actions in a box: weight of E[max(0, |dr| / largest_slope - 1)²] between the expert's
    transitions and online ones, r the implied reward."""
    largest_slope: Annotated[float, Field(gt=0)] = 0.2
    """As smoothness_penalty: of the implied reward, by the distance of two transitions as the networks read them."""
    value: Literal["policy", "expectile"] = "policy"
    """Where V comes from: the policy's soft value, or (ReCOIL) an expectile of Q over the actions of the data."""
    expectile: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """value = 'expectile': towards 1, the best action of the data; at 0.5 their mean."""
    advantage_temperature: Annotated[float, Field(gt=0)] = 1.0
    """advantage_weighted: the smaller, the more Q - V decides."""
    critics: Positive = 2
    """learned_reward, actions in a box: the smallest of so many critics' values counts."""


FROM_Q = ("soft_actor_critic", "advantage_weighted")
"""The policies that come from Q; the others learn the implied reward by itself, with chi-squared."""
Q_TERMS = {
    "divergence": "chi_squared",
    "expert_term": "implied_reward",
    "clip_targets": False,
    "absorbing_value": "zero",
    "value": "policy",
}
"""Choices that only an objective in Q has, and what they are without it."""


def decided(config: IQLearnConfig, mixed: bool, online: bool = False) -> IQLearnConfig:
    """With every ``auto`` decided.

    Args:
        config: as given.
        mixed: whether there are suboptimal or online data.
        online: whether there are online data.
    """
    asked = {name for name, without in Q_TERMS.items() if getattr(config, name) not in (without, "auto")}
    plain = asked.isdisjoint(("divergence", "expert_term", "clip_targets"))
    policy = config.policy
    if policy == "auto":
        in_reward = "learned_reward" if online else "lookahead" if mixed else "soft_actor_critic"
        policy = "soft_actor_critic" if asked else in_reward
    states = "mixture" if mixed else "expert"
    value_states = "suboptimal" if config.value == "expectile" else states
    ends_count = online and policy == "soft_actor_critic" and plain and config.chi2_states != "expert"
    # By 2 alpha, with which no reward is negative where V is over the mixture; over the others alone some would be.
    over_others = "suboptimal" in (value_states, config.value_states)
    end = "zero" if not ends_count else "bound" if over_others else "raised"
    anchor = config.behavior_anchor
    if anchor == "auto":
        alike = 4 * config.chi2_alpha / (1 - config.discount)  # Q, where nobody could tell the policy from the expert.
        anchor = round(alike / 2, 6) if policy == "learned_reward" else 10.0 if mixed else 30.0
    imitates = policy == "advantage_weighted" or anchor > 0  # A regressed actor has no anchor.
    cloning = imitates and not mixed  # Then what is between this and behavior cloning is the Q-term alone.
    imitating = policy not in (*FROM_Q, "learned_reward")
    defaults: dict[str, str | float] = {
        "value_states": value_states,
        "chi2_states": states,
        "policy": policy,
        "absorbing_value": end,
        "behavior_anchor": anchor,
        "actor_learning_rate": 3e-4 if online or cloning or imitating else 1e-3,
        "adam_beta1": 0.9 if cloning else 0.5,
        "temperature": 0.1 if policy == "learned_reward" else 0.01 if online else 0.001,
    }
    own = {name: default for name, default in defaults.items() if getattr(config, name) == "auto"}
    return dataclasses.replace(config, **own)


DECIDED = tuple(field.name for field in dataclasses.fields(IQLearnConfig) if field.default == "auto")
"""The keys in which ``auto`` may stand."""


def undecided(config: IQLearnConfig) -> IQLearnConfig:
    """With ``auto`` again wherever it may stand: what was decided for one stage is not for the next."""
    return dataclasses.replace(config, **dict.fromkeys(DECIDED, "auto"))


def set_by_hand(config: IQLearnConfig, mixed: bool) -> list[str]:
    """The keys in which ``auto`` may stand, and which in an offline run's have another value than it would decide on.

    Args:
        config: of the run, with nothing left to ``auto``.
        mixed: whether it has suboptimal data.
    """
    anew = {name: decided(dataclasses.replace(config, **{name: "auto"}), mixed) for name in DECIDED}
    return [name for name, other in anew.items() if getattr(config, name) != getattr(other, name)]


def require_terms_that_fit(config: IQLearnConfig, mixed: bool) -> None:
    """Whether the terms that were decided on go together.

    Args:
        config: with nothing left to ``auto``.
        mixed: whether there are suboptimal or online data.

    Raises:
        UserError: they do not; it says which, and what to do.
    """
    if config.value == "expectile" and not mixed:
        raise UserError(
            "iq_learn.value = 'expectile' needs suboptimal data: give --suboptimal (data.suboptimal), or use 'policy'"
        )
    for name in ("value_states", "chi2_states", "policy"):
        value = getattr(config, name)
        if value not in ("expert", "initial", *FROM_Q) and not mixed:
            raise UserError(
                f"iq_learn.{name} = {value!r} needs suboptimal data: give --suboptimal (data.suboptimal), or use 'auto'"
            )
    if config.policy not in FROM_Q:
        for name, without in Q_TERMS.items():
            if getattr(config, name) != without:
                raise UserError(
                    f"iq_learn.{name} = {getattr(config, name)!r} needs iq_learn.policy = 'soft_actor_critic' or "
                    f"'advantage_weighted': {config.policy!r} learns a reward by itself, with chi-squared"
                )
        return
    bounded = config.divergence == "chi_squared" and config.chi2_states == "mixture"
    for name in ("expert_term", "clip_targets", "absorbing_value"):
        value = getattr(config, name)
        if value != Q_TERMS[name] and not bounded:
            raise UserError(
                f"iq_learn.{name} = {value!r} needs rewards with bounds: suboptimal data, iq_learn.chi2_states = "
                "'mixture' and iq_learn.divergence = 'chi_squared'"
            )
    if config.absorbing_value == "raised" and (config.clip_targets or config.expert_term == "fixed_target"):
        raise UserError(
            "iq_learn.absorbing_value = 'raised' does not go with the bounds of iq_learn.clip_targets and "
            "iq_learn.expert_term = 'fixed_target': use 'bound' or 'zero'"
        )
    if config.absorbing_value == "raised" and config.value_states == "suboptimal":
        raise UserError(
            "iq_learn.absorbing_value = 'raised' leaves rewards under 0 where iq_learn.value_states = 'suboptimal': "
            "use 'bound' or 'zero'"
        )
    if config.value == "expectile" and config.value_states != "suboptimal":
        raise UserError(
            f"iq_learn.value_states = {config.value_states!r} says nothing of Q where V is a network of its own "
            "(iq_learn.value = 'expectile'): use 'suboptimal' or 'auto'"
        )
