"""A sweep: a recipe, what is fixed on top of it, and a grid of values. All of it is checked before anything runs.

A file of a sweep holds a configuration besides ``sweep``, ``question``, ``recipe`` and the table ``[grid]``, whose keys
are those of the configuration and whose values are lists (``docs/recipes.md``):

    sweep = "hopper_expert_count"
    recipe = "hopper_offline"

    [grid]
    algorithm = ["bc", "iq_learn"]
    data.num_expert_trajectories = [1, 3, 5, 10, 25]
    seed = [0, 1, 2, 3, 4]

Keys that change with each other are a list of tables: ``together = [{ data.expert = "a", data.subsample = 20 }, …]``.
For ablations, keys that change one at a time, all others being as the rest of the file has them, are a table:

    [grid.one_at_a_time]
    iq_learn.chi2_alpha = [0.17, 1.5]
    training.layer_norm = ["all"]
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any

import tomli_w

from iq_offline.config import (
    RunConfig,
    Suboptimal,
    flat,
    from_table,
    is_others,
    mixture_words,
    nested,
    read_toml,
    recipe_table,
    resolved,
    to_table,
)
from iq_offline.config.online import has_offline_half
from iq_offline.config.tables import not_shipped
from iq_offline.data.views import short
from iq_offline.errors import UserError, nearest
from iq_offline.files import as_file_name, shipped
from iq_offline.sweeps.published import Published, published_of

FILE = "sweep.toml"
TOGETHER = "together"
"""The key of the grid whose values are tables of other keys."""
ONE_AT_A_TIME = "one_at_a_time"
"""The table of the grid that stands for those that differ from the rest of the file in one key, and for none of it."""
LONGEST_NAME = 120
KEYS: tuple[str, ...] = tuple(key for key in flat(to_table(RunConfig())) if key != "recipe")
"""Every key of a run's configuration, dotted, but ``recipe``, which is the sweep's name."""


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep: the name of its folder under ``runs/`` and its configuration.

    It is resolved, but for a run of two stages, where ``auto`` is not the same in both.
    """

    name: str
    config: RunConfig


@dataclass(frozen=True)
class Sweep:
    """Which runs answer a question."""

    name: str
    question: str
    fixed: dict[str, Any]
    """The configuration of every run, as dotted keys, without those of the grid."""
    grid: dict[str, list[Any]]
    """Dotted keys and their values, in the order of the file; ``together``, with tables of dotted keys, is last."""
    published: tuple[Published, ...] = ()
    """Others' numbers, to draw beside."""

    def runs(self) -> tuple[PlannedRun, ...]:
        """Every combination of the grid's values, each learner's own keys apart from the others' learners.

        Seeds vary slowest, so that a sweep that was stopped has answers for some seeds everywhere.

        Raises:
            UserError: a combination is no valid configuration.
        """
        keys = sorted(self.grid, key=lambda key: key != "seed")
        found: dict[RunConfig, str] = {}
        for values in itertools.product(*(self.grid[key] for key in keys)):
            chosen: dict[str, Any] = {}
            for key, value in zip(keys, values, strict=True):
                chosen |= value if key == TOGETHER else {key: value}
            algorithm = chosen.get("algorithm", self.fixed.get("algorithm"))
            chosen = {key: chosen[key] for key in varied_by(self.grid) if not is_others(key, algorithm)}
            where = ", ".join(f"{key} = {value!r}" for key, value in chosen.items())
            config = from_table(RunConfig, nested(self.fixed | chosen | {"recipe": self.name}), self.name)
            try:
                decided = resolved(config)
            except UserError as error:
                raise UserError(f"{self.name}: the run with {where} is not valid: {error}") from error
            found.setdefault(config if has_offline_half(config) else decided, name_of(chosen, decided))
        names = list(found.values())
        twice = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
        return tuple(
            PlannedRun(f"{name}-{_digest(config)}" if name in twice else name, config) for config, name in found.items()
        )

    def to_toml(self) -> str:
        """The sweep's file with nothing left to a recipe."""
        head = {"sweep": self.name, "question": self.question, **nested(self.fixed), "grid": self.grid}
        return tomli_w.dumps(
            head | ({"published": [to_table(curve) for curve in self.published]} if self.published else {})
        )


def varied_by(grid: Mapping[str, Any]) -> list[str]:
    """The keys of the configuration that a grid varies, in its order."""
    return [key for name, values in grid.items() for key in (values[0] if name == TOGETHER else [name])]


