"""Folders of runs that never ran: rows with made-up returns, written as a run writes them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iq_offline.config import RunConfig, from_table, nested, resolved
from iq_offline.evaluation.rows import SUMMARY, write_episodes

EXPERT_RETURN, RANDOM_RETURN = 300.0, 100.0


def write_run(
    folder: Path,
    scores: Sequence[float] = (),
    changes: dict[str, Any] | None = None,
    held_out: float | None = None,
    references: bool = True,
    snapshots: dict[int, Sequence[float]] | None = None,
    **summary: Any,
) -> Path:
    """Write a run's rows and its summary.

    Args:
        folder: of the run.
        scores: normalised scores of its episodes; none where it was not evaluated.
        changes: dotted keys of its configuration.
        held_out: error on held-out trajectories.
        references: whether returns can be normalised.
        snapshots: scores of the episodes of the policies before the final one, by gradient step.
        summary: whatever else the run's summary says.

    Returns:
        The folder.
    """
    config = resolved(from_table(RunConfig, nested(changes or {}), "made up"))

    def returns(values: Sequence[float]) -> list[float]:
        return [RANDOM_RETURN + value * (EXPERT_RETURN - RANDOM_RETURN) for value in values]

    known = references and bool(scores)
    about = {
        "gradient_steps": config.training.gradient_steps,
        "returns": returns(scores),
        "curve": [{"gradient_steps": step, "returns": returns(some)} for step, some in (snapshots or {}).items()],
        "expert_return": EXPERT_RETURN if known else None,
        "random_return": RANDOM_RETURN if known else None,
        "data_return": None,
        "normalized_score": 0.0 if known else None,
        "held_out": None if held_out is None else {"measure": "squared_error", "error": held_out},
        "seconds": 10.0,
        "evaluation_seconds": 1.0,
        "git_commit": "abc",
    }
    write_episodes(folder, about | summary, config)
    (folder / SUMMARY).write_text(json.dumps(about | summary))
    return folder


def write_runs(
    folder: Path, scores: dict[tuple[str, int], Sequence[float]], changes: dict[str, Any] | None = None
) -> None:
    """Runs of one episode each, by algorithm and number of trajectories; the seeds are 0, 1, …"""
    for (algorithm, count), values in scores.items():
        for seed, value in enumerate(values):
            own = {"algorithm": algorithm, "data.num_expert_trajectories": count, "seed": seed}
            name = ",".join(f"{key}={value}" for key, value in own.items())
            write_run(folder / "runs" / name, [value], own | (changes or {}))
