"""Recording a built-in dataset: the policy of its card acts, Minari writes."""

import hashlib
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import gymnasium
import minari
import numpy as np
import torch
from minari.data_collector import EpisodeBuffer

from iq_offline.data import catalog
from iq_offline.data.cache import Progress
from iq_offline.data.catalog import RANDOM, Card, DatasetCard
from iq_offline.data.writing import install, temporary_root
from iq_offline.environments.make import make
from iq_offline.environments.rollout import Act, Episode, acting, rollout
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
    torch.set_num_threads(1)  # As fast as it gets for networks this small, and part of what the bytes depend on.
    about = card.datasets[tier]
    identifier = f"{catalog.NAMESPACE}/{name}/{tier}-v0"
    environments = make(card.environment, SIDE_BY_SIDE)
    done: list[Episode] = []

    def finished(episode: Episode) -> None:
        done.append(episode)
        on_progress(len(done), about.episodes)

    seeds = range(about.seed, about.seed + about.episodes)
    episodes = list(rollout(environments, behaviour(about, environments[0]), seeds, finished))
    root = catalog.minari_root()
    with disk_errors("recording " + identifier, root), temporary_root(root) as temporary:
        _write(identifier, card, about, episodes)
        path = install(identifier, temporary, root)
    return Recording(
        identifier,
        path,
        content_hash(episodes),
        np.array([episode.total_return for episode in episodes]),
        np.array([len(episode.rewards) for episode in episodes]),
    )


def behaviour(about: DatasetCard, environment: gymnasium.Env) -> Act:
    """How the card's policy acts: its mean action, plus the card's noise, inside the action box."""
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)

    def act_randomly(observations: np.ndarray, generators: list[np.random.Generator]) -> np.ndarray:
        draws = [generator.uniform(space.low, space.high) for generator in generators]
        return np.stack(draws).astype(space.dtype)

    if about.policy == RANDOM:
        return act_randomly
    return acting(Policy.load(shipped("datasets") / "policies" / about.policy), about.action_noise)


def content_hash(episodes: list[Episode]) -> str:
    """SHA-256 of all arrays of all episodes, in order: values and types, not the file around them."""
    digest = hashlib.sha256()
    for episode in episodes:
        for values in (
            episode.observations,
            episode.actions,
            episode.rewards,
            episode.terminations,
            episode.truncations,
        ):
            array = np.asarray(values)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.tobytes())
    return f"sha256:{digest.hexdigest()}"


def versions() -> dict[str, str]:
    """Versions of the packages that the recorded bytes depend on."""
    return {name: version(name) for name in RECORDED_WITH}


def _write(identifier: str, card: Card, about: DatasetCard, episodes: list[Episode]) -> None:
    buffers = [
        EpisodeBuffer(
            id=index,
            seed=episode.seed,
            observations=np.asarray(episode.observations),  # type: ignore[arg-type]
            actions=np.asarray(episode.actions),  # type: ignore[arg-type]
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
        )
        for index, episode in enumerate(episodes)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Minari asks for an email address and a permanent link.
        minari.create_dataset_from_buffers(
            identifier,
            buffers,
            env=card.environment,
            eval_env=card.environment,
            algorithm_name=about.policy if about.policy == RANDOM else card.training.algorithm,
            author=AUTHOR,
            description=(
                f"{about.episodes} episodes of {card.environment} by {about.policy}, first seed {about.seed}, "
                f"action noise {about.action_noise}, {about.training_steps} steps of training. "
                f"Reference scores: {card.references.source}"
            ),
            ref_min_score=card.references.random_return,
            ref_max_score=card.references.expert_return,
            requirements=[f"gymnasium=={version('gymnasium')}", f"mujoco=={version('mujoco')}"],
            data_format="hdf5",
        )
