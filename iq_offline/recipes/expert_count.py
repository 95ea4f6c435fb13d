"""``python -m iq_offline.recipes.expert_count --dataset ID``: returns against the number of expert trajectories."""

import sys

from iq_offline.command import run_command
from iq_offline.sweep_cli import ExpertCount, expert_count

if __name__ == "__main__":
    sys.exit(run_command(ExpertCount, expert_count, "python -m iq_offline.recipes.expert_count"))
