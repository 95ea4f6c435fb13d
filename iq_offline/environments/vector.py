"""Copies of an environment stepped side by side, for the online stage: in this process, or each in one of its own.

Nothing is reset behind the caller's back (Gymnasium would use the step after an episode's end for it, whose transition
is none), and whatever goes wrong in an environment is a :class:`~iq_offline.training.training.StepError` of one line.
"""

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import TimeoutError as ProcessTimeoutError
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from iq_offline.config.online import OnlineConfig
from iq_offline.data.spaces import form_of
from iq_offline.data.stream import Source
from iq_offline.environments.make import calm_mujoco, make
from iq_offline.environments.saved import Lane
from iq_offline.errors import UserError
from iq_offline.training.training import StepError

PIPE_SECONDS = 1.5e-4
"""What a step is taken to cost more for each copy in a process of its own; ``benchmarks/online.py`` measures it."""
LOOK_STEPS = 20


class VectorStepper:
    """Steps ``config.environments`` copies of an environment (a ``training.online.Stepper``).

    Args:
        environment: from :func:`iq_offline.environments.make.evaluation_environment`, which says what may be built.
        source: the dataset whose policies act in it.
        config: how many, where, and how long a step may take.

    Raises:
        UserError: it cannot be built, or its spaces are not the dataset's.
    """

    def __init__(self, environment: str | EnvSpec, source: Source, config: OnlineConfig) -> None:
        self.name = environment if isinstance(environment, str) else environment.id
        self.config = config
        self.in_processes = False
        self.vector: Any = None
        (first,) = make(environment, 1)
        with contextlib.closing(first):
            for name in ("observation_space", "action_space"):
                theirs, ours = form_of(getattr(first, name)), form_of(getattr(source, name))
                if theirs != ours:
                    raise UserError(f"{self.name}: its {name.replace('_', ' ')} is {theirs}, {source.id} has {ours}")
            self.keeps_state = Lane(first, 0).keeps_state()
            count, choice = config.environments, config.in_processes
            possible = count > 1 and not multiprocessing.current_process().daemon
            self.in_processes = choice == "yes" or (choice == "auto" and possible and self._is_slow(first))
        making = [partial(_lane, environment, index, os.getpid()) for index in range(count)]
        kind: Any = AsyncVectorEnv if self.in_processes else SyncVectorEnv
        with self._faults("build", time_limit=False):
            self.vector = kind(making, autoreset_mode=AutoresetMode.DISABLED)

    def reset(self, seeds: Sequence[int | None]) -> Any:
        """Begin episodes in the copies that have a seed."""
        mask = np.array([seed is not None for seed in seeds])
        options = {} if mask.all() else {"options": {"reset_mask": mask}}
        with self._faults("reset"):
            if self.in_processes:
                self.vector.reset_async(seed=list(seeds), **options)
                return self.vector.reset_wait(timeout=self.config.time_limit)[0]
            return self.vector.reset(seed=list(seeds), **options)[0]

    def step(self, actions: np.ndarray) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """Observations, rewards, terminations and truncations of all copies."""
        with self._faults("step"):
            if self.in_processes:
                self.vector.step_async(actions)
                found = self.vector.step_wait(timeout=self.config.time_limit)
            else:
                found = self.vector.step(actions)
        observation, rewards, terminated, truncated, _ = found
        return observation, rewards, terminated, truncated

    def state(self) -> list[Any]:
        """Of each copy, as JSON values."""
        with self._faults("saving of its state"):
            return list(self.vector.call("lane_state"))

    def load_state(self, states: list[Any]) -> None:
        """Go back to what :meth:`state` gave."""
        with self._faults("loading of its state"):
            self.vector.call("load_lane_state", states)

    def close(self) -> None:
        """Close the environments and end their processes."""
        vector, self.vector = self.vector, None
        if vector is None:
            return
        with contextlib.suppress(Exception), _without_warnings():
            vector.close(**({"terminate": True} if self.in_processes else {}))
        for process in getattr(vector, "processes", ()):  # Those of a vector that could not close itself.
            process.terminate()
        vector.closed = True

    def _is_slow(self, environment: gymnasium.Env) -> bool:
        """Whether stepping copies one after another takes longer than passing messages to processes."""
        with self._faults("step"):
            environment.reset(seed=0)
            environment.action_space.seed(0)
            seconds: list[float] = []
            while len(seconds) < LOOK_STEPS:
                started = time.perf_counter()
                _, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
                seconds.append(time.perf_counter() - started)
                if terminated or truncated:
                    environment.reset()
        count = self.config.environments
        in_turns = math.ceil(count / (os.cpu_count() or 1))
        return (count - in_turns) * float(np.median(seconds)) > count * PIPE_SECONDS

    @contextlib.contextmanager
    def _faults(self, doing: str, time_limit: bool = True) -> Iterator[None]:
        """Turn whatever an environment does wrong into one line."""
        limit = self.config.time_limit
        try:
            if self.in_processes:
                with _without_warnings():  # Gymnasium's, of the tracebacks in its processes.
                    yield
            else:
                with _alarm(limit) if time_limit else contextlib.nullcontext():
                    yield
        except (_OutOfTimeError, ProcessTimeoutError):
            self.close()
            raise StepError(
                f"{self.name} hangs: a {doing} took more than {limit:g} seconds (online.time_limit)"
            ) from None
        except (EOFError, BrokenPipeError, ConnectionError) as error:
            self.close()
            raise StepError(f"{self.name}: the process of an environment died in a {doing}") from error
        except Exception as error:
            self.close()
            words = " ".join(str(error).split())
            raise StepError(f"{self.name} raised {type(error).__name__} in a {doing}: {words}") from error


class _OutOfTimeError(BaseException):
    """Not an Exception: an environment may catch these."""


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer. Only the main thread can be, and only where Python runs or the system waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: Any) -> None:
        raise _OutOfTimeError

    previous = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _lane(environment: str | EnvSpec, index: int, parent: int) -> gymnasium.Env:
    """One copy. In a process of its own it leaves Ctrl-C to its parent, and ends when that tells it to."""
    if os.getpid() != parent:  # The vector builds one here as well, to look at.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    calm_mujoco()
    return Lane(gymnasium.make(environment, disable_env_checker=True), index)
