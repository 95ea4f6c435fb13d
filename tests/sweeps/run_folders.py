"""Folders of finished runs as the experiment leaves them, written from numbers: nothing is trained."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iq_offline.config import RunConfig, from_table, nested, resolved, to_toml
from iq_offline.evaluation.rows import write_episodes
from iq_offline.sweeps.grid import FILE, Sweep, sweep_of
from tests.sweeps.made_up import EXPERT_RETURN, RANDOM_RETURN

VERSIONS = {"python": "3.11.7", "iq-offline": "0.1.0", "torch": "2.13.0"}


def config_of(algorithm: str = "bc", count: int = 1, seed: int = 0, **changes: Any) -> RunConfig:
    """A run's configuration; changes have dots as double underscores: ``data__subsample=20``."""
    given = {"algorithm": algorithm, "data.num_expert_trajectories": count, "seed": seed}
    given |= {key.replace("__", "."): value for key, value in changes.items()}
    return resolved(from_table(RunConfig, nested(given), "a test"))


def write_run(folder: Path, config: RunConfig, scores: Sequence[float] | None = (1.0, 1.0), **changes: Any) -> Path:
    """A finished run with these normalised scores of its episodes, or one that was not evaluated; its folder."""
    returns = [RANDOM_RETURN + score * (EXPERT_RETURN - RANDOM_RETURN) for score in scores or ()]
    mean = sum(returns) / len(returns) if returns else None
    steps = config.training.gradient_steps
    points = [(steps // 2, [0.5 * value for value in returns]), (steps, returns)] if returns else []
    summary = {
        "algorithm": config.algorithm,
        "seed": config.seed,
        "gradient_steps": steps,
        "seconds": 10.0,
        "evaluation_seconds": 1.0,
        "returns": returns,
        "return_mean": mean,
        "expert_return": EXPERT_RETURN if returns else None,
        "random_return": RANDOM_RETURN if returns else None,
        "data_return": EXPERT_RETURN if returns else None,
        "normalized_score": sum(scores) / len(scores) if scores else None,
        "references": "mean returns that were made up" if returns else "not evaluated",
        "curve": [{"gradient_steps": step, "return_mean": sum(v) / len(v), "returns": v} for step, v in points],
        "held_out": {"measure": "squared_error", "error": 0.1 / config.data.num_expert_trajectories},
        "versions": VERSIONS,
        "git_commit": "0123456789abcdef",
    } | changes
    folder.mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(config))
    write_episodes(folder, summary, config)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def sweep_table(counts: Sequence[int] = (1, 3), seeds: int = 3, **changes: Any) -> dict[str, Any]:
    """A sweep's file as tables."""
    grid = {"algorithm": ["bc", "iq_learn"], "data.num_expert_trajectories": list(counts), "seeds": seeds}
    return {"sweep": "made_up", "question": "How many are enough?", "grid": grid} | changes


def write_sweep(folder: Path, table: dict[str, Any], score: Any, **changes: Any) -> Sweep:
    """A sweep's folder with those runs finished that get a score.

    Args:
        folder: of the sweep.
        table: of its file.
        score: from a configuration to a score, or None for a run that is not finished.
        changes: of every summary.
    """
    sweep = sweep_of(table, "a test", "made_up")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(sweep.to_toml())
    for run in sweep.runs():
        value = score(run.config)
        if value is not None:
            write_run(folder / "runs" / run.name, run.config, (value - 0.01, value + 0.01), **changes)
    return sweep


def with_anchor(config: RunConfig, weight: float) -> RunConfig:
    """The configuration with another behaviour anchor."""
    return replace(config, iq_learn=replace(config.iq_learn, behavior_anchor=weight))
