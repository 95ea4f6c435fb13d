"""What keys, values, learners and kinds of data are called: one rule for pictures, tables, answers and videos."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from operator import ne
from typing import Any

import polars as pl

from iq_offline.config import ALGORITHMS, LABELS, RunConfig, flat, is_others, label, to_table
from iq_offline.data import views

EXPERT, SUBOPTIMAL, COUNT = "data.expert", "data.suboptimal", "data.num_expert_trajectories"
VALUES: dict[str, dict[Any, str]] = {
    "iq_learn.policy": {
        "soft_actor_critic": "soft actor-critic",
        "learned_reward": "learned reward",
        "lookahead": "looking ahead",
        "survival": "survival only",
        "weighted": "weighted",
        "best_episodes": "best episodes",
    },
    "bc.imitate": {"expert": "labelled only", "everything": "everything"},
}
"""Values that say without their key what they are, in the order of legends."""
CONTROLS = ("survival only",)
"""Of these, what is no kind of its algorithm: it stands alone."""

_PARTS = [key.rpartition(".") for key in flat(to_table(RunConfig()))]
ENDINGS = Counter(ending for _, ending in {("" if above in ALGORITHMS else above, last) for above, _, last in _PARTS})
"""Last parts of the configuration's keys, and how many end so; the algorithms' sections count once."""


def key_in_words(key: str) -> str:
    """``gradient steps`` of ``training.gradient_steps``; ``evaluation seed``, for there is another seed."""
    last = key.rpartition(".")[2]
    return (last if ENDINGS[last] < 2 else key.replace(".", " ")).replace("_", " ")


def as_words(value: object) -> str:
    """A value of the configuration: lists of one as themselves, suboptimal data as "a/b + c/d, 30 experts hidden"."""
    if isinstance(value, str) and value.startswith("["):
        with suppress(json.JSONDecodeError):
            parts = json.loads(value)
            if any(isinstance(part, dict) for part in parts):
                return _mixture(parts)
            return ", ".join(map(str, parts)) if parts else "none"
    return views.short(str(value))


def _mixture(parts: list[Any], last_part: bool = False) -> str:
    """Datasets added to each other, then what is hidden among them."""
    shown, hidden = [], []
    for part in (part if isinstance(part, dict) else {"dataset": part} for part in parts):
        name, episodes = views.short(str(part.get("dataset"))), part.get("episodes")
        name = re.sub(r"-v\d+$", "", name.rpartition("/")[2]) if last_part else name
        if part.get("hidden"):
            hidden.append(f"{episodes:,} expert{'s' * (episodes > 1)} hidden" if episodes else "experts hidden")
        else:
            shown.append(f"{name} ({episodes:,} episode{'s' * (episodes > 1)})" if episodes else name)
    return ", ".join([" + ".join(shown), *hidden] if shown else hidden)


def kinds_in_words(frame: pl.DataFrame) -> list[str]:
    """Of each row its suboptimal data: "random, 30 experts hidden", or "none".

    Datasets by the last part of their names, where that tells those of one expert apart.
    """
    experts = frame[EXPERT] if EXPERT in frame.columns else [None] * frame.height
    rows = list(zip(experts, frame[SUBOPTIMAL].to_list(), strict=True))
    short = {row: _mixture(json.loads(row[1]), last_part=True) or "none" for row in set(rows)}
    called = Counter((expert, short[expert, value]) for expert, value in short)
    return [short[row] if called[row[0], short[row]] == 1 else as_words(row[1]) for row in rows]


def with_data(frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with ``data``: what its rows are learned from, by what varies; the dataset where nothing does."""
    kinds, experts = kinds_in_words(frame), [views.short(expert) for expert in frame[EXPERT]]
    several = frame[SUBOPTIMAL].n_unique() > 1, frame[EXPERT].n_unique() > 1
    kinds = ["no suboptimal data" if kind == "none" else kind for kind in kinds]
    if several[0] and several[1] and len(set(kinds)) > 1:
        names = [f"{expert}\n{kind}" for expert, kind in zip(experts, kinds, strict=True)]
    else:
        names = kinds if len(set(kinds)) > 1 else experts
    return frame.with_columns(pl.Series("data", names, pl.Enum(sorted(set(names), key=by_numbers))))


