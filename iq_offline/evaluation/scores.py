"""Scoring finished policies: whole episodes, returns, and returns normalised by named references."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec

from iq_offline.data.catalog import References, card_names, known_references, load_card
from iq_offline.data.ingest import Progress
from iq_offline.data.replay import Selection
from iq_offline.data.spaces import form_of
from iq_offline.data.stream import Source, episode_returns
from iq_offline.environments.make import built
from iq_offline.environments.rollout import Episode, rollout
from iq_offline.errors import UserError
from iq_offline.learning.policy import Policy

RANDOM_EPISODES = 100
RANDOM_SEED = 2_000_000
SIDE_BY_SIDE = 10


def evaluate(
    policy: Policy,
    environment: str | EnvSpec,
    episodes: int,
    seed: int,
    on_episode: Callable[[Episode], None] = lambda episode: None,
) -> list[float]:
    """Returns of ``episodes`` whole episodes with the mean action; episode i starts from seed ``seed + i``.

    Raises:
        UserError: the environment cannot be built or raises something, it is not the one the policy was trained for, or
            what it observes or a return is not finite.
    """
    name = environment if isinstance(environment, str) else environment.id

    def act(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
        try:
            features = policy.encoder.encode(histories)
        except ValueError as error:
            raise UserError(f"what {name} observed is not in its space: {error}") from error
        if not features.isfinite().all():
            raise UserError(f"{name} observed values that are not finite")
        return policy.from_features(features)

    seeds = range(seed, seed + episodes)
    with built(environment, min(SIDE_BY_SIDE, episodes)) as environments:
        for kind in ("observation_space", "action_space"):
            theirs, ours = form_of(getattr(environments[0], kind)), form_of(getattr(policy, kind))
            if theirs != ours:
                raise UserError(f"the environment's {kind.replace('_', ' ')} is {theirs}, the policy's {ours}")
        done = rollout(environments, act, seeds, on_episode, policy.encoder.frame_stack)
        returns = [episode.total_return for episode in done]
    broken = [one for one, value in zip(seeds, returns, strict=True) if not np.isfinite(value)]
    if broken:
        raise UserError(f"the return of the episode with seed {broken[0]} in {name} is not finite")
    return returns


def random_return(environment: str | EnvSpec, on_progress: Progress = lambda done, total: None) -> float:
    """Mean return of uniformly random actions over 100 episodes."""
    seeds = range(RANDOM_SEED, RANDOM_SEED + RANDOM_EPISODES)
    with built(environment, SIDE_BY_SIDE) as environments:
        space = environments[0].action_space
        space.seed(RANDOM_SEED)

        def act(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
            return np.stack([space.sample() for _ in generators])

        returns = []
        for episode in rollout(environments, act, seeds, frames=1):
            returns.append(episode.total_return)
            on_progress(len(returns), RANDOM_EPISODES)
        return float(np.mean(returns))


def references(
    source: Source, environment: str | EnvSpec, on_progress: Progress = lambda done, total: None
) -> References:
    """What 0 and 1 mean for a dataset: its card's, else its metadata's, else measured.

    Measured means: expert, the mean return of the dataset's own episodes; random, the card's value for the same
    environment where there is a card, else 100 random episodes.
    """
    known = known_references(source.id, source.metadata)
    if known:
        return known
    returns = episode_returns(source)
    own, measured = float(returns.mean()), "mean of the dataset"
    if not returns.any():
        own, measured = math.nan, "the dataset's rewards are all zero"
    name = environment if isinstance(environment, str) else environment.id
    for card in map(load_card, card_names()):
        if card.environment == name:
            return References(own, card.references.random_return, f"{measured}; random from the card of {name}")
    return References(own, random_return(environment, on_progress), f"{measured}; 100 random episodes")


def mean_return(selections: Sequence[Selection]) -> float:
    """Mean return of the whole episodes that transitions were chosen from, those of all selections together."""
    chosen = [
        replace(one.data.source, view=tuple(one.data.source.episode_ids[index] for index in one.trajectories))
        for one in selections
    ]
    return float(np.concatenate([episode_returns(source) for source in chosen]).mean())


EXPERT_LEVEL = 0.95


def along_the_way(curve: Sequence[dict[str, Any]], references: References) -> dict[str, float | int | None]:
    """What the evaluations of an online run come to; its first is of before the environment.

    Returns:
        ``start_score`` and ``lowest_score`` of all, and ``env_steps_to_expert_level``: the steps from which on every
        evaluation is at 0.95 or higher. None where there are no scores, or the last evaluation is lower.
    """
    scores = [normalized_score(point["return_mean"], references) for point in curve]
    known = [score for score in scores if score is not None]
    if len(known) < len(scores) or not known:
        return {"start_score": None, "lowest_score": None, "env_steps_to_expert_level": None}
    below = [index for index, score in enumerate(known) if score < EXPERT_LEVEL]
    first = below[-1] + 1 if below else 0
    reached = int(curve[first]["env_steps"]) if first < len(curve) else None
    return {"start_score": known[0], "lowest_score": min(known), "env_steps_to_expert_level": reached}


def why_unscored(references: References) -> str:
    """Why returns cannot be normalised by these references; empty where they can."""
    expert, random = references.expert_return, references.random_return
    if math.isfinite(expert) and math.isfinite(random) and expert > random:
        return ""
    return f"the expert's return of {expert:,.1f} is not above a random policy's of {random:,.1f} ({references.source})"


def normalized_score(value: float, references: References) -> float | None:
    """(return - random) / (expert - random); None where the expert's is not known to be above the random one."""
    if why_unscored(references):
        return None
    return (value - references.random_return) / (references.expert_return - references.random_return)


def score_error(returns: Sequence[float], references: References) -> float | None:
    """Standard error of a policy's normalised score, over which episodes it was seen in.

    Not what another seed of the training would give. None for one episode, or where there is no score.
    """
    if why_unscored(references) or len(returns) < 2:
        return None
    error = float(np.std(returns, ddof=1)) / math.sqrt(len(returns))
    return error / (references.expert_return - references.random_return)
