"""The tokenizer: text to token ids and back, without loss.

Special tokens are ids that only code can write. Their names in a text are ordinary text, so no document or prompt can
smuggle one in.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
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
    """Byte-level BPE with the reserved special tokens as its first ids."""

    def __init__(self, backend: tokenizers.Tokenizer) -> None:
        """Wrap a Hugging Face tokenizer.

        Raises:
            CheckpointError: its first ids are not the special tokens of this project, or another id is not byte-level.
        """
        found = tuple(backend.id_to_token(index) for index in range(len(SPECIAL_TOKENS)))
        if found != SPECIAL_TOKENS:
            wrong = next(index for index, name in enumerate(SPECIAL_TOKENS) if found[index] != name)
            raise CheckpointError(f"tokenizer: id {wrong} is {found[wrong]!r}, must be {SPECIAL_TOKENS[wrong]!r}")
        self._backend = backend
        # Not stored in the file, so it is set whenever a tokenizer is wrapped.
        self._backend.encode_special_tokens = True
        self._bytes = _token_bytes(backend)

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

    def id_of(self, name: str) -> int:
        """Id of a special token.

        Raises:
            InputError: there is no special token of that name.
        """
        try:
            return SPECIAL_TOKENS.index(name)
        except ValueError as error:
            raise InputError(f"{name!r} is not a special token; known: {' '.join(SPECIAL_TOKENS)}") from error

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
            SPECIAL_TOKENS[index].encode()
            if keep_special and 0 <= index < len(SPECIAL_TOKENS)
            else self.token_bytes(index)
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


def _token_bytes(backend: tokenizers.Tokenizer) -> list[bytes]:
    table = [b""] * len(SPECIAL_TOKENS)
    for index in range(len(SPECIAL_TOKENS), backend.get_vocab_size()):
        token = backend.id_to_token(index)
        if token is None or any(symbol not in BYTE_OF_SYMBOL for symbol in token):
            raise CheckpointError(f"tokenizer: id {index} is {token!r}, which is not a byte-level token")
        table.append(bytes(BYTE_OF_SYMBOL[symbol] for symbol in token))
    return table
