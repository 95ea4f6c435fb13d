"""``python -m iq_offline.recipes.hopper_finetune``: IQ-Learn on few steps of Hopper, then in the environment."""

import sys

from iq_offline.cli import run_recipe

if __name__ == "__main__":
    sys.exit(run_recipe("hopper_finetune"))
