"""Tokenizers of other families' checkpoints, from the files that are published with them."""

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from quicksilver.errors import CheckpointError
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer

# Qwen2's rule, which every family that publishes vocab.json and merges.txt alone (Dream, DiffuCoder) has taken over.
_QWEN2_PIECES = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def load_foreign(folder: Path) -> Tokenizer:
    """The tokenizer of a folder: ``tokenizer.json``, or ``vocab.json`` and ``merges.txt`` by Qwen2's rules.

    Raises:
        CheckpointError: there is neither, or one is damaged or of a kind that has no bytes per token.
    """
    config = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    try:
        if (folder / "tokenizer.json").is_file():
            backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            backend = _from_merges(folder)
        else:
            raise CheckpointError(f"{folder} holds no tokenizer: neither tokenizer.json nor vocab.json and merges.txt")
        _add_tokens(backend, config)
    except CheckpointError:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise CheckpointError(f"the tokenizer in {folder} cannot be read: {error}") from error
    special = {token.content: index for index, token in backend.get_added_tokens_decoder().items() if token.special}
    return Tokenizer(backend, special)


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a folder of our own: this project's, or the one that an imported checkpoint came with.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{folder} lacks tokenizer.json")
    return Tokenizer.load(path) if is_own_tokenizer(path) else load_foreign(folder)


def is_own_tokenizer(path: Path) -> bool:
    """Whether a ``tokenizer.json`` begins with this project's special tokens; raises CheckpointError if damaged."""
    added = _read_json(path).get("added_tokens") or []
    return [each["content"] for each in added[: len(SPECIAL_TOKENS)]] == list(SPECIAL_TOKENS)


def foreign_chat_template(folder: Path) -> str | None:
    """The Jinja source that a folder's tokenizer_config.json holds; None if it holds none."""
    path = folder / "tokenizer_config.json"
    found = _read_json(path).get("chat_template") if path.is_file() else None
    if isinstance(found, list):  # several, by name
        found = next((each["template"] for each in found if each.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _from_merges(folder: Path) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt")))
    backend.normalizer = normalizers.NFC()
    pieces = pre_tokenizers.Split(tokenizers.Regex(_QWEN2_PIECES), behavior="isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pieces, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, config: dict[str, Any]) -> None:
    """Tokens that tokenizer_config.json alone names; in the order of their ids, which must follow the vocabulary."""
    entries = sorted(((int(key), entry) for key, entry in (config.get("added_tokens_decoder") or {}).items()))
    for token_id, entry in entries:
        token = AddedToken(
            entry["content"],
            special=entry.get("special", True),
            normalized=entry.get("normalized", False),
            lstrip=entry.get("lstrip", False),
            rstrip=entry.get("rstrip", False),
            single_word=entry.get("single_word", False),
        )
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != token_id:
            raise CheckpointError(
                f"tokenizer_config.json gives {token.content!r} the id {token_id}, the vocabulary gives it "
                f"{backend.token_to_id(token.content)}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} holds no object")
    return found