def name_of(keys: Iterable[str], config: RunConfig) -> str:
    """``algorithm=bc,num_expert_trajectories=3,seed=0``: of resolved values, so it stays when the grid grows."""
    keys = list(keys)
    last = [key.split(".")[-1] for key in keys]
    words = []
    for key, ending in zip(keys, last, strict=True):
        text = as_file_name(_in_words(attrgetter(key)(config)))
        words.append(f"{ending if last.count(ending) == 1 else key}={text}")
    name = ",".join(words)
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}-{_digest(config)}"


def _in_words(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_in_words, value))
    if isinstance(value, Suboptimal):
        return short(mixture_words(value))
    return short(value) if isinstance(value, str) else json.dumps(value)


def _digest(config: RunConfig) -> str:
    return hashlib.sha256(json.dumps(to_table(config), sort_keys=True).encode()).hexdigest()[:8]


def load_sweep(name: str, changes: dict[str, Any] | None = None) -> Sweep:
    """A shipped sweep by name, or any by the path of its TOML file.

    Args:
        name: ``hopper_expert_count``, or a path that ends in ``.toml``.
        changes: dotted keys that are fixed besides what the file says.

    Raises:
        UserError: no such sweep, not TOML, an unknown key, an empty grid, or keys both fixed and varied.
    """
    path = Path(name) if name.endswith(".toml") else shipped("recipes") / "sweeps" / f"{name}.toml"
    if not path.is_file():
        raise not_shipped("sweep", name)
    return sweep_of(read_toml(path), str(path), path.stem, changes)


def sweep_of(table: dict[str, Any], source: str, name: str, changes: dict[str, Any] | None = None) -> Sweep:
    """A sweep from the tables of its file.

    Args:
        table: what the file holds.
        source: the file's name, for errors.
        name: of the sweep, where the table gives none.
        changes: as for :func:`load_sweep`.
    """
    table = dict(table)
    name, question = str(table.pop("sweep", name)), str(table.pop("question", ""))
    recipe, grid = table.pop("recipe", None), table.pop("grid", {})
    published = published_of(table.pop("published", []), source)
    if not isinstance(grid, dict) or not isinstance(grid.get(ONE_AT_A_TIME, {}), dict):
        raise UserError(f"{source}: grid = {grid!r}: must be a table of lists")
    grid = dict(grid)
    if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) or len(name) > LONGEST_NAME:
        rule = f"at most {LONGEST_NAME} letters, digits, dots, dashes and underscores, no dot first"
        raise UserError(f"{source}: sweep = {name!r}: {rule}")
    alone = _values(grid.pop(ONE_AT_A_TIME), source) if ONE_AT_A_TIME in grid else {}
    values = _values(grid, source) if grid or not alone else {}
    varied = varied_by(values)
    if both := [key for key in varied if key in alone]:
        raise UserError(f"{source}: the grid varies {both[0]} by itself and in {ONE_AT_A_TIME}: leave one of them out")
    own = flat(table)
    for key in (*own, *(changes or {})):
        if key not in KEYS:
            in_grid = "; it stands in [grid]" if key == "seeds" and "seed" in varied else _suggestion(key)
            raise UserError(f"{source}: unknown key {key!r}{in_grid}")
        if key in varied:
            where = "by the command line" if changes and key in changes else f"to {own[key]!r}"
            raise UserError(f"{source}: {key} is fixed {where} and varied by the grid: leave one of them out")
    base: dict[str, Any] = to_table(RunConfig())
    if recipe is not None:
        base = recipe_table(_recipe_path(str(recipe), source))
        algorithms = base.pop("algorithms", None)
        if algorithms and "algorithm" not in {*own, *varied, *(changes or {})}:
            values = {"algorithm": algorithms, **values}
    base = to_table(from_table(RunConfig, base, source))
    fixed = flat(to_table(from_table(RunConfig, nested(flat(base) | own | (changes or {})), source)))
    if alone:
        usual = {key: fixed[key] for key in alone}
        changed = [usual | {key: value} for key, choices in alone.items() for value in choices]
        tasks: list[dict[str, Any]] = values.get(TOGETHER, [{}])
        values[TOGETHER] = [task | setting for task in tasks for setting in (usual, *changed)]
    if TOGETHER in values:  # Last, as in the file that is written: TOML has tables after all else.
        values[TOGETHER] = values.pop(TOGETHER)
    varied = varied_by(values)
    sweep = Sweep(name, question, {key: fixed[key] for key in KEYS if key not in varied}, values, published)
    together = [each["algorithm"] for each in values.get(TOGETHER, []) if "algorithm" in each]
    algorithms = values.get("algorithm", together or [fixed["algorithm"]])
    for key in varied:
        if all(is_others(key, algorithm) for algorithm in algorithms):
            which = " and ".join(map(str, algorithms))
            missing = key.split(".")[0]
            raise UserError(f"{source}: the grid varies {key}, which {which} does not read: add algorithm {missing!r}")
    sweep.runs()
    return sweep


