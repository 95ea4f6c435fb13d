"""Whether it matters for the result: python benchmarks/population_scores.py [--seeds 10] [--algorithms bc iq_learn].

Trains the recipe ``hopper_offline`` (one complete expert trajectory) for every seed, each run alone and all of them
together, and compares the normalised scores by seed: the mean difference with its 95% bootstrap interval, and the
p-value of Wilcoxon's signed ranks. In float32 the two part in their last digits and then go on parting: single scores
differ, their distribution must not. Runs that are finished already are not run again.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import bootstrap, wilcoxon

from iq_offline.config import RunConfig, load_recipe
from iq_offline.errors import UserError
from iq_offline.experiment import obtain, run, run_together

RESULTS = Path(__file__).parent / "results" / "population_scores.ndjson"


def train(configs: list[RunConfig], folder: Path) -> list[dict[str, Any]]:
    """A row for every run: alone, then together."""
    rows = []
    for config in configs:
        rows.append({"trained": "alone"} | run(config, folder / f"alone-{config.algorithm}-{config.seed}"))
    together = run_together(configs, [folder / f"together-{config.algorithm}-{config.seed}" for config in configs])
    for outcome in together:
        if isinstance(outcome, UserError):
            raise outcome
        rows.append({"trained": "together"} | outcome)
    return [{key: value for key, value in row.items() if key != "curve"} for row in rows]


def main() -> None:
    """Run what is missing, print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first-seed", type=int, default=10)
    parser.add_argument("--algorithms", nargs="+", default=["bc", "iq_learn"])
    parser.add_argument("--gradient-steps", type=int, default=10_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks/population"))
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    obtain("hopper/expert")
    recipe, _ = load_recipe("hopper_offline")
    training = replace(recipe.training, gradient_steps=arguments.gradient_steps, device=arguments.device, snapshots=0)
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    rows: list[dict[str, Any]] = []
    for algorithm in arguments.algorithms:
        base = replace(recipe, algorithm=algorithm, training=training)
        rows += train([replace(base, seed=seed) for seed in seeds], arguments.runs)
        arguments.output.parent.mkdir(exist_ok=True)
        arguments.output.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for algorithm in arguments.algorithms:
        alone, together = (
            np.array(
                [row["normalized_score"] for row in rows if row["algorithm"] == algorithm and row["trained"] == trained]
            )
            for trained in ("alone", "together")
        )
        difference = together - alone
        interval = bootstrap((difference,), np.mean, rng=np.random.default_rng(0)).confidence_interval
        print(
            f"{algorithm:9} alone {alone.mean():.4f} ± {alone.std(ddof=1):.4f}, together {together.mean():.4f} ± "
            f"{together.std(ddof=1):.4f}; together - alone {difference.mean():+.4f} ({interval.low:+.4f} to "
            f"{interval.high:+.4f}), Wilcoxon p = {np.asarray(wilcoxon(difference))[1]:.2f}"
        )


if __name__ == "__main__":
    main()
