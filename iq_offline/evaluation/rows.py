"""A run's result as rows of a table, one an evaluated episode: what tables of many runs are read from.

Every row carries the run's whole configuration, so that the files of any number of runs can be read as one table
(``iq_offline/sweeps/results.py``) without knowing what they were run for.
"""

import dataclasses
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from iq_offline.config import RunConfig, flat, saved_start, to_table
from iq_offline.config.online import OFFLINE
from iq_offline.files import write_atomically

EPISODES, SUMMARY = "episodes.parquet", "summary.json"

MEASURED = pl.Schema(
    {
        "gradient_steps": pl.Int64,
        "env_steps": pl.Int64,
        "is_final": pl.Boolean,
        "episode": pl.Int64,
        "return": pl.Float64,
        "score": pl.Float64,
        "expert_return": pl.Float64,
        "random_return": pl.Float64,
        "data_return": pl.Float64,
        "held_out_error": pl.Float64,
        "held_out_measure": pl.String,
        "seconds": pl.Float64,
        "evaluation_seconds": pl.Float64,
        "git_commit": pl.String,
    }
)
"""Columns beside those of the configuration. ``score`` is normalised, ``data_return`` the mean return of the episodes
trained on, ``env_steps`` what an online run had lived through; what does not exist is null."""


def is_finished(run: Path) -> bool:
    """Whether a run's folder has both its rows and its summary, scored or not."""
    return all((run / name).exists() for name in (EPISODES, SUMMARY))


def episode_rows(summary: dict[str, Any], config: RunConfig) -> pl.DataFrame:
    """The evaluated episodes of the final policy and of the snapshots before it.

    A run without an environment to score it in has one row, with null for ``episode`` and ``return``.

    Args:
        summary: what ``summary.json`` holds.
        config: of the run, resolved.
    """
    steps = summary["gradient_steps"]
    final = list(enumerate(summary["returns"])) or [(None, None)]
    rows = [(steps, True, episode, value) for episode, value in final]
    for point in summary["curve"]:
        if point["gradient_steps"] < steps:
            rows += [(point["gradient_steps"], False, *each) for each in enumerate(point["returns"])]
    expert, random = summary["expert_return"], summary["random_return"]
    held_out = summary["held_out"] or {}
    about = {name: summary[name] for name in ("expert_return", "random_return", "data_return", "seconds")}
    about |= {"evaluation_seconds": summary["evaluation_seconds"], "git_commit": summary["git_commit"]}
    about |= {"held_out_error": held_out.get("error"), "held_out_measure": held_out.get("measure")}
    has_score = summary["normalized_score"] is not None
    table = [
        {
            "gradient_steps": step,
            "env_steps": config.online.env_steps_before(step) if config.is_online else None,
            "is_final": is_final,
            "episode": episode,
            "return": value,
            "score": (value - random) / (expert - random) if has_score else None,
            **about,
        }
        for step, is_final, episode, value in rows
    ]
    if config.online.start:
        config = dataclasses.replace(config, online=dataclasses.replace(config.online, start=_start(config)))
    return pl.DataFrame(table, schema=MEASURED).join(configuration_row(config), how="cross")


def _start(config: RunConfig) -> str:
    """``offline``, or ``offline bc`` where another learner's run is gone on with.

    Every run's folder is another: as a path it would tell seeds apart.
    """
    start = saved_start(config)
    return OFFLINE if start is None or start.algorithm == config.algorithm else f"{OFFLINE} {start.algorithm}"


def configuration_row(config: RunConfig) -> pl.DataFrame:
    """A configuration as one row: numbers and words, lists as JSON.

    A column has the same type in all files: else they could not be read as one table.
    """
    values = flat(to_table(config))
    kinds = {name: pl.Int64 if type(value) is int else None for name, value in values.items()}
    row = {name: json.dumps(value) if isinstance(value, list) else value for name, value in values.items()}
    return pl.DataFrame([row], schema_overrides={name: kind for name, kind in kinds.items() if kind})


def write_episodes(folder: Path, summary: dict[str, Any], config: RunConfig) -> None:
    """Write the rows of a run into its folder, whole or not at all."""
    content = BytesIO()
    episode_rows(summary, config).write_parquet(content)
    write_atomically(folder / EPISODES, content.getvalue())
