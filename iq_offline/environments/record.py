"""Recording a built-in dataset: the policy of its card acts, Minari writes."""

import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import torch
from gymnasium.spaces import Dict, Tuple
from minari.data_collector import EpisodeBuffer

from iq_offline.data import catalog
from iq_offline.data.catalog import RANDOM, WAYPOINTS, Card, DatasetCard
from iq_offline.data.ingest import Progress
from iq_offline.data.spaces import leaves_of, part_of
from iq_offline.data.writing import install, temporary_root, while_they_fit
from iq_offline.environments.make import built
from iq_offline.environments.rollout import Act, Episode, acting, acting_in_turns, acting_randomly, rollout
from iq_offline.files import disk_errors, shipped
from iq_offline.learning.policy import Policy

SIDE_BY_SIDE = 10
"""Environments that step together; part of what is recorded, since a policy's last bits depend on its batch."""

AUTHOR = "iq_offline"
RECORDED_WITH = ("gymnasium", "mujoco", "numpy", "torch")


@dataclass(frozen=True)
class Recording:
    """What was recorded."""

    id: str
    path: Path
    content_hash: str
    returns: np.ndarray
    lengths: np.ndarray


def record(name: str, tier: str, card: Card, on_progress: Progress = lambda done, total: None) -> Recording:
    """Record the dataset ``iq-offline/NAME/TIER-v0`` from its card into the Minari root, replacing it as a whole.

    The same versions on the same machine record the same bytes in every array.

    Raises:
        UserError: the environment or the policy cannot be loaded, or the disk is full.
    """
    about = card.datasets[tier]
    identifier = f"{catalog.NAMESPACE}/{name}/{tier}-v0"
    root, recording = catalog.minari_root(), "recording " + identifier
    with disk_errors(recording, root), temporary_root(root):
        pass  # Where nothing can be written nothing is recorded, which may take minutes.
    done: list[Episode] = []

    def finished(episode: Episode) -> None:
        done.append(episode)
        on_progress(len(done), about.episodes)

    seeds = range(about.seed, about.seed + about.episodes)
    with built(card.environment, SIDE_BY_SIDE) as environments, one_thread():
        space = environments[0].observation_space
        episodes = list(rollout(environments, behaviour(about, environments[0]), seeds, finished))
    with disk_errors(recording, root), temporary_root(root) as temporary:
        write(identifier, card, about, episodes, space)
        path = install(identifier, temporary, root)
    return Recording(
        identifier,
        path,
        content_hash(episodes, space),
        np.array([episode.total_return for episode in episodes]),
        np.array([len(episode.rewards) for episode in episodes]),
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """As fast as it gets for networks this small, and part of what the recorded bytes depend on."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def behaviour(about: DatasetCard, environment: gymnasium.Env) -> Act:
    """How the card's policy acts: its mean action, plus the card's noise, with the card's random stretches."""
    randomly = acting_randomly(environment.action_space)
    if about.policy == RANDOM:
        return randomly
    if about.policy == WAYPOINTS:
        from iq_offline.environments.waypoints import acting_by_waypoints

        usual = acting_by_waypoints(environment, about.action_noise)
    else:
        usual = acting(Policy.load(shipped("datasets") / "policies" / about.policy), about.action_noise)
    stretches = about.random_stretches
    if stretches is None:
        return usual
    return acting_in_turns(usual, randomly, stretches.every, stretches.shortest, stretches.longest)


def content_hash(episodes: list[Episode], observation_space: gymnasium.Space) -> str:
    """SHA-256 of all arrays of all episodes, in order: values and types, not the file around them."""
    digest = hashlib.sha256()
    paths = [leaf.path for leaf in leaves_of(observation_space)]
    for episode in episodes:
        observations = [[part_of(one, path) for one in episode.observations] for path in paths]
        rest = (episode.actions, episode.rewards, episode.terminations, episode.truncations)
        for values in (*observations, *rest):
            array = np.asarray(values)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return f"sha256:{digest.hexdigest()}"


def versions() -> dict[str, str]:
    """Versions of the packages that the recorded bytes depend on."""
    return {name: version(name) for name in RECORDED_WITH}


def write(
    identifier: str, card: Card, about: DatasetCard, episodes: list[Episode], observation_space: gymnasium.Space
) -> None:
    """Let Minari write episodes as a dataset, into the root that it has now.

    Args:
        identifier: Minari's, with namespace and version.
        card: the environment, and what scores are held against.
        about: who acted.
        episodes: whole, in order.
        observation_space: of the environment.
    """
    buffers = [
        EpisodeBuffer(
            id=index,
            seed=episode.seed,
            observations=_columns(observation_space, episode.observations),
            actions=np.asarray(episode.actions),  # type: ignore[arg-type]
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
        )
        for index, episode in enumerate(episodes)
    ]
    rows = sum(len(episode.rewards) for episode in episodes)
    parts = [part_of(episodes[0].observations[0], leaf.path) for leaf in leaves_of(observation_space)]
    row = sum(np.asarray(part).nbytes for part in (*parts, episodes[0].actions[0], 0.0, False, False))
    fitting = while_they_fit(buffers, catalog.minari_root(), row, rows, len(buffers))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an email address and a permanent link.
        minari.create_dataset_from_buffers(
            identifier,
            fitting,  # type: ignore[arg-type]
            env=card.environment,
            eval_env=card.environment,
            algorithm_name=card.training.algorithm if card.training and about.policy != RANDOM else about.policy,
            author=AUTHOR,
            description=(
                f"{about.episodes} episodes of {card.environment} by {about.policy}, first seed {about.seed}, "
                f"action noise {about.action_noise}, random stretches {about.random_stretches or 'none'}, "
                f"{about.training_steps} steps of training. "
                f"Reference scores: {card.references.source}"
            ),
            ref_min_score=card.references.random_return,
            ref_max_score=card.references.expert_return,
            requirements=[f"{name}=={version(name)}" for name in _packages(card.environment)],
            data_format="hdf5",
        )


def _columns(space: gymnasium.Space, values: list[Any]) -> Any:
    """Observations one after another as Minari wants them: an array for each leaf, in the space's own structure."""
    if isinstance(space, Dict):
        return {key: _columns(part, [value[key] for value in values]) for key, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(_columns(part, [value[i] for value in values]) for i, part in enumerate(space.spaces))
    return np.asarray(values)


def _packages(environment: str) -> list[str]:
    """What must be installed to build the environment again."""
    entry_point = str(gymnasium.spec(environment).entry_point)
    physics = {"gymnasium.envs.mujoco": "mujoco", "gymnasium.envs.box2d": "box2d", "gymnasium_robotics": "mujoco"}
    needed = [package for module, package in physics.items() if entry_point.startswith(module)]
    return ["gymnasium", *(["gymnasium-robotics"] if "robotics" in entry_point else []), *needed]
