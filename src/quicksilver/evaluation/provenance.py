"""Where figures come from: which code, which machine."""

import os
import platform
import subprocess
from pathlib import Path

import torch

from quicksilver.engine.costs import cpu_name


def environment() -> dict[str, object]:
    """Hardware, versions and the commit of the code: what a figure needs beside it."""
    return {
        "cpu": cpu_name(),
        "cpu_cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The checked-out commit, with ``-dirty`` if files differ from it; None outside a repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--exclude=*", "--abbrev=40", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
