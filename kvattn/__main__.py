"""``python -m kvattn`` is the command ``kvattn``."""

import sys

from kvattn.cli import main

if __name__ == "__main__":
    sys.exit(main())
