"""Whole episodes of a policy in an environment: for recording and for scoring. The online stage steps its own."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box

from iq_offline.data.actions import ActionBranches
from iq_offline.environments.copies import in_words
from iq_offline.errors import UserError
from iq_offline.learning.policy import Policy

Act = Callable[[list[list[Any]], list[np.random.Generator]], np.ndarray]
"""Actions ``(n, …)`` for n episodes: of each the observations so far, newest last, and a random generator."""


def acting(policy: Policy, noise: float = 0.0) -> Act:
    """How a policy acts in a rollout: its mean action, plus Gaussian noise, inside the action box.

    Args:
        policy: on the environment's own observations and actions.
        noise: in a box, the standard deviation as a fraction of half of it; of finitely many actions, the share that
            is drawn at random.
    """
    space = policy.action_space

    def act(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
        actions = policy.act(histories)
        if not noise:
            return actions
        if isinstance(space, Box):
            spread = noise * (space.high - space.low) / 2
            draws = np.stack([generator.standard_normal(space.shape) for generator in generators])
            return np.clip(actions + spread * draws, space.low, space.high).astype(space.dtype)
        for row, generator in enumerate(generators):
            if generator.random() < noise:
                actions[row] = random_action(space, generator)
        return actions

    return act


def random_action(space: gymnasium.Space, generator: np.random.Generator) -> np.ndarray:
    """One action, uniformly from a bounded box or from finitely many."""
    if isinstance(space, Box):
        return generator.uniform(space.low, space.high).astype(space.dtype)
    branches = ActionBranches(space)
    return branches.from_indices(generator.integers(0, np.asarray(branches.counts))[None])[0]


def acting_randomly(space: gymnasium.Space) -> Act:
    """Uniformly random actions, each episode's from its own generator."""
    return lambda histories, generators: np.stack([random_action(space, generator) for generator in generators])


def acting_in_turns(usual: Act, other: Act, every: int, shortest: int, longest: int) -> Act:
    """Mostly ``usual``; stretches of ``shortest`` to ``longest`` steps of ``other`` begin once in ``every`` steps."""
    left: dict[np.random.Generator, int] = {}  # Steps that remain of each episode's stretch.

    def act(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
        actions, others = usual(histories, generators), other(histories, generators)
        for row, generator in enumerate(generators):
            remaining = left.get(generator, 0)
            if not remaining and generator.random() < 1 / every:
                remaining = int(generator.integers(shortest, longest + 1))
            if remaining:
                actions[row] = others[row]
                left[generator] = remaining - 1
        return actions

    return act


class FaultError(UserError):
    """An environment raised something."""


@dataclass
class Episode:
    """One whole episode: T+1 observations, unless only the newest were kept; T of everything else."""

    seed: int
    observations: list[Any] = field(default_factory=list)
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    terminations: list[bool] = field(default_factory=list)
    truncations: list[bool] = field(default_factory=list)

    @property
    def total_return(self) -> float:
        """Sum of rewards, undiscounted."""
        return float(np.sum(self.rewards))


def rollout(
    environments: Sequence[gymnasium.Env],
    act: Act,
    seeds: Sequence[int],
    on_episode: Callable[[Episode], None] = lambda episode: None,
    frames: int | None = None,
) -> Iterator[Episode]:
    """Yield one whole episode for each seed, in the order of the seeds.

    Several environments step side by side so that the policy answers once for all of them. Each episode has a seed
    and a random generator of its own, and every episode is counted to its end, so short ones are not over-represented
    (as they are in vector environments that reset themselves).

    Args:
        environments: alike.
        act: given the observations of each running episode.
        seeds: of the environments' resets.
        on_episode: told of each episode at its end.
        frames: how many of an episode's observations are kept, the newest; all by default.

    Raises:
        FaultError: an environment raised something.
    """
    width = len(environments)
    for start in range(0, len(seeds), width):
        episodes = [Episode(seed) for seed in seeds[start : start + width]]
        generators = [np.random.default_rng(episode.seed) for episode in episodes]
        for environment, episode in zip(environments, episodes, strict=False):
            with _told(environment, "reset"):
                observation = environment.reset(seed=episode.seed)[0]
            episode.observations.append(copy.deepcopy(observation))  # It may be written over in the next step.
        running = list(range(len(episodes)))
        while running:
            actions = act([episodes[i].observations for i in running], [generators[i] for i in running])
            still_running = []
            for i, action in zip(running, actions, strict=True):
                with _told(environments[i], "step"):
                    observation, reward, terminated, truncated, _ = environments[i].step(action)
                episode = episodes[i]
                episode.observations.append(copy.deepcopy(observation))
                if frames is not None:
                    del episode.observations[:-frames]
                episode.actions.append(action)
                episode.rewards.append(float(reward))
                episode.terminations.append(bool(terminated))
                episode.truncations.append(bool(truncated))
                if terminated or truncated:
                    on_episode(episode)
                else:
                    still_running.append(i)
            running = still_running
        yield from episodes


@contextlib.contextmanager
def _told(environment: gymnasium.Env, doing: str) -> Iterator[None]:
    """What an environment raises is one line."""
    try:
        yield
    except (KeyboardInterrupt, UserError):
        raise
    except BaseException as error:
        name = environment.spec.id if environment.spec else type(environment.unwrapped).__name__
        raise FaultError(f"{name} {in_words(error, doing)}") from error
