"""Compiled constraints on disk."""

import logging
import os
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.errors import ConfigError

_LOG = logging.getLogger(__name__)


class Store:
    """A folder with a file per automaton, named by its fingerprint; those used longest ago make room for others.

    Several processes may use one folder. A file that cannot be read is removed, one that cannot be written is told in
    the log: both cost a compilation, and nothing else.
    """

    def __init__(self, folder: Path, *, max_mb: int = 256) -> None:
        """Use a folder, which is made when it is first needed.

        Args:
            folder: nothing else in it.
            max_mb: of all files, in MiB.
        """
        if max_mb < 1:
            raise ConfigError(f"max_mb must be at least 1, got {max_mb}")
        self._folder, self._max_bytes = folder, max_mb << 20

    def get(self, fingerprint: str) -> TokenAutomaton | None:
        """The automaton of a fingerprint, if it is here."""
        path = self._path(fingerprint)
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                values = {name: arrays[name] for name in arrays.files}
            found = TokenAutomaton(**{name: each if each.ndim else each.item() for name, each in values.items()})
            os.utime(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
            _LOG.warning("a stored constraint cannot be read and is removed: %s: %s", path, error)
            path.unlink(missing_ok=True)
            return None
        return found

    def put(self, automaton: TokenAutomaton) -> None:
        """Keep an automaton."""
        arrays = {each.name: np.asarray(getattr(automaton, each.name)) for each in fields(automaton)}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self._folder, suffix=".tmp", delete=False) as file:
                np.savez_compressed(file, allow_pickle=False, **arrays)
            # At once there or not, whoever else looks.
            os.replace(file.name, self._path(automaton.fingerprint))
            self._make_room()
        except OSError as error:
            _LOG.warning("a compiled constraint cannot be stored in %s: %s", self._folder, error)

    def _path(self, fingerprint: str) -> Path:
        return self._folder / f"{fingerprint}.npz"

    def _make_room(self) -> None:
        known = [(path.stat(), path) for path in self._folder.iterdir()]
        known.sort(key=lambda each: each[0].st_mtime_ns, reverse=True)
        total = 0
        for stat, path in known:
            total += stat.st_size
            if total > self._max_bytes:
                path.unlink(missing_ok=True)
