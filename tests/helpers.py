"""Small real Minari datasets, written from numpy arrays: no environment is ever built."""

import json
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box
from minari.data_collector import EpisodeBuffer

Episode = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Observations (T+1 rows), actions, rewards, terminations, truncations (T rows each)."""

Act = Callable[[np.ndarray], np.ndarray]


def write_dataset(
    identifier: str,
    episodes: Iterable[Episode],
    low: Any = -1.0,
    high: Any = 1.0,
    env_spec_id: str | None = None,
    data_format: str | None = None,
    observation_dtype: type = np.float64,
) -> Path:
    """Write a Minari dataset of Box spaces into the local Minari root.

    Args:
        identifier: such as ``test/point-v0``.
        episodes: one tuple of arrays each.
        low: of the action box: a number, or one number a dimension (then it gives the shape).
        high: likewise.
        env_spec_id: recorded as the dataset's environment; it need not be registered, and is never built.
        data_format: ``hdf5`` where None, or ``arrow``.
        observation_dtype: of the observation space.

    Returns:
        The folder that holds ``metadata.json``.
    """
    episodes = list(episodes)
    observation_shape, action_shape = episodes[0][0].shape[1:], episodes[0][1].shape[1:]
    lows, highs = (np.broadcast_to(np.asarray(bound, np.float32), action_shape).copy() for bound in (low, high))
    buffers = [
        EpisodeBuffer(
            id=index,
            seed=index,
            observations=observations,  # type: ignore[arg-type]
            actions=actions,  # type: ignore[arg-type]
            rewards=list(rewards),
            terminations=list(terminations),
            truncations=list(truncations),
        )
        for index, (observations, actions, rewards, terminations, truncations) in enumerate(episodes)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            identifier,
            buffers,
            observation_space=Box(-np.inf, np.inf, observation_shape, observation_dtype),  # type: ignore[arg-type]
            action_space=Box(lows, highs, dtype=np.float32),
            data_format=data_format,
        )
    folder = Path(str(dataset.storage.data_path))
    if env_spec_id is not None:
        known = env_spec_id in gymnasium.registry
        specification = gymnasium.spec(env_spec_id) if known else EnvSpec(env_spec_id)
        file = folder / "metadata.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"env_spec": specification.to_json()}))
    return folder


def point_mass_expert(observation: np.ndarray) -> np.ndarray:
    """A proportional-derivative controller, for one state (4,) or many (n, 4)."""
    position, velocity = observation[..., :2], observation[..., 2:]
    return np.clip(-2.0 * position - 2.0 * velocity, -1.0, 1.0)


def point_mass_step(state: np.ndarray, action: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The next states and the rewards of a unit mass pushed in the plane for a tenth of a second."""
    position, velocity = state[..., :2], state[..., 2:]
    action = np.clip(action, -1.0, 1.0)
    reward = -(np.square(position).sum(-1) + 0.1 * np.square(velocity).sum(-1) + 0.01 * np.square(action).sum(-1))
    velocity = velocity + 0.1 * action
    return np.concatenate([position + 0.1 * velocity, velocity], -1), reward


def point_mass_starts(count: int, seed: int) -> np.ndarray:
    """Start states: somewhere in [-1, 1]², moving slowly."""
    generator = np.random.default_rng(seed)
    return np.concatenate([generator.uniform(-1, 1, (count, 2)), generator.uniform(-0.2, 0.2, (count, 2))], -1)


def point_mass_returns(act: Act, episodes: int, steps: int, seed: int) -> np.ndarray:
    """Sums of rewards of a policy that maps states (n, 4) to actions (n, 2), from fixed start states."""
    state, total = point_mass_starts(episodes, seed), np.zeros(episodes)
    for _ in range(steps):
        state, reward = point_mass_step(state, np.asarray(act(state), np.float64))
        total += reward
    return total


def point_mass_episodes(
    episodes: int, steps: int, seed: int, noise: float = 0.0, act: Act = point_mass_expert
) -> list[Episode]:
    """Truncated episodes of the expert, or of ``act``, with Gaussian noise on the actions."""
    generator = np.random.default_rng((seed, 1))
    written = []
    for start in point_mass_starts(episodes, seed):
        states, actions, rewards = [start], [], []
        for _ in range(steps):
            action = np.clip(act(states[-1]) + noise * generator.standard_normal(2), -1.0, 1.0)
            state, reward = point_mass_step(states[-1], action)
            states.append(state)
            actions.append(action)
            rewards.append(reward)
        truncations = np.arange(1, steps + 1) == steps
        arrays = np.array(states), np.array(actions, np.float32), np.array(rewards)
        written.append((*arrays, np.zeros(steps, bool), truncations))
    return written


def point_mass_dataset(
    identifier: str, episodes: int, steps: int, seed: int, noise: float = 0.0, act: Act = point_mass_expert
) -> Path:
    """Write a dataset of the point mass; returns the folder that holds ``metadata.json``."""
    return write_dataset(identifier, point_mass_episodes(episodes, steps, seed, noise, act))
