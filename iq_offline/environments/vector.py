"""Copies of an environment stepped side by side, for the online stage: in this process, or each in one of its own.

Nothing is reset behind the caller's back (Gymnasium would use the step after an episode's end for it, whose transition
is none), and whatever goes wrong in an environment is a :class:`~iq_offline.training.training.StepError` of one line.
"""

import contextlib
import math
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from multiprocessing import TimeoutError as ProcessTimeoutError
from typing import Any

import gymnasium
import numpy as np
from gymnasium import logger
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.vector.async_vector_env import _async_worker

from iq_offline.config import DataConfig
from iq_offline.config.online import OnlineConfig
from iq_offline.data.stream import Source
from iq_offline.environments.copies import Copy, OutOfTimeError, RaisedError, in_words, raising
from iq_offline.environments.fit import check_fit
from iq_offline.environments.make import make, wrappers_left_out
from iq_offline.environments.saved import Lane
from iq_offline.errors import UserError
from iq_offline.training.training import StepError

PIPE_SECONDS = 1.5e-4
"""What a step is taken to cost more for each copy in a process of its own; ``benchmarks/online.py`` measures it."""
LOOK_STEPS, LOOK_SECONDS = 20, 1.0
"""How much is looked at, after a first step, to see how long one takes: until either is over."""
BUILD_SECONDS = 60.0
"""That building a copy may take at the least: what ``online.time_limit`` allows a step may be far less."""
LAST_WORDS_SECONDS = 10.0
"""To wait for the exception of a process that has announced one."""


