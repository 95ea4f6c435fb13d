"""``python -m iq_offline.recipes.hopper_offline``: IQ-Learn and BC on recorded Hopper data, with and without labels."""

import sys

from iq_offline.cli import run_recipe

if __name__ == "__main__":
    sys.exit(run_recipe("hopper_offline"))
