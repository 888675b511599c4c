"""``python -m quicksilver``: the command, for launchers that start modules, as torchrun does."""

import sys

from quicksilver.cli.main import main

# The server's worker processes import this module by another name.
if __name__ == "__main__":
    sys.exit(main())
