"""Which environments may be built, and building them."""

import dataclasses
import json

import gymnasium
from gymnasium.envs.registration import EnvSpec, registry

from iq_offline.data.stream import Source
from iq_offline.errors import UserError


def evaluation_environment(source: Source, trust: bool = False) -> str | EnvSpec:
    """What to evaluate a dataset's policies in: its evaluation environment, else the one it was recorded in.

    Metadata can name any code as an entry point, so that of a downloaded dataset is followed only if an environment
    of that id and entry point is registered already.

    Args:
        source: the dataset.
        trust: follow the entry point in the metadata anyway.

    Raises:
        UserError: the metadata name no environment, or one that is not registered.
    """
    text = source.metadata.get("eval_env_spec") or source.metadata.get("env_spec")
    if not text:
        raise UserError(f"{source.id} names no environment, so its policies cannot be evaluated here")
    specification = _specification(source, text, wrappers=trust)
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


def make(environment: str | EnvSpec, count: int) -> list[gymnasium.Env]:
    """``count`` instances of an environment.

    Raises:
        UserError: it does not exist or cannot be built.
    """
    try:
        return [gymnasium.make(environment) for _ in range(count)]
    except Exception as error:
        name = environment if isinstance(environment, str) else environment.id
        raise UserError(f"cannot build the environment {name}: {error}") from error
