"""Whole episodes, one for each seed, the same however many environments step side by side."""

from typing import Any

import gymnasium
import numpy as np
import pytest

from iq_offline.environments.make import make
from iq_offline.environments.rollout import Act, Episode, rollout

ENVIRONMENT = "MountainCarContinuous-v0"
SEEDS = [5, 3, 11, 8, 100, 2, 9]


def pump(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
    """Push along the velocity, with noise: reaches the goal after a different time from every start."""
    observations = np.stack([history[-1] for history in histories])
    noise = np.stack([generator.uniform(-0.3, 0.3, 1) for generator in generators])
    return (np.where(observations[:, 1:] >= 0, 0.9, -0.9) + noise).clip(-1, 1).astype(np.float32)


def plainly(seed: int) -> Episode:
    """The same episode by an independent loop."""
    environment, generator = gymnasium.make(ENVIRONMENT), np.random.default_rng(seed)
    episode = Episode(seed, [environment.reset(seed=seed)[0]])
    done = False
    while not done:
        action = pump([episode.observations[-1:]], [generator])[0]
        observation, reward, terminated, truncated, _ = environment.step(action)
        episode.observations.append(observation)
        episode.actions.append(action)
        episode.rewards.append(float(reward))
        episode.terminations.append(terminated)
        episode.truncations.append(truncated)
        done = terminated or truncated
    return episode


def assert_equal(one: Episode, other: Episode) -> None:
    assert one.seed == other.seed
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        np.testing.assert_array_equal(np.asarray(getattr(one, name)), np.asarray(getattr(other, name)), name)
    assert one.total_return == other.total_return == pytest.approx(sum(one.rewards))


@pytest.fixture(scope="module")
def expected() -> list[Episode]:
    return [plainly(seed) for seed in SEEDS]


@pytest.mark.parametrize("width", [1, 3, 7, 10])
def test_the_number_of_environments_changes_nothing(width: int, expected: list[Episode]) -> None:
    assert len({len(episode.rewards) for episode in expected}) > 3, "episodes of one length would prove little"
    episodes = list(rollout(make(ENVIRONMENT, width), pump, SEEDS))
    assert [episode.seed for episode in episodes] == SEEDS
    for one, other in zip(episodes, expected, strict=True):
        assert_equal(one, other)


def test_episodes_are_whole() -> None:
    """Ended by the environment and at no other place; T+1 observations."""
    for episode in rollout(make(ENVIRONMENT, 3), pump, SEEDS):
        steps = len(episode.rewards)
        lengths = [len(values) for values in (episode.actions, episode.terminations, episode.truncations)]
        assert lengths == [steps] * 3
        assert len(episode.observations) == steps + 1
        assert episode.terminations[-1]
        assert not any(episode.terminations[:-1])
        assert not any(episode.truncations[:-1])


def test_a_time_limit_truncates_and_does_not_terminate() -> None:
    still: Act = lambda histories, _: np.zeros((len(histories), 1), np.float32)  # noqa: E731
    (episode,) = rollout(make("Pendulum-v1", 1), still, [0])
    assert len(episode.rewards) == 200
    assert episode.truncations == [False] * 199 + [True]
    assert episode.terminations == [False] * 200


def test_the_policy_answers_for_running_episodes_only() -> None:
    asked = 0

    def counted(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
        nonlocal asked
        assert len(histories) == len(generators)
        asked += len(histories)
        return pump(histories, generators)

    episodes = list(rollout(make(ENVIRONMENT, 4), counted, SEEDS))
    assert asked == sum(len(episode.rewards) for episode in episodes)


def test_the_policy_sees_each_episode_from_its_start() -> None:
    """All observations so far, oldest first, whoever else is still running."""
    seen: dict[int, list[list[list[float]]]] = {}
    starts: dict[tuple[float, ...], int] = {}

    def noting(histories: list[list[Any]], generators: list[np.random.Generator]) -> np.ndarray:
        for history in histories:
            episode = starts.setdefault(tuple(history[0].tolist()), len(starts))
            seen.setdefault(episode, []).append([observation.tolist() for observation in history])
        return pump(histories, generators)

    episodes = list(rollout(make(ENVIRONMENT, 3), noting, SEEDS))
    assert len(seen) == len(SEEDS)
    for index, episode in enumerate(episodes):
        whole = [observation.tolist() for observation in episode.observations]
        assert seen[index] == [whole[: t + 1] for t in range(len(episode.rewards))]


def test_environments_left_over_from_an_episode_start_afresh(expected: list[Episode]) -> None:
    environments = make(ENVIRONMENT, 2)
    for environment in environments:
        environment.reset(seed=77)
        environment.step(environment.action_space.sample())
    for one, other in zip(rollout(environments, pump, SEEDS), expected, strict=True):
        assert_equal(one, other)


def test_on_episode_is_told_of_each_whole_episode_once() -> None:
    told: list[Episode] = []
    episodes = list(rollout(make(ENVIRONMENT, 3), pump, SEEDS, told.append))
    assert sorted(id(episode) for episode in told) == sorted(id(episode) for episode in episodes)
    assert all(episode.terminations[-1] for episode in told)


def test_no_seeds_no_episodes() -> None:
    assert list(rollout(make(ENVIRONMENT, 2), pump, [])) == []
