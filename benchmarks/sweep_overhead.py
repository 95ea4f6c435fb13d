"""What a sweep costs beside its runs: python benchmarks/sweep_overhead.py [--counts 1 3 5 10 25] [--seeds 5].

The Hopper sweep (complete trajectories, BC and IQ-Learn), each time in a folder of its own: a run of each learner
alone on the machine, all runs with the local launcher, all runs with Ray. Held against each other:

- the wall clock of a launcher / (the sum of the runs' own seconds, training and evaluation / workers): 1 is perfect;
- a run's own seconds inside the sweep / alone: what the workers take from each other;
- Ray's wall clock / the local launcher's.

Only ratios within one call mean something. Rows go to benchmarks/results/sweep_overhead.ndjson.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import polars as pl

from iq_offline.provenance import git_commit, package_versions
from iq_offline.sweeps.local import available_cores
from iq_offline.sweeps.results import read_episodes, runs_of

RESULTS = Path(__file__).parent / "results" / "sweep_overhead.ndjson"
ALGORITHMS = ("bc", "iq_learn")


def sweep(folder: Path, arguments: argparse.Namespace, launcher: str, alone: str = "") -> tuple[float, pl.DataFrame]:
    """Wall-clock seconds of the command, and its runs; ``alone``: only the first run of that algorithm."""
    command = [sys.executable, "-m", "iq_offline.recipes.expert_count", "--dataset", "hopper/expert"]
    command += ["--counts", *map(str, arguments.counts[:1] if alone else arguments.counts)]
    command += ["--seeds", str(1 if alone else arguments.seeds), "--algorithms", *([alone] if alone else ALGORITHMS)]
    command += ["--set", f"training.gradient_steps={arguments.gradient_steps}", "training.snapshots=5"]
    command += ["--output", str(folder), "--launcher", launcher]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started, runs_of(read_episodes(folder))


def own_seconds(runs: pl.DataFrame) -> pl.Series:
    """Of training and evaluation, a run."""
    return runs["seconds"] + runs["evaluation_seconds"]


def main() -> None:
    """Measure, print, append a row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 3, 5, 10, 25])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gradient-steps", type=int, default=10_000)
    arguments = parser.parse_args()
    row: dict[str, Any] = vars(arguments) | {"cores": available_cores(), "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as root:
        here = Path(root)
        alone = {name: own_seconds(sweep(here / name, arguments, "local", name)[1])[0] for name in ALGORITHMS}
        walls = {}
        for launcher in ("local", "ray"):
            walls[launcher], runs = sweep(here / launcher, arguments, launcher)
            inside = runs.with_columns(own=own_seconds(runs)).group_by("algorithm").agg(pl.col("own").median())
            row[launcher] = {
                "wall_seconds": round(walls[launcher], 1),
                "own_seconds": round(float(own_seconds(runs).sum()), 1),
                "wall_over_ideal": round(walls[launcher] / (own_seconds(runs).sum() / row["cores"]), 3),
                "inside_over_alone": {name: round(own / alone[name], 3) for name, own in inside.rows()},
            }
    row["alone_seconds"] = alone
    row["ray_over_local"] = round(walls["ray"] / walls["local"], 3)
    row |= {"versions": package_versions(), "git_commit": git_commit()}
    print(json.dumps({key: value for key, value in row.items() if key != "versions"}, indent=2))
    with open(RESULTS, "a") as file:
        file.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
