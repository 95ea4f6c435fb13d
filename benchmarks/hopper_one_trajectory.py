"""The main job's claim over ten seeds: python benchmarks/hopper_one_trajectory.py [--seeds 10] [--expert ID].

Trains the recipe ``hopper_offline`` (IQ-Learn and BC on one complete expert trajectory) for every seed, two processes
of one torch thread each. Writes a row for every finished run to ``benchmarks/results/NAME.ndjson`` and prints the
interquartile mean of the normalised score with a 95% bootstrap interval over seeds, the mean, the worst seed, and
IQ-Learn minus BC paired by seed. Runs that are finished already are not run again.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap

from iq_offline.config import load_recipe
from iq_offline.evaluation.scores import interquartile_mean
from iq_offline.experiment import obtain, run

RESULTS = Path(__file__).parent / "results"


def train_one(algorithm: str, seed: int, expert: str, folder: str) -> dict[str, Any]:
    """One run, in a process of its own."""
    recipe, _ = load_recipe("hopper_offline")
    data = replace(recipe.data, expert=expert)
    config = replace(recipe, algorithm=algorithm, seed=seed, data=data)
    summary = run(config, Path(folder) / f"{algorithm}-seed{seed}")
    return {key: value for key, value in summary.items() if key != "curve"}


def interval(values: Sequence[float], statistic: Callable[..., float] = interquartile_mean) -> tuple[float, float]:
    """95% percentile bootstrap interval over learners."""
    result = bootstrap(
        (np.asarray(values),),
        statistic,
        vectorized=False,
        n_resamples=5000,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--expert", default="hopper/expert")
    parser.add_argument("--name", default="hopper_one_trajectory")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    obtain(arguments.expert)
    file = RESULTS / f"{arguments.name}.ndjson"
    file.parent.mkdir(exist_ok=True)
    folder = str(arguments.runs / arguments.name)
    jobs = [
        (algorithm, seed, arguments.expert, folder)
        for seed in range(arguments.seeds)
        for algorithm in ("bc", "iq_learn")
    ]
    rows = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(train_one, *job) for job in jobs]):
            rows.append(future.result())
            rows.sort(key=lambda row: (row["algorithm"], row["seed"]))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
            print(f"{rows[-1]['algorithm']}: {len(rows)}/{len(jobs)} done", flush=True)
    report(rows)


def report(rows: list[dict[str, Any]]) -> None:
    """Print the summary of all rows."""
    scores = {
        name: [row["normalized_score"] for row in rows if row["algorithm"] == name] for name in ("bc", "iq_learn")
    }
    print("algorithm   IQM   95% interval    mean   worst  n   seconds")
    for name, values in scores.items():
        low, high = interval(values)
        seconds = np.median([row["seconds"] for row in rows if row["algorithm"] == name])
        print(
            f"{name:10} {interquartile_mean(values):.3f}  {low:.3f} to {high:.3f}  "
            f"{np.mean(values):.3f}  {min(values):.3f}  {len(values)}  {seconds:.0f}"
        )
    difference = np.subtract(scores["iq_learn"], scores["bc"])
    low, high = interval(difference.tolist(), lambda sample: float(np.mean(sample)))
    print(f"IQ-Learn - BC, paired by seed: {difference.mean():+.3f} ({low:+.3f} to {high:+.3f})")


if __name__ == "__main__":
    main()