class VectorStepper:
    """Steps ``config.environments`` copies of an environment (a ``training.online.Stepper``).

    To build a copy may take ``config.time_limit`` seconds as well, and 60 in any case: much is loaded the first time.

    Args:
        environment: from :func:`iq_offline.environments.make.evaluation_environment`, which says what may be built.
        source: the dataset whose policies act in it.
        config: how many, where, and how long a step may take.
        data: of the run: bounds of actions that it gives are not held against the environment's.

    Raises:
        UserError: it cannot be built, or its spaces are not the dataset's.
    """

    def __init__(
        self, environment: str | EnvSpec, source: Source, config: OnlineConfig, data: DataConfig = DataConfig()
    ) -> None:
        self.name = environment if isinstance(environment, str) else environment.id
        self.config = config
        self.in_processes = False
        self.vector: Any = None
        is_whole = isinstance(environment, EnvSpec) and bool(environment.additional_wrappers)
        with self._faults("build"):
            (first,) = make(environment, 1)
        try:
            check_fit(self.name, first, source, data, wrappers_left_out(source, trust=is_whole))
            self.keeps_state = Lane(first, 0).keeps_state()
            count, choice = config.environments, config.in_processes
            possible = count > 1 and not multiprocessing.current_process().daemon
            self.in_processes = choice == "yes" or (choice == "auto" and possible and self._is_slow(first))
        finally:
            _close(first, config.time_limit)
        spaces = first.observation_space, first.action_space
        self._build([partial(Copy, environment, index, *spaces) for index in range(count)])

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
            return list(self._call("lane_state"))

    def load_state(self, states: list[Any]) -> None:
        """Go back to what :meth:`state` gave."""
        with self._faults("loading of its state"):
            self._call("load_lane_state", states)

    def close(self) -> None:
        """Close the environments and end their processes."""
        vector, self.vector = self.vector, None
        if vector is None:
            return
        if self.in_processes:
            for process in vector.processes:  # They ignore what is milder.
                process.kill()
            with contextlib.suppress(Exception), _gymnasium_silent():
                vector.close(terminate=True)
        else:
            _close(vector, self.config.time_limit)
        vector.closed = True

    @property
    def _turns(self) -> int:
        """How many copies have to share a processor."""
        return math.ceil(self.config.environments / (os.cpu_count() or 1))

    def _build(self, making: list[Any]) -> None:
        disabled = AutoresetMode.DISABLED
        with self._faults("build"):
            if self.in_processes:
                self.vector = AsyncVectorEnv(making, autoreset_mode=disabled, worker=_work)
                own = self.vector.error_queue
                own.get = partial(own.get, timeout=LAST_WORDS_SECONDS)  # Else it waits for what may never come.
                self._call("build", seconds=self._limit("build"))
                return
            self.vector = SyncVectorEnv(making, autoreset_mode=disabled)
        for copy in self.vector.envs:
            with self._faults("build"):
                copy.build()

    def _call(self, name: str, *arguments: Any, seconds: float | None = None) -> Any:
        """What a method of each copy gives."""
        if not self.in_processes:
            return self.vector.call(name, *arguments)
        self.vector.call_async(name, *arguments)
        return self.vector.call_wait(timeout=seconds or self.config.time_limit)

    def _is_slow(self, environment: gymnasium.Env) -> bool:
        """Whether stepping copies one after another takes longer than passing messages to processes."""
        steps = self._seconds_of_steps(environment)
        next(steps)  # It may have had to compile something.
        until = time.perf_counter() + LOOK_SECONDS
        seconds = [next(steps)]
        while len(seconds) < LOOK_STEPS and time.perf_counter() < until:
            seconds.append(next(steps))
        count = self.config.environments
        return (count - self._turns) * float(np.median(seconds)) > count * PIPE_SECONDS

    def _seconds_of_steps(self, environment: gymnasium.Env) -> Iterator[float]:
        """What random steps take, without the resets between them."""
        ended = True
        environment.action_space.seed(0)
        while True:
            if ended:
                with self._faults("reset"):
                    environment.reset(seed=0)
            with self._faults("step"):
                started = time.perf_counter()
                _, _, terminated, truncated, _ = environment.step(environment.action_space.sample())
                seconds = time.perf_counter() - started
            ended = terminated or truncated
            yield seconds

    def _limit(self, doing: str) -> float:
        """Seconds that this may take."""
        if doing != "build":
            return self.config.time_limit
        return max(self.config.time_limit, BUILD_SECONDS) * (self._turns if self.in_processes else 1)

    @contextlib.contextmanager
    def _faults(self, doing: str) -> Iterator[None]:
        """Turn whatever an environment does wrong into one line."""
        try:
            with _gymnasium_silent() if self.in_processes else _alarm(self._limit(doing)):
                yield
        except (KeyboardInterrupt, UserError):
            raise
        except BaseException as error:
            self.close()
            raise StepError(self.name + self._what_happened(error, doing)) from error

    def _what_happened(self, error: BaseException, doing: str) -> str:
        """In words that go after the environment's name."""
        if isinstance(error, OutOfTimeError | ProcessTimeoutError):
            option = "online.time_limit" + (f", for a build at least {BUILD_SECONDS:g}" if doing == "build" else "")
            return f" hangs: a {doing} took more than {self._limit(doing):g} seconds ({option})"
        if self.in_processes and isinstance(error, EOFError | ConnectionError | queue.Empty):
            return f": the process of an environment died in a {doing}"
        return f" {error if isinstance(error, RaisedError) else in_words(error, doing)}"


@contextlib.contextmanager
def _gymnasium_silent() -> Iterator[None]:
    """It prints the tracebacks of its processes, and fails at that where one has a per cent sign."""
    level, logger.min_level = logger.min_level, logger.ERROR + 1
    try:
        yield
    finally:
        logger.min_level = level


def _close(environment: Any, seconds: float) -> None:
    """Whatever it says to that, and however long it takes: nothing depends on it any more."""
    with contextlib.suppress(RaisedError, OutOfTimeError), _alarm(seconds), raising("close"):
        environment.close()


def _ring(number: int, frame: Any) -> None:
    raise OutOfTimeError


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """Interrupt what takes longer. Only the main thread can be, and only where Python runs or the system waits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    previous = signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def _work(*arguments: Any) -> None:
    """A process: it leaves signals to its parent, who may get them too, and ends without a word when that is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with contextlib.suppress(EOFError, ConnectionError):
        _async_worker(*arguments)
