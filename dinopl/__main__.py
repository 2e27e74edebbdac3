"""``python -m dinopl`` is the command."""

import sys

from dinopl.cli import main

if __name__ == "__main__":
    sys.exit(main())
