"""Autoregressive models in other engines: prompts, limits and ends as our own engine has them.

What differs is the engine alone: the same tokens are read, the same are forbidden, and a text ends in the same places.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from quicksilver.api.context import crop_around_holes
from quicksilver.api.stopping import cut_at_stop
from quicksilver.coding.dialects import DIALECTS
from quicksilver.decoding.params import DEFAULT_MAX_TOKENS
from quicksilver.diffusion.spec import DecodingDefaults
from quicksilver.errors import ConfigError, ContextLengthError
from quicksilver.evaluation.subject import TOO_LONG, Answer, Ask, unanswered

BEGINS_FILE = "<file>"
"""The token that this project's models read before a text that they continue; they are the only ones that have it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentinels:
    """Token ids around prefix and suffix, in the order in which the model was trained."""

    prefix: int
    suffix: int
    middle: int | None
    """None: the model writes behind the prefix."""
    is_suffix_first: bool = False

    @property
    def count(self) -> int:
        return 2 if self.middle is None else 3

    def prompt(self, before: Sequence[int], after: Sequence[int]) -> list[int]:
        """The prompt whose continuation is the hole."""
        parts = [[self.prefix, *before], [self.suffix, *after]]
        end = [] if self.middle is None else [self.middle]
        return [token for part in (reversed(parts) if self.is_suffix_first else parts) for token in part] + end


def find_sentinels(id_of: Callable[[str], int | None]) -> Sentinels | None:
    """Those of the first dialect whose sentinels are all tokens; None if the model knows none.

    Args:
        id_of: id of a token by its name; None if there is no such token.
    """
    for dialect in DIALECTS:
        names = [each.strip() for each in (dialect.prefix, dialect.suffix, dialect.middle)]
        prefix, suffix, middle = (id_of(name) if name else None for name in names)
        if prefix is not None and suffix is not None and (middle is not None or not names[2]):
            return Sentinels(prefix=prefix, suffix=suffix, middle=middle, is_suffix_first=dialect.is_suffix_first)
    return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Vocabulary:
    """A model's tokens, by whatever library knows them."""

    encode: Callable[[str], Sequence[int]]
    """Text to ids; names of special tokens in it are text."""
    decode: Callable[[Sequence[int]], str]
    newline_id: int
    """The token that ends a line."""
    begin: int | None
    """Read before a text to be continued."""
    hole_begin: int | None
    """Read before the prompt of a hole."""
    sentinels: Sentinels | None
    ends: frozenset[int]
    """Any of them ends a text."""
    forbidden: frozenset[int]
    """Never written: special tokens that end nothing, as in our engine."""

    def text_prompt(self, prompt: str) -> list[int]:
        """Ids of a text to be continued."""
        start = [] if self.begin is None else [self.begin]
        return start + list(self.encode(prompt))

    def hole_prompt(self, prefix: str, suffix: str, most: int) -> list[int]:
        """Ids of what stands around a hole, in at most ``most`` tokens: whole lines nearest to it.

        Raises:
            ConfigError: the model has no fill-in-the-middle tokens.
        """
        if self.sentinels is None:
            raise ConfigError("this model has no fill-in-the-middle tokens that are known here, so it fills no holes")
        start = [] if self.hole_begin is None else [self.hole_begin]
        sides = [tuple(self.encode(text)) for text in (prefix, suffix)]
        budget = most - len(start) - self.sentinels.count
        if budget < 0:
            raise ContextLengthError(f"a hole leaves {most} tokens of the context, too few for its sentinels")
        before, after = crop_around_holes(sides, budget, self.newline_id)
        return start + self.sentinels.prompt(before, after)


@runtime_checkable
class Writer(Protocol):
    """An engine that writes one token per forward."""

    def write(
        self, prompt: Sequence[int], most: int, ask: Ask, is_over: Callable[[Sequence[int]], bool]
    ) -> Sequence[int]:
        """Greedy or sampled by temperature alone, at most ``most`` tokens.

        Args:
            prompt: ids.
            most: tokens.
            ask: seed and temperature; the rest is the caller's.
            is_over: told all that is written after every token; True ends it.

        Returns:
            What was written, the token that ended it included.
        """
        ...


