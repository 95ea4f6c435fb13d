"""A small sweep as a program of its own, to be killed, interrupted and started twice.

``python -m tests.sweeps.program FOLDER SEEDS STEPS [ray [ADDRESS]]``; the datasets are there already. It prints what
became of the runs, and exits as a command does.
"""

import sys
from pathlib import Path
from typing import Any

from iq_offline.cli import guarded
from iq_offline.sweeps.grid import PlannedRun
from tests.training.program import configuration

Runs = list[tuple[PlannedRun, ...]]


def planned(seeds: int = 2, **training: Any) -> Runs:
    """Runs that differ in their seed, each a task of its own."""
    options: dict[str, Any] = {"checkpoint_every": 100} | training
    return [(PlannedRun(f"seed{seed}", configuration("bc", seed, **options)),) for seed in range(seeds)]


def sweep() -> None:
    """Do the sweep."""
    from iq_offline.sweeps.launch import run_sweep
    from iq_offline.sweeps.local import LocalLauncher
    from iq_offline.sweeps.ray_launcher import RayLauncher

    folder, seeds, steps, *ray = sys.argv[1:]
    launcher = RayLauncher(ray[1] if len(ray) > 1 else None) if ray else LocalLauncher()
    outcome = run_sweep(planned(int(seeds), gradient_steps=int(steps)), Path(folder), launcher)
    print("done", *outcome.done)
    print("failed", *(failure.name for failure in outcome.failed))


if __name__ == "__main__":
    sys.exit(guarded(sweep, debug=True))
