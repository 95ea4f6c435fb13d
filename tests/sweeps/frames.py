"""Frames of finished runs and of their curves, as ``sweeps.results`` gives them, without a run."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import polars as pl

Score = Callable[[dict[str, Any]], float | None]
EXPERT_RETURN, RANDOM_RETURN = 300.0, 100.0


def draw_score(row: dict[str, Any]) -> float:
    """Rises with the number of trajectories and differs between algorithms and seeds; the same for the same row."""
    place = [ord(letter) for letter in row["algorithm"] + row["data.expert"]]
    generator = np.random.default_rng([*place, row["seed"], row["data.num_expert_trajectories"]])
    return float(
        1 - np.exp(-row["data.num_expert_trajectories"] / (1 + len(row["algorithm"]))) + generator.normal(0, 0.1)
    )


def make_runs(
    algorithms: Sequence[str] = ("iq_learn", "bc"),
    counts: Iterable[int] = (1, 3, 5, 10),
    seeds: int = 4,
    experts: Iterable[str] = ("hopper/expert",),
    score: Score = draw_score,
    data_return: float | None = EXPERT_RETURN,
    changes: Sequence[dict[str, Any]] = ({},),
) -> pl.DataFrame:
    """Every algorithm with every count, seed, dataset and change of the configuration."""
    rows = []
    for expert in experts:
        for algorithm in algorithms:
            for number, change in enumerate(changes):
                for count in counts:
                    for seed in range(seeds):
                        row = {
                            "run": f"{expert}/{algorithm}/{number}/{count}/{seed}",
                            "algorithm": algorithm,
                            "seed": seed,
                            "fast": False,
                            "data.expert": expert,
                            "data.num_expert_trajectories": count,
                            "data.subsample": 1,
                            "data.suboptimal": "[]",
                            "iq_learn.temperature": 0.001,
                            "bc.loss": "squared_error",
                            "training.hidden_sizes": [256, 256],
                            "seconds": 10.0,
                        } | change
                        value = score(row)
                        scored = value is not None
                        row |= {
                            "score": value,
                            "return": RANDOM_RETURN + value * (EXPERT_RETURN - RANDOM_RETURN) if scored else None,
                            "expert_return": EXPERT_RETURN if scored else None,
                            "random_return": RANDOM_RETURN if scored else None,
                            "data_return": data_return,
                            "held_out_error": 0.1 / (count + seed),
                            "held_out_measure": "squared_error",
                        }
                        rows.append(row)
    numbers = ("score", "return", "expert_return", "random_return", "data_return")
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(numbers, pl.Float64), infer_schema_length=None)


def make_curves(runs: pl.DataFrame, steps: Iterable[int] = (1000, 2000, 5000)) -> pl.DataFrame:
    """The runs' scores on their way from random."""
    parts = [
        runs.with_columns(
            pl.lit(step).alias("gradient_steps"),
            pl.lit(None, pl.Int64).alias("env_steps"),
            pl.col("score") * step / 5000,
            pl.col("return") * step / 5000,
        )
        for step in steps
    ]
    return pl.concat(parts).drop("expert_return", "random_return", "data_return", "held_out_error", "held_out_measure")
