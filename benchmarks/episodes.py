"""How much of a score is which episodes it is of: saved policies in many more than a run's ten.

    python benchmarks/episodes.py runs/one_trajectory/runs/*ant* [RUN/snapshots/step-0004000.safetensors …]

A run stands for its final policy. A row a policy, with every return, is appended to
``benchmarks/results/episodes.ndjson``.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from iq_offline.config import saved_config
from iq_offline.data.catalog import References
from iq_offline.environments.make import evaluation_environment, with_time_limit
from iq_offline.evaluation.scores import evaluate, normalized_score, score_error
from iq_offline.experiment import obtain
from iq_offline.learning.policy import Policy
from iq_offline.provenance import git_commit

RESULTS = Path(__file__).parent / "results" / "episodes.ndjson"
SNAPSHOTS = "snapshots"


def main() -> None:
    """Evaluate and append."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("policies", nargs="+", type=Path, metavar="RUN_OR_SNAPSHOT")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=20_000, help="of the first episode; a run's own begin elsewhere")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for given in options.policies:
        file = given / "policy.safetensors" if given.is_dir() else given
        folder = file.parent.parent if file.parent.name == SNAPSHOTS else file.parent
        config, summary = saved_config(folder / "config.toml"), json.loads((folder / "summary.json").read_text())
        data = obtain(config.data.expert)
        environment = with_time_limit(evaluation_environment(data.source), data.longest)
        returns = evaluate(Policy.load(file), environment, options.episodes, options.seed)
        known = References(summary["expert_return"], summary["random_return"], summary["references"])
        score, error = normalized_score(float(np.mean(returns)), known), score_error(returns, known)
        if score is None or error is None:
            raise SystemExit(f"{folder} has no normalised score, or one episode is asked for")
        row = {
            "run": folder.name,
            "file": file.name,
            "dataset": config.data.expert,
            "algorithm": config.algorithm,
            "seed": config.seed,
            "env_steps": config.online.env_steps,
            "run_score": summary["normalized_score"],
            "run_commit": summary["git_commit"],
            "git_commit": git_commit(),
            "episodes": options.episodes,
            "first_seed": options.seed,
            "score": round(score, 4),
            "standard_error": round(error, 4),
            "returns": [round(value, 1) for value in returns],
        }
        with RESULTS.open("a") as rows:
            rows.write(json.dumps(row) + "\n")
        print(f"{folder.name} {file.name}: {score:.3f} ± {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
