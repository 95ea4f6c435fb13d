"""``python -m iq_offline``."""

import sys

from iq_offline.cli import main

if __name__ == "__main__":
    sys.exit(main())
