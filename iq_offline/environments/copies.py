"""A copy of an environment that is built when it is asked to, and that raises nothing but a :class:`RaisedError`.

An exception has to come out of a process whole: one that cannot be pickled would not arrive, for which Gymnasium waits
for ever, and one that is not built from one argument would arrive as another.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from iq_offline.environments.make import calm_mujoco
from iq_offline.environments.saved import Lane


class OutOfTimeError(BaseException):
    """Not an Exception: an environment may catch these."""


class RaisedError(Exception):
    """What an environment raised, in words that go after its name."""


def in_words(error: BaseException, doing: str) -> str:
    """One line: what kind of error it was, of what, and what it said."""
    said = " ".join(str(error).split())
    return f"raised {type(error).__name__} in a {doing}" + (f": {said}" if said else "")


@contextlib.contextmanager
def raising(doing: str) -> Iterator[None]:
    """Turn whatever is raised into a :class:`RaisedError`, but for Ctrl-C and the end of the time.

    Also what is no Exception: ``sys.exit`` ends no run, nor does a panic in a compiled library.
    """
    try:
        yield
    except (KeyboardInterrupt, OutOfTimeError):
        raise
    except BaseException as error:
        raise RaisedError(in_words(error, doing)) from error


class Copy(gymnasium.Env):
    """One of several copies of an environment, which has its spaces before it is built.

    Args:
        environment: as for ``gymnasium.make``.
        index: of this copy.
        observation_space: of the environment.
        action_space: of the environment.
    """

    def __init__(
        self,
        environment: str | EnvSpec,
        index: int,
        observation_space: gymnasium.Space,
        action_space: gymnasium.Space,
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self._environment, self._index = environment, index
        self._lane: Any = None

    @property
    def unwrapped(self) -> gymnasium.Env:
        """The environment itself, once it is built."""
        return self._lane.unwrapped

    def build(self) -> None:
        """What has to be done before anything else."""
        with raising("build"):
            calm_mujoco()
            self._lane = Lane(gymnasium.make(self._environment, disable_env_checker=True), self._index)
            if (self._lane.observation_space, self._lane.action_space) != (self.observation_space, self.action_space):
                raise ValueError("the spaces of two copies differ")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode. What the environment tells besides is dropped: Gymnasium would have to stack it."""
        with raising("reset"):
            observation, _ = self._lane.reset(seed=seed, options=options)
        return observation, {}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, without what the environment tells besides."""
        with raising("step"):
            observation, reward, terminated, truncated, _ = self._lane.step(action)
        return observation, reward, terminated, truncated, {}

    def lane_state(self) -> dict[str, Any]:
        """As JSON values."""
        with raising("saving of its state"):
            return self._lane.lane_state()

    def load_lane_state(self, states: list[dict[str, Any]]) -> None:
        """Go back to this copy's part of what :meth:`lane_state` gave, after a reset."""
        with raising("loading of its state"):
            self._lane.load_lane_state(states)

    def close(self) -> None:
        """Close the environment, if it was built, whatever it says to that."""
        if self._lane is not None:
            with contextlib.suppress(RaisedError), raising("close"):
                self._lane.close()
