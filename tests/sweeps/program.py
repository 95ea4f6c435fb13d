"""A small sweep as a program of its own, to be killed, interrupted and started twice.

``python -m tests.sweeps.program FOLDER SEEDS STEPS [local | ray] [ADDRESS]``; the datasets are there already. It prints
what became of the runs and exits with INTERRUPTED after a polite signal.
"""

import sys
from pathlib import Path

from iq_offline.sweeps.grid import PlannedRun
from tests.training.program import INTERRUPTED, configuration

Runs = list[tuple[PlannedRun, ...]]


def planned(seeds: int = 2, **training: object) -> Runs:
    """Runs that differ in their seed, each a task of its own."""
    return [(PlannedRun(f"seed{seed}", configuration("bc", seed, **training)),) for seed in range(seeds)]


def main() -> int:
    """Do the sweep."""
    from iq_offline.cli import guarded
    from iq_offline.sweeps.launch import run_sweep
    from iq_offline.sweeps.local import LocalLauncher

    folder, seeds, steps, *kind = sys.argv[1:]

    def command() -> None:
        if kind and kind[0] == "ray":
            from iq_offline.sweeps.ray_launcher import RayLauncher

            launcher = RayLauncher(*kind[1:])
        else:
            launcher = LocalLauncher()
        outcome = run_sweep(planned(int(seeds), gradient_steps=int(steps)), Path(folder), launcher)
        print("done", *outcome.done)
        print("failed", *(failure.name for failure in outcome.failed))

    return guarded(command, debug=True)


if __name__ == "__main__":
    assert INTERRUPTED == 130
    sys.exit(main())