def with_lines(frame: pl.DataFrame, keys: Sequence[str]) -> pl.DataFrame:
    """The frame with ``line``: the learner of each row and its settings, by what tells it from the others.

    Args:
        frame: rows with ``algorithm`` and the configuration as columns with dotted names.
        keys: that may tell lines apart. Those in the section of an algorithm (``iq_learn.temperature``) say nothing
            about the others: BC is then one line.

    Returns:
        The rows as they were; ``line`` is an enumeration in the order of legends.
    """
    keys = sorted(keys, key=lambda key: not any(is_others(key, other) for other in LABELS))
    rows = _settings(frame, keys)
    apart = [place for place in range(1, 1 + len(keys)) if len({repr(row[place]) for row in rows} - {"None"}) > 1]
    rows = [*_unsaid_where_usual(rows)]
    names = [
        _learner(row[0], [_setting(keys[at - 1], row[at], keys) for at in apart if row[at] is not None]) for row in rows
    ]
    ranks = sorted({(_rank(row, keys), name) for row, name in zip(rows, names, strict=True)})
    return frame.with_columns(pl.Series("line", names, pl.Enum(list(dict.fromkeys(name for _, name in ranks)))))


def keys_in_names(frame: pl.DataFrame) -> list[str]:
    """Those of a frame's keys that :func:`with_lines` is to tell: the algorithms' own, and one-at-a-time ones.

    A table of settings that differ in one place would be columns of usual values else.
    """
    own = [name for name in frame.columns if name.split(".")[0] in ALGORITHMS and "." in name]
    more = [name for name in frame.columns if name.startswith("training.")]
    one_at_a_time = more and any(_usual(_settings(frame, [*own, *more])).values())
    return [*own, *more] if one_at_a_time else own


def _settings(frame: pl.DataFrame, keys: Sequence[str]) -> list[tuple]:
    """Of each row its algorithm and its values, None for keys of other algorithms."""
    kinds = kinds_in_words(frame) if SUBOPTIMAL in keys else []
    rows = []
    for index, row in enumerate(frame.select("algorithm", *keys).rows(named=True)):
        row |= {SUBOPTIMAL: kinds[index]} if kinds else {}
        rows.append((row["algorithm"], *(None if is_others(key, row["algorithm"]) else row[key] for key in keys)))
    return rows


def _unsaid_where_usual(rows: Sequence[tuple]) -> Iterator[tuple]:
    """Settings with None in the place of the usual value, of algorithms whose settings differ from it one at a time."""
    usual = _usual(rows)
    for row in rows:
        common = usual[row[0]] or [""] * len(row)
        yield (row[0], *(None if repr(value) == one else value for value, one in zip(row[1:], common[1:], strict=True)))


def _usual(rows: Sequence[tuple]) -> dict[str, list[str] | None]:
    """Of each algorithm the commonest values, in the order of a row; None where its settings are a grid.

    That is where a fourth of them or more differ in two places. A single one that does is a change which decides
    another: without an anchor Adam's momentum is another by itself.
    """
    usual: dict[str, list[str] | None] = {}
    for algorithm in {row[0] for row in rows}:
        distinct = {tuple(map(repr, row)) for row in rows if row[0] == algorithm}
        commonest = [Counter(column).most_common(1)[0][0] for column in zip(*sorted(distinct), strict=True)]
        changes = [sum(map(ne, each, commonest)) for each in distinct]
        varied = sum(len(set(column)) > 1 for column in zip(*distinct, strict=True))
        one_at_a_time = sum(change <= 1 for change in changes) > 0.75 * len(changes)
        usual[algorithm] = commonest if varied > 1 and one_at_a_time else None
    return usual


def _learner(algorithm: str, settings: list[str]) -> str:
    return ", ".join(settings if settings and settings[0] in CONTROLS else [label(algorithm), *settings])


def _setting(key: str, value: Any, among: Sequence[str]) -> str:
    """``iq_learn.temperature`` at 0.01 is "temperature 0.01"; the section stays where two keys end alike."""
    if key == EXPERT:
        return views.short(value)
    if key == SUBOPTIMAL:
        return "no suboptimal data" if value == "none" else value
    if key in VALUES:
        return VALUES[key].get(value, as_words(value))
    name = key_in_words(key)
    name = name if [key_in_words(other) for other in among].count(name) == 1 else key.replace("_", " ")
    if isinstance(value, bool):
        return name if value else f"no {name}"
    if isinstance(value, list):
        return f"{name} {', '.join(map(str, value)) or 'none'}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {as_words(value)}"


def _rank(row: tuple, keys: Sequence[str]) -> tuple:
    """The algorithms that have a place first, in it; numbers by size, words with an order in it, others as text."""
    algorithm, *values = row
    place = list(LABELS).index(algorithm) if algorithm in LABELS else len(LABELS)
    ordered = []
    for key, value in zip(keys, values, strict=True):
        known = list(VALUES.get(key, ()))
        value = known.index(value) if value in known else -1 if value is None else value
        ordered.append((0, value, "") if isinstance(value, int | float) else (1, 0, repr(value)))
    return place, algorithm, *ordered


def by_numbers(text: str) -> list[Any]:
    """A key for sorting that takes the numbers in a text for numbers."""
    return [int(part) if place % 2 else part for place, part in enumerate(re.split(r"(\d+)", text))]
