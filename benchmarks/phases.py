"""How much of an expert's variation is left in the steps that are kept of one trajectory, and whether training warns.

    python benchmarks/phases.py

Seeds 0 to 9 of every built-in expert of docs/results.md; a row each in ``results/phases.ndjson``. No training.
"""

import json
from pathlib import Path

from iq_offline.config import DataConfig, RunConfig
from iq_offline.data.subsampling import better_distance, variation_kept
from iq_offline.experiment import obtain
from iq_offline.files import write_atomically
from iq_offline.training.setup import choose_data

ROWS = Path(__file__).parent / "results" / "phases.ndjson"
TASKS = {(20, 19): ("halfcheetah", "hopper", "walker2d", "ant", "cartpole"), (5,): ("lunarlander", "acrobot")}
"""Which experts are looked at with which distances of kept steps."""


def main() -> None:
    """Write the rows, and print the range of each setting."""
    rows = []
    for distances, name in ((distances, f"{task}/expert") for distances, tasks in TASKS.items() for task in tasks):
        source = obtain(name)
        for distance in distances:
            found = []
            for seed in range(10):
                options = DataConfig(name, 1, distance, held_out_trajectories=0)
                data = choose_data(RunConfig(seed=seed, data=options), source, [])
                kept = variation_kept(data.expert, data.observations, distance)
                better = better_distance(data.expert, data.observations, distance)
                found.append(kept)
                rows.append({"dataset": name, "subsample": distance, "seed": seed, "kept": kept, "better": better})
            print(f"{name}, every {distance}: {min(found):.2f} to {max(found):.2f}")
    write_atomically(ROWS, "".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    main()
