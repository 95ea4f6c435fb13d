"""The main job's claim over ten seeds: python benchmarks/hopper_one_trajectory.py [--seeds 10] [--expert ID].

Trains the recipe ``hopper_offline`` (one complete expert trajectory) for every seed, two processes of one torch thread
each, in four variants: BC; IQ-Learn as shipped, with its behaviour anchor; IQ-Learn without the anchor; and the anchor
without IQ-Learn (the same learner with its Q-term removed from the actor's loss). Writes a row for every finished run
to ``benchmarks/results/NAME.ndjson`` and prints the interquartile mean of the normalised score with a 95% bootstrap
interval over seeds, the mean, the worst seed, and each variant minus BC paired by seed. Runs that are finished already
are not run again.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from iq_offline.config import load_recipe
from iq_offline.experiment import obtain, run
from iq_offline.sweeps.statistics import estimate, paired_difference

RESULTS = Path(__file__).parent / "results"


VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "bc": ("bc", {}),
    "iq_learn": ("iq_learn", {}),
    "iq_learn_no_anchor": ("iq_learn", {"behavior_anchor": 0.0}),
    "anchor_only": ("iq_learn", {"actor_follows_critic": False}),
}
"""What is trained: the algorithm, and what of its settings differs from the recipe."""


def train_one(variant: str, seed: int, expert: str, folder: str) -> dict[str, Any]:
    """One run, in a process of its own."""
    recipe, _ = load_recipe("hopper_offline")
    algorithm, changes = VARIANTS[variant]
    data, iq_learn = replace(recipe.data, expert=expert), replace(recipe.iq_learn, **changes)
    training = replace(recipe.training, snapshots=0)
    config = replace(recipe, algorithm=algorithm, seed=seed, data=data, iq_learn=iq_learn, training=training)
    summary = run(config, Path(folder) / f"{variant}-seed{seed}")
    return {"variant": variant} | {key: value for key, value in summary.items() if key != "curve"}


def main() -> None:
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--expert", default="hopper/expert")
    parser.add_argument("--name", default="hopper_one_trajectory")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    obtain(arguments.expert)
    file = RESULTS / f"{arguments.name}.ndjson"
    file.parent.mkdir(exist_ok=True)
    folder = str(arguments.runs / arguments.name)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    jobs = [(variant, seed, arguments.expert, folder) for variant in arguments.variants for seed in seeds]
    rows = []
    with ProcessPoolExecutor(arguments.processes, mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(train_one, *job) for job in jobs]):
            rows.append(future.result())
            done = rows[-1]
            print(
                f"{done['variant']} {done['seed']}: {done['normalized_score']:.3f} ({len(rows)}/{len(jobs)})",
                flush=True,
            )
            rows.sort(key=lambda row: (row["variant"], row["seed"]))
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report(rows)


def report(rows: list[dict[str, Any]]) -> None:
    """Print the summary of all rows, and every variant's difference to BC, paired by seed."""
    scores: dict[str, dict[int, float]] = {}
    for row in rows:
        scores.setdefault(row["variant"], {})[row["seed"]] = row["normalized_score"]
    print("variant              IQM   95% interval    mean   worst  n   seconds   minus BC, paired by seed")
    for name, by_seed in scores.items():
        values = list(by_seed.values())
        middle = estimate([values])
        seconds = np.median([row["seconds"] for row in rows if row["variant"] == name])
        paired = ""
        if name != "bc" and scores.get("bc", {}).keys() & by_seed.keys():
            minus = paired_difference([by_seed], [scores["bc"]])
            paired = f"{minus.value:+.3f} ({minus.low:+.3f} to {minus.high:+.3f})"
        print(
            f"{name:20} {middle.value:.3f}  {middle.low:.3f} to {middle.high:.3f}  "
            f"{np.mean(values):.3f}  {min(values):.3f}  {len(values)}  {seconds:4.0f}   {paired}"
        )


if __name__ == "__main__":
    main()
