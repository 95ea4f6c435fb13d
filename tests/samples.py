"""Real Minari datasets of samples from any spaces, in any format."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
from gymnasium.spaces import Dict, Text, Tuple
from minari.data_collector import EpisodeBuffer


def write_samples(
    identifier: str,
    observation_space: gymnasium.Space,
    action_space: gymnasium.Space,
    lengths: Sequence[int],
    **options: Any,
) -> Path:
    """Write a dataset of samples from any spaces, truncated at their ends; returns the folder of its metadata."""
    observation_space.seed(0)
    action_space.seed(0)

    def stacked(space: gymnasium.Space, values: list[Any]) -> Any:
        if isinstance(space, Dict):
            return {key: stacked(part, [value[key] for value in values]) for key, part in space.spaces.items()}
        if isinstance(space, Tuple):
            return tuple(stacked(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
        return values if isinstance(space, Text) else np.array(values)

    buffers = [
        EpisodeBuffer(
            id=index,
            seed=index,
            observations=stacked(observation_space, [observation_space.sample() for _ in range(length + 1)]),
            actions=stacked(action_space, [action_space.sample() for _ in range(length)]),
            rewards=[1.0] * length,
            terminations=[False] * length,
            truncations=[False] * (length - 1) + [True],
        )
        for index, length in enumerate(lengths)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = minari.create_dataset_from_buffers(
            identifier, buffers, observation_space=observation_space, action_space=action_space, **options
        )
    return Path(str(dataset.storage.data_path))
