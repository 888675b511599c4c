"""``python -m quicksilver``: the command, for launchers that start modules, as torchrun does."""

import sys

from quicksilver.cli.main import main

sys.exit(main())
