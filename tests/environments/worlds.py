"""Environments for tests: a point mass that can go wrong in every way, and datasets of it.

Registered where this is imported; ``python -c COMMAND ARGUMENTS`` is ``iq-offline`` with them.
"""

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box

from iq_offline.config import DataConfig, RunConfig, TrainingConfig, resolved
from iq_offline.config.online import OnlineConfig
from iq_offline.data.catalog import minari_root
from tests.data_helpers import change_metadata
from tests.helpers import point_mass_dataset, point_mass_step

POINT = "Point-v0"
COMMAND = "import sys, tests.environments.worlds; from iq_offline.cli import main; sys.exit(main(sys.argv[1:]))"
LONGEST = 9


class HandleError(Exception):
    """Holds what cannot be pickled."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.handle = threading.Lock()


class SimulatorError(Exception):
    """Is not built from one argument."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{text} ({code})")


class Unsendable:
    """No pipe takes it, nor what it raises then."""

    def __reduce__(self) -> Any:
        raise HandleError("no way through a pipe")


class Point(gymnasium.Env):
    """The point mass of ``tests.helpers``; its episodes are terminated where it leaves a circle.

    Args:
        fault: ``raise``, ``hang``, ``nan``, ``shape``, ``unsendable``, ``die`` or one of ``RAISED``, while the file
            ``while_there`` is there.
        after: steps of this copy before that.
        while_there: a file.
        reward: in place of the true one.
        radius: of the circle.
        slow: seconds that a step takes.
        at: what goes wrong: a ``step``, a ``reset``, a ``close``, or the ``build`` of every copy but the first
            ``after``.
        bound: of the actions, on both sides.
        ragged: add arrays of varying length to what nobody reads.
    """

    observation_space = Box(-np.inf, np.inf, (4,), np.float64)
    action_space = Box(-1.0, 1.0, (2,), np.float32)
    built = 0

    def __init__(
        self,
        fault: str = "",
        after: int = 0,
        while_there: str = "",
        reward: float | None = None,
        radius: float = 1.5,
        slow: float = 0.0,
        at: str = "step",
        bound: float = 1.0,
        ragged: bool = False,
    ) -> None:
        self.fault, self.after, self.while_there, self.reward, self.radius = fault, after, while_there, reward, radius
        self.slow, self.at, self.ragged = slow, at, ragged
        self.action_space = Box(-bound, bound, (2,), np.float32)
        self.steps = 0
        Point.built += 1
        if self._is_broken("build", Point.built):
            go_wrong(fault)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = np.concatenate([self.np_random.uniform(-1, 1, 2), self.np_random.uniform(-0.2, 0.2, 2)])
        if self._is_broken("reset", self.steps):
            go_wrong(self.fault)
        return self.state, self._info()

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        if self.slow:
            time.sleep(self.slow)
        self.steps += 1
        self.state, reward = point_mass_step(self.state, np.asarray(action, np.float64))
        observation, found = self.state, float(reward if self.reward is None else self.reward)
        ended = bool(np.linalg.norm(self.state[:2]) > self.radius)
        if self._is_broken("step", self.steps):
            if self.fault == "unsendable":
                return observation, Unsendable(), ended, False, {}
            go_wrong(self.fault)
            observation = np.full(4, np.nan) if self.fault == "nan" else np.zeros(7)
        return observation, found, ended, False, self._info()

    def close(self) -> None:
        if self._is_broken("close", self.steps):
            go_wrong(self.fault)

    def _is_broken(self, at: str, done: int) -> bool:
        return bool(self.fault) and at == self.at and done > self.after and Path(self.while_there).exists()

    def _info(self) -> dict[str, Any]:
        return {"seen": np.zeros(1 + int(1000 * abs(self.state[0])) % 50)} if self.ragged else {}


