"""Whole episodes of a policy in an environment: the only loop of the project that steps one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np

from iq_offline.learning.policy import Policy

Act = Callable[[np.ndarray, list[np.random.Generator]], np.ndarray]
"""Actions ``(n, …)`` for observations ``(n, …)``, with one random generator for each of the n episodes."""


def acting(policy: Policy, noise: float = 0.0) -> Act:
    """How a policy acts in a rollout: its mean action, plus Gaussian noise, inside the action box.

    Args:
        policy: on the environment's own observations and actions.
        noise: standard deviation, as a fraction of half the action box.
    """
    space = policy.action_space
    spread = noise * (space.high - space.low) / 2

    def act(observations: np.ndarray, generators: list[np.random.Generator]) -> np.ndarray:
        actions = policy(observations)
        if noise:
            draws = np.stack([generator.standard_normal(space.shape) for generator in generators])
            actions = np.clip(actions + spread * draws, space.low, space.high).astype(space.dtype)
        return actions

    return act


@dataclass
class Episode:
    """One whole episode: T+1 observations, T of everything else."""

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
) -> Iterator[Episode]:
    """Yield one whole episode for each seed, in the order of the seeds.

    Several environments step side by side so that the policy answers once for all of them. Each episode has a seed
    and a random generator of its own, and every episode is counted to its end, so short ones are not over-represented
    (as they are in vector environments that reset themselves).
    """
    width = len(environments)
    for start in range(0, len(seeds), width):
        episodes = [Episode(seed) for seed in seeds[start : start + width]]
        generators = [np.random.default_rng(episode.seed) for episode in episodes]
        for environment, episode in zip(environments, episodes, strict=False):
            episode.observations.append(environment.reset(seed=episode.seed)[0])
        running = list(range(len(episodes)))
        while running:
            observations = np.stack([episodes[i].observations[-1] for i in running])
            actions = act(observations, [generators[i] for i in running])
            still_running = []
            for i, action in zip(running, actions, strict=True):
                observation, reward, terminated, truncated, _ = environments[i].step(action)
                episode = episodes[i]
                episode.observations.append(observation)
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
