"""Where the sets lie that others made: ``data/eval`` of the repository, each with its LICENSE and SOURCE.txt.

They are not part of the installed package, and nothing is fetched.
"""

import hashlib
from pathlib import Path

from quicksilver.errors import InputError

_REPOSITORY = Path(__file__).parents[3]


def find_data(path: str, folder: Path | None = None, *, origin: str | None = None) -> Path:
    """A file of a set, ``SET/FILE``.

    Args:
        path: of the file within the folder of all sets.
        folder: None: the repository's ``data/eval``. If it is a file, that is taken, whatever its name.
        origin: where the file is to be had, if it is not part of the repository.

    Raises:
        InputError: it is not there.
    """
    if folder is not None and folder.is_file():
        return folder
    root = _REPOSITORY / "data" / "eval" if folder is None else folder
    if (root / path).is_file():
        return root / path
    remedy = f"it has no {path}" if root.is_dir() else "there is no such folder"
    advice = (
        "The sets are part of the repository, not of the installed package: name its data/eval with --data"
        if origin is None
        else f"It is not part of the repository: get {Path(path).name} from {origin} and name it with --data"
    )
    raise InputError(f"cannot find the data of this suite in {root}: {remedy}. {advice}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, for reports."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