def _values(grid: dict[str, Any], source: str) -> dict[str, list[Any]]:
    """The grid's lists by dotted key; ``seeds = 5`` means the seeds 0 to 4."""
    values = flat(grid)
    if "seeds" in values:
        count = values["seeds"]
        if "seed" in values or type(count) is not int or count < 1:
            raise UserError(f"{source}: grid.seeds = {count!r}: a number of seeds, and no grid.seed beside it")
        values = {("seed" if key == "seeds" else key): value for key, value in values.items()}
        values["seed"] = list(range(count))
    if TOGETHER in values:
        values[TOGETHER] = _tables(values[TOGETHER], source)
    varied = varied_by(values)
    for key in varied:
        if key not in KEYS:
            raise UserError(f"{source}: the grid has an unknown key {key!r}{_suggestion(key)}")
        if varied.count(key) > 1:
            raise UserError(f"{source}: the grid varies {key} by itself and in {TOGETHER}: leave one of them out")
    for key, choices in values.items():
        if not isinstance(choices, list):
            raise UserError(f"{source}: grid.{key} = {choices!r}: must be a list of values")
        if not choices:
            raise UserError(f"{source}: the grid is empty: {key} has no values")
    if not values:
        raise UserError(f"{source}: the grid is empty: give [grid] at least one key, such as seed = [0, 1, 2]")
    return values


def _tables(values: Any, source: str) -> list[dict[str, Any]]:
    """The tables of ``together`` by dotted key, which have the same keys in the same order."""
    if not isinstance(values, list) or not values or not all(isinstance(table, dict) and table for table in values):
        rule = 'a list of tables, such as [{ data.expert = "cartpole/expert", data.subsample = 20 }]'
        raise UserError(f"{source}: grid.{TOGETHER} = {values!r}: must be {rule}")
    tables = [flat(table) for table in values]
    for table in tables:
        if set(table) != set(tables[0]):
            odd = min(set(table) ^ set(tables[0]))
            raise UserError(f"{source}: grid.{TOGETHER}: its tables must have the same keys, and not all have {odd}")
    return [{key: table[key] for key in tables[0]} for table in tables]


def _suggestion(key: str) -> str:
    """The key of that last name first, else what is near."""
    same = [known for known in KEYS if known.split(".")[-1] == key.split(".")[-1] and known != "recipe"]
    return "; did you mean " + " or ".join(map(repr, same)) + "?" if same else nearest(key, KEYS)


def _recipe_path(recipe: str, source: str) -> str:
    """Paths are relative to the sweep's file."""
    if not recipe.endswith(".toml") or Path(recipe).is_absolute():
        return recipe
    return str(Path(source).parent / recipe)


def claim_folder(sweep: Sweep, folder: Path) -> str | None:
    """What to write into ``sweep.toml`` of a sweep's folder, or None where it is there already.

    A folder belongs to one sweep. Its grid may get more values: the runs that are there stay as they are.

    Raises:
        UserError: the folder holds another sweep, or something else.
    """
    text, file = sweep.to_toml(), folder / FILE
    if not os.path.exists(file):  # Of a name that is too long a path's own method would not say no.
        if os.path.exists(folder) and (
            not folder.is_dir() or any(not e.name.startswith(".") for e in folder.iterdir())
        ):
            raise UserError(f"{folder} is not empty and holds no sweep: choose another --output")
        return text
    theirs = sweep_of(read_toml(file), str(file), sweep.name)
    advice = "choose another --output"
    if set(theirs.grid) != set(sweep.grid):
        there, here = sorted(set(theirs.grid) - set(sweep.grid)), sorted(set(sweep.grid) - set(theirs.grid))
        what = f"varies {there[0]}" if there else f"does not vary {here[0]}"
        raise UserError(f"{folder} holds another sweep, {theirs.name}, which {what}: {advice}")
    for key in theirs.fixed:
        if theirs.fixed[key] != sweep.fixed.get(key):
            here = sweep.fixed.get(key)
            raise UserError(
                f"{folder} holds another sweep ({key} is {theirs.fixed[key]!r} there, {here!r} here): {advice}"
            )
    missing = {run.name for run in theirs.runs()} - {run.name for run in sweep.runs()}
    if missing and list(theirs.grid) != list(sweep.grid):
        order = ", ".join(theirs.grid)
        raise UserError(
            f"{folder} holds a sweep whose grid has its keys in another order ({order}): keep it, or {advice}"
        )
    if missing:
        raise UserError(f"{folder} holds a sweep with runs that this one has not, such as {min(missing)}: {advice}")
    return None if file.read_text() == text else text
