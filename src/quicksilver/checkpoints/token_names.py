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

    def __init__(self, ids: Mapping[str, int], roles: Mapping[str, str], *, begins_texts: bool = False) -> None:
        """Take them as they are.

        Args:
            ids: id by token.
            roles: token by role: ``eos``, ``pad``, ``mask``, ``bos``.
            begins_texts: see ``begin``.
        """
        self._ids, self._roles, self._begins_texts = dict(ids), dict(roles), begins_texts

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
        return cls(ids, roles, begins_texts=_begins_texts(tokenizer, config, roles.get("bos")))

    @property
    def begin(self) -> int | None:
        """Id of the token that the tokenizer itself puts before every text; None if it puts none."""
        return self.role("bos") if self._begins_texts else None

    def id_of(self, name: str) -> int | None:
        """Id of a token by its text; None if no file names it."""
        return self._ids.get(name)

    def role(self, role: str) -> int | None:
        """Id of the token that the files call ``eos``, ``pad``, ``mask`` or ``bos``; None if none is."""
        name = self._roles.get(role)
        return None if name is None else self._ids.get(name)


def _begins_texts(tokenizer: Mapping[str, Any], config: Mapping[str, Any], bos: str | None) -> bool:
    """Whether texts are encoded behind ``bos``: by tokenizer_config.json, else by tokenizer.json's template."""
    if isinstance(config.get("add_bos_token"), bool):
        return config["add_bos_token"]
    steps = tokenizer.get("post_processor") or {}
    for step in steps.get("processors", [steps]):
        single = step.get("single") or [{}]
        if (single[0].get("SpecialToken") or {}).get("id") == bos is not None:
            return True
    return False


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
