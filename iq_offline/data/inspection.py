"""What a dataset is: facts for a reader, made from a survey of it. Nothing here is a judgement."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import polars as pl
from gymnasium.spaces import Box, Discrete, MultiBinary, MultiDiscrete

from iq_offline.data.catalog import References, known_references
from iq_offline.data.irregularity import few, number
from iq_offline.data.spaces import leaves_of, word
from iq_offline.data.stream import log_of
from iq_offline.data.survey import Survey

MAX_COLUMNS = 24
"""Names of columns that are listed one by one."""


@dataclass(frozen=True)
class Summary:
    """Of a column of numbers: its smallest, its quartiles, its largest and its mean."""

    min: float
    quartile1: float
    median: float
    quartile3: float
    max: float
    mean: float


@dataclass(frozen=True)
class Facts:
    """A dataset in numbers."""

    ends: dict[str, int]
    """How many episodes end ``terminated``, ``truncated``, in ``both`` or in ``neither``."""
    lengths: Summary
    returns: Summary | None
    """Over the episodes whose rewards are all numbers; None where there are none."""
    rewards_note: str
    """What is special about the rewards, in words; else empty."""
    leaves: pl.DataFrame
    """A row a leaf of the observations: name, kind, shape, bounds, dtype, recorded."""
    actions: str
    """The action space in words."""
    action_table: pl.DataFrame | None
    """A row a dimension of continuous actions, as ``Spread.table``; None for others."""
    action_counts: pl.DataFrame | None
    """Of finitely many actions: branch, action, count, share; None where there are too many to count, or for others."""
    transitions: int
    repeated_transitions: int
    repeated_episodes: int
    storage: str
    """The format in words."""
    bytes: int
    """Of all files."""
    log: str
    """What the columns of the log were that it was imported from, in words; empty where it was not."""
    references: References | None
    """What normalised scores are measured against, where the card or the metadata say."""


def facts_of(survey: Survey) -> Facts:
    """The facts of a dataset that was looked at."""
    source, episodes = survey.source, survey.episodes
    returns = episodes.filter(pl.col("return").is_finite())["return"]
    spread = survey.actions
    return Facts(
        ends=ends_of(episodes),
        lengths=summary_of(episodes["steps"].drop_nulls()) or Summary(*[math.nan] * 6),
        returns=summary_of(returns),
        rewards_note=rewards_note(episodes),
        leaves=leaf_table(survey),
        actions=", ".join(filter(None, space_words(source.action_space))),
        action_table=spread.table() if spread and isinstance(source.action_space, Box) else None,
        action_counts=count_table(survey),
        transitions=survey.transitions,
        repeated_transitions=survey.repeated_transitions,
        repeated_episodes=len(episodes.filter(pl.col("repeats").is_not_null())),
        storage=storage_words(source.metadata, any(spread.leaf.is_image for spread in survey.observations.values())),
        bytes=sum(file.stat().st_size for file in source.path.rglob("*") if file.is_file()),
        log=log_words(source.metadata),
        references=known_references(source.id, source.metadata),
    )


def ends_of(episodes: pl.DataFrame) -> dict[str, int]:
    """How many episodes end in each of the four ways; where a flag cannot be read it counts as unset."""
    terminated, truncated = (episodes[name].fill_null(False) for name in ("terminated", "truncated"))
    return {
        "terminated": int((terminated & ~truncated).sum()),
        "truncated": int((truncated & ~terminated).sum()),
        "both": int((terminated & truncated).sum()),
        "neither": int((~terminated & ~truncated).sum()),
    }


def summary_of(column: pl.Series) -> Summary | None:
    """Of the numbers in a column; None where it is empty."""
    if column.is_empty():
        return None
    quantiles = [column.quantile(share, "linear") for share in (0, 0.25, 0.5, 0.75, 1)]
    return Summary(*(float(value) for value in (*quantiles, column.mean())))  # type: ignore[arg-type]


def rewards_note(episodes: pl.DataFrame) -> str:
    """What a reader of the returns has to know; empty where the rewards are plain numbers."""
    total, steps = len(episodes), episodes["steps"].sum()
    known = episodes["return"].is_not_null().sum()
    odd, bad = episodes.filter(pl.col("rewards_not_finite") > 0), episodes["rewards_not_finite"].sum()
    if not known:
        return "no rewards can be read"
    if bad == steps:
        return "every reward is NaN or infinite: there seem to be none"
    if bad:
        return f"{bad:,} rewards are NaN or infinite: the returns are those of the other {known - len(odd):,} episodes"
    if episodes["rewards_all_zero"].all():
        return "every reward is zero: there seem to be none"
    return f"the rewards of {total - known:,} episodes cannot be read" if known < total else ""


def space_words(space: gymnasium.Space) -> tuple[str, str, str, str]:
    """Kind, shape, bounds and dtype of a space without parts."""
    shape = "" if isinstance(space, Discrete) or space.shape is None else str(space.shape)
    return word(space), shape, bounds_words(space), str(space.dtype or "")


def bounds_words(space: gymnasium.Space) -> str:
    """The bounds of a space: ``-1 to 1``, ``no bounds``, ``2 choices``."""
    if isinstance(space, Discrete):
        return f"{space.n} choices" + (f" from {space.start}" if space.start else "")
    if isinstance(space, MultiDiscrete):
        return "choices: " + _few(space.nvec.reshape(-1).tolist())
    if isinstance(space, MultiBinary):
        return "0 or 1"
    if not isinstance(space, Box) or not space.low.size:
        return ""
    low, high = space.low, space.high
    if np.isinf(low).all() and np.isinf(high).all():
        return "no bounds"
    ends = f"{number(low.min())} to {number(high.max())}"
    return ends if (low == low.min()).all() and (high == high.max()).all() else f"{ends} in all, not alike"


def leaf_table(survey: Survey) -> pl.DataFrame:
    """A row a leaf of the observations, also of those that training cannot read."""
    rows = []
    for leaf in leaves_of(survey.source.observation_space):
        spread = survey.observations.get(leaf.name)
        recorded = "not numbers: not read"
        if spread is not None:
            known = spread.count.any()
            recorded = f"{number(spread.min.min())} to {number(spread.max.max())}" if known else "nothing"
        kind, shape, bounds, dtype = space_words(leaf.space)
        kind = "image" if leaf.is_image else kind
        rows.append((leaf.name, kind, shape, bounds, dtype, recorded))
    names = ["name", "kind", "shape", "bounds", "dtype", "recorded"]
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def count_table(survey: Survey) -> pl.DataFrame | None:
    """A row an action of finitely many."""
    if not survey.action_counts or survey.actions is None:
        return None
    first = survey.actions.low.astype(np.int64)
    parts = [
        pl.DataFrame({"branch": branch, "action": first[branch] + np.arange(len(counts)), "count": counts})
        for branch, counts in enumerate(survey.action_counts)
    ]
    return pl.concat(parts).with_columns(share=pl.col("count") / pl.col("count").sum().over("branch"))


def storage_words(metadata: dict[str, Any], images: bool) -> str:
    """How a dataset is stored."""
    name = str(metadata.get("data_format", "hdf5"))
    words = {"hdf5": "HDF5", "arrow": "Arrow", "parquet": "Parquet"}.get(name, name)
    jpeg = images and metadata.get("jpeg_encoding", True)
    return words + (", images of 32 x 32 and more as JPEG (lossy)" if jpeg else "")


def log_words(metadata: dict[str, Any]) -> str:
    """The columns that ``datasets import`` made the numbers of, in their order, and how many episodes it cut."""
    log, words = log_of(metadata), []
    for field in ("observation", "action"):
        if isinstance(names := log.get(field), list):
            words.append(f"{field} {few([_printable(name) for name in names], MAX_COLUMNS)}")
    if isinstance(pieces_of := log.get("pieces_of"), list):
        words.append(f"{len(pieces_of):,} episodes are pieces of {len(set(map(str, pieces_of))):,}")
    return "; ".join(words)


def _printable(name: object) -> str:
    return str(name) if str(name).isprintable() else repr(name)


def time_limit_of(metadata: dict[str, Any]) -> int | None:
    """Steps after which the recording environment cut an episode, where the metadata name a number."""
    try:
        limit = json.loads(metadata.get("env_spec") or "{}").get("max_episode_steps")
    except (ValueError, TypeError, AttributeError):
        return None
    return limit if isinstance(limit, int) and limit > 0 else None


def _few(values: Sequence[object], most: int = 8) -> str:
    return ", ".join(map(str, values[:most])) + (", …" if len(values) > most else "")
