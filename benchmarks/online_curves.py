"""Draws what online runs from scratch come to, along the steps in the environment, from ``results/online.ndjson``.

    python benchmarks/online_curves.py docs/online_scratch.png

One complete trajectory. IQ-Learn as it is by default; the others as they are beside it, with the seeds that there are.
"""

import json
import sys
from pathlib import Path

import polars as pl

from iq_offline.sweeps.plots import learning_curves, save_figure

ROWS = Path(__file__).parent / "results" / "online.ndjson"
SHOWN = ("HA", "HCA", "WA", "AA", "G0b", "GHC0", "S0", "SHC0")
"""How the names of the runs begin: IQ-Learn with today's anchor on four tasks, GAIL, SQIL."""


def shown() -> pl.DataFrame:
    """A row for each run and evaluation."""
    runs = [json.loads(line) for line in ROWS.read_text().splitlines()]
    return pl.DataFrame(
        [
            {
                "run": run["run"],
                "algorithm": run["algorithm"],
                "seed": run["seed"],
                "data.expert": run["dataset"],
                "data.suboptimal": "[]",
                "data.subsample": run["subsample"],
                "data.num_expert_trajectories": run["num_expert_trajectories"],
                "gradient_steps": steps,
                "env_steps": steps,
                "score": score,
            }
            for run in runs
            if run["run"].rstrip("0123456789") in SHOWN or run["run"] in SHOWN
            for steps, score in run["curve"]
        ]
    )


if __name__ == "__main__":
    save_figure(learning_curves(shown()), Path(sys.argv[1]).with_suffix(""), ["png"])
