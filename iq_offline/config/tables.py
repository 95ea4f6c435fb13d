"""Between the tables of TOML files and configuration dataclasses: reading, writing, and what is wrong in one line."""

import dataclasses
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import tomli_w
from pydantic import TypeAdapter, ValidationError

from iq_offline.errors import UserError, nearest
from iq_offline.files import shipped

Config = TypeVar("Config")


def from_table(kind: type[Config], table: dict[str, Any], source: str) -> Config:
    """A configuration dataclass from a TOML table.

    Raises:
        UserError: a key does not exist (the nearest is suggested) or a value does not fit; ``source`` names the file.
    """
    try:
        return TypeAdapter(kind).validate_python(table)
    except ValidationError as error:
        raise UserError(f"{source}: {explain(error, kind)}") from error


def to_table(config: Any) -> dict[str, Any]:
    """Plain tables and values for TOML or JSON, without what is not set."""
    return TypeAdapter(type(config)).dump_python(config, mode="json", exclude_none=True)


def to_toml(config: Any) -> str:
    """The resolved configuration as TOML text."""
    return tomli_w.dumps(to_table(config))


def flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Tables within tables as one, with dotted keys: ``data.subsample``."""
    values: dict[str, Any] = {}
    for key, value in table.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return values


def nested(values: dict[str, Any]) -> dict[str, Any]:
    """Tables within tables from dotted keys: the inverse of :func:`flat`."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        *above, last = key.split(".")
        inner = table
        for name in above:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return table


def read_toml(path: Path) -> dict[str, Any]:
    """The tables of a TOML file.

    Raises:
        UserError: it cannot be read or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not valid TOML: {error}") from error


def explain(error: ValidationError, kind: Any) -> str:
    """The first problem of a failed validation in one line."""
    problem = error.errors()[0]
    where = ".".join(str(part) for part in problem["loc"] if str(part).isalnum() or str(part).isidentifier())
    if problem["type"] == "unexpected_keyword_argument":
        types = _types_of_fields(kind)
        for part in problem["loc"][:-1]:
            types = _types_of_fields(types[part]) if part in types else types  # A place in a list is no field.
        return f"unknown key {where!r}{nearest(str(problem['loc'][-1]), types)}"
    return f"{where} = {problem['input']!r}: {problem['msg'].lower()}"


def _types_of_fields(kind: Any) -> dict[Any, Any]:
    """Of a configuration dataclass by the names of its fields, also where a tuple or ``| None`` is around it."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return {field.name: field.type for field in dataclasses.fields(kind)}
    return next(filter(None, map(_types_of_fields, get_args(kind))), {})


def not_shipped(kind: Literal["recipe", "sweep"], name: str) -> UserError:
    """The error for a name of no recipe, or of no sweep: what may have been meant, and what there is."""
    folders = {"recipe": shipped("recipes"), "sweep": shipped("recipes") / "sweeps"}
    known = {each: sorted(file.stem for file in folder.glob("*.toml")) for each, folder in folders.items()}
    hint = nearest(name, known[kind])
    for other, command in (("recipe", "train"), ("sweep", "sweep")):
        if other != kind and name in known[other]:
            hint = f"; it is a {other}: iq-offline {command} {name}"
    if Path(f"{name}.toml").is_file():
        hint = f"; did you mean the file {name + '.toml'!r}?"
    return UserError(f"no {kind} {name!r}{hint} (shipped: {', '.join(known[kind])})")
