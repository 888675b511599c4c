"""Special tokens of a foreign folder by name and by role, from whichever of its tokenizer files says so.

Families find mask and end tokens here where their ``config.json`` is silent.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from quicksilver.errors import CheckpointError


class TokenNames:
    """Ids of the tokens that a tokenizer adds to its vocabulary."""

    def __init__(self, ids: Mapping[str, int], roles: Mapping[str, str]) -> None:
        """Take them as they are.

        Args:
            ids: id by token.
            roles: token by role: ``eos``, ``pad``, ``mask``, ``bos``.
        """
        self._ids, self._roles = dict(ids), dict(roles)

    @classmethod
    def of_folder(cls, folder: Path) -> Self:
        """Read tokenizer.json, tokenizer_config.json, added_tokens.json and special_tokens_map.json, if they are there.

        Raises:
            CheckpointError: one of them is not readable JSON.
        """
        tokenizer, config = _read(folder / "tokenizer.json"), _read(folder / "tokenizer_config.json")
        ids: dict[str, int] = {}
        for entry in tokenizer.get("added_tokens") or []:
            ids[entry["content"]] = entry["id"]
        for token_id, entry in (config.get("added_tokens_decoder") or {}).items():
            ids[entry["content"]] = int(token_id)
        ids.update(_read(folder / "added_tokens.json"))
        roles: dict[str, str] = {}
        for named in (_read(folder / "special_tokens_map.json"), config):
            for role in ("bos", "eos", "pad", "mask"):
                value = named.get(f"{role}_token")
                name = value.get("content") if isinstance(value, dict) else value
                if isinstance(name, str):
                    roles[role] = name
        vocabulary = (tokenizer.get("model") or {}).get("vocab")
        for name in roles.values():
            if name not in ids and isinstance(vocabulary, dict) and name in vocabulary:
                ids[name] = vocabulary[name]
        return cls(ids, roles)

    def id_of(self, name: str) -> int | None:
        """Id of a token by its text; None if no file names it."""
        return self._ids.get(name)

    def role(self, role: str) -> int | None:
        """Id of the token that the files call ``eos``, ``pad``, ``mask`` or ``bos``; None if none is."""
        name = self._roles.get(role)
        return None if name is None else self._ids.get(name)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
