"""`python -m openqwen` and the `openqwen` command."""

import sys

from openqwen.cli import main

if __name__ == "__main__":
    sys.exit(main())
