"""Which environments may be built, and building them."""

import contextlib
import copy
import dataclasses
import functools
import importlib.util
import io
import json
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, registry

from iq_offline.data.irregularity import Surroundings
from iq_offline.data.stream import Source
from iq_offline.errors import UserError

CANNOT_EVALUATE = "its policies cannot be evaluated here"
CANNOT_TRAIN = "there is none to train in: train on the data alone, without --online (online.env_steps)"
"""What follows where a dataset names no environment."""


def evaluation_environment(source: Source, trust: bool = False, without: str = CANNOT_EVALUATE) -> str | EnvSpec:
    """What to evaluate a dataset's policies in: its evaluation environment, else the one it was recorded in.

    Metadata can name any code as an entry point, so that of a downloaded dataset is followed only if an environment
    of that id and entry point is registered already.

    Args:
        source: the dataset.
        trust: follow the entry point in the metadata anyway.
        without: what follows where the metadata name none.

    Raises:
        UserError: the metadata name no environment, or one that is not registered.
    """
    text = _named(source)
    if not text:
        raise UserError(f"{source.id} names no environment, so {without}")
    specification = _specification(source, text, wrappers=trust)
    if specification.id not in registry:
        register_installed()
    if trust:
        return specification
    known = registry.get(specification.id)
    if known is None:
        raise UserError(
            f"{source.id} was recorded in {specification.id}, which no installed package registers: install the "
            "package that has it, or give --trust-env to run the code that the dataset names"
        )
    if known.entry_point != specification.entry_point:
        raise UserError(
            f"{source.id} names other code for {specification.id} ({specification.entry_point}) than is registered "
            f"({known.entry_point}): give --trust-env to run it"
        )
    return specification


def with_time_limit(environment: str | EnvSpec, longest: Callable[[], int]) -> str | EnvSpec:
    """The environment; where its specification has no time limit, cut after ``longest()`` steps.

    A policy that never fails would otherwise be acted out for ever.
    """
    specification = gymnasium.spec(environment) if isinstance(environment, str) else environment
    if specification.max_episode_steps is not None:
        return environment
    limited = copy.deepcopy(specification)
    limited.max_episode_steps = longest()
    return limited


def wrappers_left_out(source: Source, trust: bool = False) -> tuple[str, ...]:
    """Names of the wrappers that a dataset has around its environment and :func:`evaluation_environment` has not."""
    try:
        wrappers = None if trust else json.loads(_named(source) or "{}").get("additional_wrappers")
    except (ValueError, TypeError, AttributeError):  # Said where the environment is built.
        return ()
    found = wrappers if isinstance(wrappers, list) else [wrappers] if wrappers else []
    names = (str(one["name"]) if isinstance(one, dict) and "name" in one else "unnamed" for one in found)
    return tuple(name if name.isprintable() else repr(name)[1:-1] for name in names)


def _named(source: Source) -> Any:
    """What the metadata say of the environment to evaluate in."""
    return source.metadata.get("eval_env_spec") or source.metadata.get("env_spec")


def _specification(source: Source, text: str, wrappers: bool) -> EnvSpec:
    """An EnvSpec from metadata of any gymnasium version. Wrappers are code as well: left out unless asked for."""
    fields = {field.name for field in dataclasses.fields(EnvSpec) if field.init}
    try:
        known = {key: value for key, value in json.loads(text).items() if key in fields}
        if not wrappers:
            known["additional_wrappers"] = []
        return EnvSpec.from_json(json.dumps(known))
    except (ValueError, TypeError, AttributeError, KeyError, gymnasium.error.Error) as error:
        raise UserError(f"{source.id} names an environment that cannot be understood: {error}") from error


def make(environment: str | EnvSpec, count: int, **options: Any) -> list[gymnasium.Env]:
    """``count`` instances of an environment, with options of its own such as ``render_mode``.

    Raises:
        UserError: it does not exist or cannot be built.
    """
    name = environment if isinstance(environment, str) else environment.id
    if name not in registry:
        register_installed()
    calm_mujoco()
    environments: list[gymnasium.Env] = []
    try:
        for _ in range(count):
            environments.append(gymnasium.make(environment, **options))
        return environments
    except Exception as error:
        close(environments)
        extra = next((extra for prefix, extra in EXTRAS.items() if name.startswith(prefix)), None)
        remedy = f": pip install '.[{extra}]' in the checkout" if extra and name not in registry else f": {error}"
        raise UserError(f"cannot build the environment {name}{remedy}") from error


@contextlib.contextmanager
def built(environment: str | EnvSpec, count: int) -> Iterator[list[gymnasium.Env]]:
    """As :func:`make`, and closed at the end."""
    environments = make(environment, count)
    try:
        yield environments
    finally:
        close(environments)


def close(environments: Sequence[gymnasium.Env]) -> None:
    """Close them, whatever they say to that."""
    for environment in environments:
        with contextlib.suppress(Exception):
            environment.close()


def surroundings(source: Source) -> Surroundings:
    """A dataset's environment as it is on this machine: built once, looked at, closed. No foreign code is run.

    Raises:
        UserError: as :func:`evaluation_environment` and :func:`make`.
    """
    specification = evaluation_environment(source)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's advice on versions: the dataset has the one it has.
        (environment,) = make(specification, 1)
    with contextlib.closing(environment):
        limit = environment.spec.max_episode_steps if environment.spec else None
        name = specification if isinstance(specification, str) else specification.id
        spaces = environment.observation_space, environment.action_space
        return Surroundings(name, *spaces, limit, wrappers_left_out(source))


EXTRAS = {"PointMaze": "robotics", "AntMaze": "robotics", "Fetch": "robotics", "Franka": "robotics", "ALE/": "atari"}
"""How the names of environments begin that an extra of ours brings."""


@functools.cache
def register_installed() -> None:
    """Register the environments of packages that gymnasium does not know of until they are imported."""
    silence = io.StringIO()  # They greet, and speak of environments that nobody asked for.
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for package in ("gymnasium_robotics", "ale_py"):
            if importlib.util.find_spec(package):
                gymnasium.register_envs(importlib.import_module(package))


@functools.cache
def calm_mujoco() -> None:
    """MuJoCo's warnings once each, on stderr.

    By itself it repeats them for every environment and writes them into a file of the folder it is run from. What it
    deprecates in a model's file is for the authors of that file.
    """
    said: set[str] = set()

    def say(text: str) -> None:
        if text not in said and "deprecated" not in text:
            print(f"MuJoCo: {text}", file=sys.stderr)
        said.add(text)

    importlib.import_module("mujoco").set_mju_user_warning(say)
