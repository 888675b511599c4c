"""Results that survive an interruption."""

import json
from collections.abc import Mapping
from pathlib import Path

from quicksilver.errors import ConfigError


class ResultLog:
    """A JSON-lines file: the run's identity, then one line per item. Opening it again continues the run."""

    def __init__(self, path: Path, identity: Mapping[str, object]) -> None:
        """Open or create the file; a last line cut short by an interruption is dropped.

        Raises:
            ConfigError: the file belongs to a run with another identity, or is no such file.
        """
        self._path = path
        header = json.dumps(identity, sort_keys=True)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(header + "\n", encoding="utf-8")
            return
        text = path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole.split("\n", 1)[0] != header:
            raise ConfigError(
                f"{path} holds results of another run; choose another output, or delete it to start afresh"
            )
        if whole != text:
            path.write_text(whole, encoding="utf-8")

    def read(self) -> list[dict[str, object]]:
        """The items so far, in order.

        Raises:
            ConfigError: a line is damaged.
        """
        try:
            return [json.loads(line) for line in self._path.read_text(encoding="utf-8").splitlines()[1:]]
        except ValueError as error:
            raise ConfigError(f"{self._path} is damaged: {error}") from error

    def append(self, item: Mapping[str, object]) -> None:
        """Add an item; it is on its way to the disk when this returns."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(item) + "\n")
