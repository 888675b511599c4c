"""Where state that outlives a process is kept."""

import os
from pathlib import Path

import platformdirs

from quicksilver.errors import StorageError


def home() -> Path:
    """The folder of Quicksilver's state: ``$QUICKSILVER_HOME``, or the platform's folder for a user's data.

    It is made if it is not there, readable by its owner alone.

    Raises:
        StorageError: it cannot be made.
    """
    given = os.environ.get("QUICKSILVER_HOME")
    folder = (
        Path(given).expanduser().absolute() if given else platformdirs.user_data_path("quicksilver", appauthor=False)
    )
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder} ({error.strerror}): set QUICKSILVER_HOME to another") from error
    return folder


def cache_folder() -> Path:
    """Where to keep what can be made again; not made yet."""
    given = os.environ.get("QUICKSILVER_HOME")
    if given:
        return Path(given).expanduser().absolute() / "cache"
    return platformdirs.user_cache_path("quicksilver", appauthor=False)
