"""The tokenizer: text to token ids and back, without loss.

Special tokens are ids that only code can write. Their names in a text are ordinary text, so no document or prompt can
smuggle one in.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Self

import tokenizers

from quicksilver.errors import CheckpointError, InputError
from quicksilver.tokenization.special import SPECIAL_TOKENS


def _byte_symbols() -> dict[str, int]:
    """GPT-2's printable stand-in per byte: itself where it can be seen, else the next code point from 256 on."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


BYTE_OF_SYMBOL = _byte_symbols()
"""Byte per symbol of the byte-level alphabet."""


class Tokenizer:
    """A Hugging Face tokenizer whose special tokens only code can write.

    This project's own: byte-level BPE with the reserved special tokens as its first ids. ``foreign`` makes others.
    """

    def __init__(self, backend: tokenizers.Tokenizer, special: Mapping[str, int] | None = None) -> None:
        """Wrap a Hugging Face tokenizer.

        Args:
            backend: byte-level, or with spaces written as U+2581 and a fallback to bytes.
            special: ids of the names that are no text; None: this project's, which must be its first ids.

        Raises:
            CheckpointError: its first ids are not the special tokens of this project, or an id has no bytes.
        """
        self.is_own = special is None
        if special is None:
            _require_own(backend)
            special = {name: index for index, name in enumerate(SPECIAL_TOKENS)}
        self.special: Mapping[str, int] = MappingProxyType(dict(special))
        self._names = {index: name for name, index in special.items()}
        self._backend = backend
        # Not stored in the file, so it is set whenever a tokenizer is wrapped.
        self._backend.encode_special_tokens = True
        self._bytes = _token_bytes(backend, frozenset(self._names))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a ``tokenizer.json``.

        Raises:
            CheckpointError: the file is missing, no tokenizer, or has other special tokens.
        """
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"cannot read tokenizer {path}: {error}") from error
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises nothing narrower
            raise CheckpointError(f"{path} is not a tokenizer: {error}") from error
        return cls(backend)

    def save(self, path: Path) -> None:
        """Write a ``tokenizer.json`` that ``load`` and the ``tokenizers`` library read."""
        path.write_text(self._backend.to_str(pretty=True) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return len(self._bytes)

    @property
    def newline_id(self) -> int:
        r"""Id of ``\n``, which is always a token of its own."""
        return self._bytes.index(b"\n")

    @property
    def symbols(self) -> list[str]:
        """Every token by id: special tokens by name, others in the byte-level alphabet (``BYTE_OF_SYMBOL``)."""
        return [self._backend.id_to_token(index) or "" for index in range(len(self._bytes))]

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of symbols that become one, the first of them first."""
        return [(left, right) for left, right in json.loads(self._backend.to_str())["model"]["merges"]]

    @property
    def fingerprint(self) -> str:
        """sha256 of the tokenizer's JSON with sorted keys and no white space: equal means equal encodings."""
        canonical = json.dumps(json.loads(self._backend.to_str()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8")).hexdigest()

    @property
    def unwritten_ids(self) -> frozenset[int]:
        """Ids that no model may write: this project's special tokens, and gaps.

        A foreign model writes its special tokens as it was trained to; they have no text.
        """
        gaps = {index for index, found in enumerate(self._bytes) if not found and index not in self._names}
        return frozenset(gaps | (set(self._names) if self.is_own else set()))

    def id_of(self, name: str) -> int:
        """Id of a special token.

        Raises:
            InputError: there is no special token of that name.
        """
        found = self.special.get(name)
        if found is None:
            raise InputError(f"{name!r} is not a special token; known: {' '.join(self.special)}")
        return found

    def name_of(self, token_id: int) -> str:
        """A special token by its name.

        Raises:
            InputError: the id is of none.
        """
        if token_id not in self._names:
            raise InputError(f"token id {token_id} is not of a special token")
        return self._names[token_id]

    def encode(self, text: str) -> list[int]:
        """Ids of a text; never a special id.

        Raises:
            InputError: the text has a lone surrogate, so it is no Unicode text.
        """
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, as ``encode``, on all cores."""
        for text in texts:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InputError(f"text cannot be written as UTF-8: {error}") from error
        return [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int], *, keep_special: bool = False) -> str:
        """The text of ids; bytes that are no UTF-8 (a character cut in two) become U+FFFD.

        Args:
            ids: token ids in [0, vocab_size).
            keep_special: write special tokens by their names instead of leaving them out.

        Raises:
            InputError: an id is out of range.
        """
        pieces = [
            self._names[index].encode() if keep_special and index in self._names else self.token_bytes(index)
            for index in ids
        ]
        return b"".join(pieces).decode("utf-8", errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of one token; empty for a special token.

        Raises:
            InputError: the id is out of range.
        """
        if not 0 <= token_id < len(self._bytes):
            raise InputError(f"token id must be in [0, {len(self._bytes)}), got {token_id}")
        return self._bytes[token_id]


def _require_own(backend: tokenizers.Tokenizer) -> None:
    found = tuple(backend.id_to_token(index) for index in range(len(SPECIAL_TOKENS)))
    if found != SPECIAL_TOKENS:
        wrong = next(index for index, name in enumerate(SPECIAL_TOKENS) if found[index] != name)
        raise CheckpointError(f"tokenizer: id {wrong} is {found[wrong]!r}, must be {SPECIAL_TOKENS[wrong]!r}")


def _token_bytes(backend: tokenizers.Tokenizer, special: frozenset[int]) -> list[bytes]:
    """Bytes by id: none for special tokens and for gaps between ids."""
    vocabulary = backend.get_vocab(with_added_tokens=True)
    added = {index: token.content.encode() for index, token in backend.get_added_tokens_decoder().items()}
    bytes_of = _spaced_bytes if "ByteFallback" in str(backend.decoder) else _byte_level_bytes
    table = [b""] * (1 + max(vocabulary.values()))
    for token, index in vocabulary.items():
        if index not in special:
            found = added.get(index) or bytes_of(token)
            if not found:
                raise CheckpointError(f"tokenizer: id {index} is {token!r}, which is not a byte-level token")
            table[index] = found
    return table


def _byte_level_bytes(token: str) -> bytes | None:
    if any(symbol not in BYTE_OF_SYMBOL for symbol in token):
        return None
    return bytes(BYTE_OF_SYMBOL[symbol] for symbol in token)


_SINGLE_BYTE = re.compile("<0x([0-9A-F]{2})>")


def _spaced_bytes(token: str) -> bytes:
    """Of tokenizers in SentencePiece's manner."""
    byte = _SINGLE_BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("\u2581", " ").encode()