RAISED = {
    "raise": lambda: ZeroDivisionError("a wheel came off"),
    "handle": lambda: HandleError("lost\n the handle, 50% done"),
    "two": lambda: SimulatorError(3, "no answer"),
    "exit": lambda: SystemExit("gave up"),
    "pipe": lambda: BrokenPipeError("no simulator"),
    "bare": AssertionError,
}


def go_wrong(fault: str) -> None:
    if fault in RAISED:
        raise RAISED[fault]()
    if fault == "die":
        os._exit(3)
    while fault == "hang":
        time.sleep(0.01)


gymnasium.register(POINT, entry_point="tests.environments.worlds:Point", max_episode_steps=LONGEST)


def specification(**kwargs: Any) -> EnvSpec:
    """Of the point mass with these arguments."""
    spec = EnvSpec.from_json(gymnasium.spec(POINT).to_json())
    spec.kwargs = kwargs
    return spec


def point_dataset(identifier: str = "test/point-v0", **kwargs: Any) -> None:
    """A few expert episodes, recorded in the point mass with these arguments; scores are out of thin air."""
    folder = point_mass_dataset(identifier, 4, 25, seed=0)
    change_metadata(folder, env_spec=specification(**kwargs).to_json(), ref_min_score=-20.0, ref_max_score=0.0)


def endless_dataset(identifier: str) -> None:
    """Episodes of 30 steps of the pendulum, which never ends by itself; whoever recorded them stopped by hand."""
    environment_dataset(identifier, "Pendulum-v1")
    folder = minari_root() / identifier / "data"
    specification = json.loads(json.loads((folder / "metadata.json").read_text())["env_spec"])
    change_metadata(folder, env_spec=json.dumps(specification | {"max_episode_steps": None}))


def environment_dataset(
    identifier: str, environment: str, episodes: int = 3, seed: int = 0, named: str | None = None
) -> None:
    """Episodes of random actions in any environment; the dataset names this one, or the one ``named``."""
    from minari.data_collector import EpisodeBuffer

    from tests.data_helpers import write_buffers

    world = gymnasium.make(environment)
    world.action_space.seed(seed)
    buffers = []
    for index in range(episodes):
        observations, actions, rewards, terminations, truncations = [world.reset(seed=seed + index)[0]], [], [], [], []
        while len(actions) < 30 and not (terminations and (terminations[-1] or truncations[-1])):
            actions.append(world.action_space.sample())
            observation, reward, terminated, truncated, _ = world.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
            terminations.append(bool(terminated))
            truncations.append(bool(truncated))
        truncations[-1] = not terminations[-1]
        buffers.append(
            EpisodeBuffer(
                id=index,
                seed=index,
                observations=np.array(observations),  # type: ignore[arg-type]
                actions=np.array(actions),  # type: ignore[arg-type]
                rewards=rewards,
                terminations=terminations,
                truncations=truncations,
            )
        )
    folder = write_buffers(identifier, buffers, world.observation_space, world.action_space)
    change_metadata(folder, env_spec=gymnasium.spec(named or environment).to_json())


def online_config(dataset: str = "test/point-v0", seed: int = 0, **online: Any) -> RunConfig:
    """A small online run of that dataset, resolved; keywords override its online options."""
    return resolved(as_given(dataset, seed, **online))


def as_given(dataset: str = "test/point-v0", seed: int = 0, **online: Any) -> RunConfig:
    """The same with every ``auto`` undecided."""
    options: dict[str, Any] = {"env_steps": 60, "start_steps": 20, "environments": 2, "evaluate_every": 20}
    options["critic_warmup"] = 10
    return RunConfig(
        seed=seed,
        data=DataConfig(dataset, held_out_trajectories=1),
        training=TrainingConfig(
            gradient_steps=20,
            batch_size=16,
            hidden_sizes=(8,),
            average_decay=0.9,
            log_every=5,
            checkpoint_every=10,
            snapshots=2,
        ),
        online=OnlineConfig(**options | online),
    )