class _Watch:
    """Tells where a text ends, and keeps when it began. Its clock starts when it is made."""

    def __init__(self, vocabulary: Vocabulary, stop: Sequence[str]) -> None:
        self._vocabulary, self._stop = vocabulary, stop
        self._start = time.perf_counter()
        self.first_s: float | None = None

    def __call__(self, written: Sequence[int]) -> bool:
        if self.first_s is None:
            self.first_s = self.seconds
        if written[-1] in self._vocabulary.ends:
            return True
        return bool(self._stop) and self.cut(written) is not None

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start

    def cut(self, written: Sequence[int]) -> str | None:
        """The text before the first stop; None if there is none."""
        text = self._vocabulary.decode(written)
        kept = cut_at_stop(text, self._stop)
        return None if len(kept) == len(text) else kept


@dataclass(frozen=True, slots=True)
class _Piece:
    """One text of an answer, and what it took."""

    text: str
    num_tokens: int
    nfe: int
    seconds: float
    first_s: float | None
    finish_reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class CausalSubject:
    """An autoregressive model behind a ``Writer``. Holes are filled one after the other.

    As in our engine's layout psm an earlier hole is seen with its filling, a later one as if nothing stood there, and a
    given length is a limit: the model ends its holes itself.
    """

    name: str
    writer: Writer
    vocabulary: Vocabulary
    max_length: int
    """Most tokens of prompt and answer."""
    max_hole_length: int = DecodingDefaults().max_hole_length
    """Of a hole of which nothing is known."""
    identity: Mapping[str, object] = field(default_factory=dict)
    """Engine, weights, dtype."""

    def about(self) -> Mapping[str, object]:
        return {"name": self.name, "max_length": self.max_length, **self.identity}

    def count_tokens(self, text: str) -> int | None:
        return len(self.vocabulary.encode(text))

    def fill(self, texts: Sequence[str], ask: Ask) -> Answer:
        most = ask.hole_length or ask.max_tokens or min(self.max_hole_length, self.max_length // 2)
        filled, pieces = "", []
        for hole in range(len(texts) - 1):
            prefix, suffix = filled + texts[hole], "".join(texts[hole + 1 :])
            prompt = self.vocabulary.hole_prompt(prefix, suffix, self.max_length - most)
            piece = self._write(prompt, most, ask)
            pieces.append(piece)
            filled = prefix + piece.text
        return _answer(pieces)

    def complete(self, prompt: str, ask: Ask) -> Answer:
        ids = self.vocabulary.text_prompt(prompt)
        if not ids:
            raise ConfigError(f"{self.name} reads no token before a text, so it cannot continue an empty one")
        room = self.max_length - len(ids)
        if room < 1:
            return unanswered(TOO_LONG)
        # As much as the context leaves, if that is less than was asked for.
        most = min(DEFAULT_MAX_TOKENS if ask.max_tokens is None else ask.max_tokens, room)
        return _answer([self._write(ids, most, ask)])

    def _write(self, prompt: Sequence[int], most: int, ask: Ask) -> _Piece:
        watch = _Watch(self.vocabulary, ask.stop)
        written = list(self.writer.write(prompt, most, ask, watch))
        seconds, nfe = watch.seconds, len(written)
        reason = "length"
        if written and written[-1] in self.vocabulary.ends:
            reason = "eos"
            written.pop()
        text, num_kept, cut = self.vocabulary.decode(written), len(written), watch.cut(written)
        if cut is not None:
            text, reason = cut, "stop"
            num_kept = next(n for n in range(len(written)) if len(self.vocabulary.decode(written[:n])) >= len(cut))
        return _Piece(text, num_kept, nfe, seconds, watch.first_s, reason)


def _answer(pieces: Sequence[_Piece]) -> Answer:
    return Answer(
        texts=tuple(each.text for each in pieces),
        num_tokens=sum(each.num_tokens for each in pieces),
        nfe=sum(each.nfe for each in pieces),
        seconds=sum(each.seconds for each in pieces),
        finish_reason=pieces[-1].finish_reason,
        first_text_s=pieces[0].first_s if any(each.text for each in pieces) else None,
    )
