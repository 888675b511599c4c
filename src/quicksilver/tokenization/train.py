"""Training the tokenizer: byte-level BPE with fixed rules for newlines, indentation and digits.

Only pieces without line ends and without runs of spaces are learned from text. Newlines are one token each, and runs of
spaces get their own tokens by construction, so that an indentation is always the same token whatever the corpus was.
"""

import json
from collections.abc import Iterable
from typing import Final

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from quicksilver.errors import ConfigError
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import BYTE_OF_SYMBOL, Tokenizer

DEFAULT_VOCAB_SIZE: Final = 8192

INDENT_WIDTH: Final = 4
MAX_INDENTS: Final = 8

_SPACE_RUNS: Final = (2, 3, *range(INDENT_WIDTH, INDENT_WIDTH * MAX_INDENTS + 1, INDENT_WIDTH))
"""Lengths of the runs of spaces that are one token; a single space is a byte."""

_SPACE_MERGES: Final = ((1, 1), (2, 1), (2, 2), (4, 4), (8, 8), (16, 8), (16, 16), (8, 4), (16, 4), (24, 4))
"""Lengths of the two halves. In this order every run of ``_SPACE_RUNS`` ends as one token; with (8, 4) before (16, 8),
28 spaces would end as 16 and 12."""

_PIECES: Final = "|".join(
    (
        r"\n",
        rf"(?: {{{INDENT_WIDTH}}}){{1,{MAX_INDENTS}}}",
        r" ?\p{N}",
        r" ?[\p{L}\p{M}_]+",
        r" ?[^\s\p{L}\p{M}\p{N}_]+",
        r" +",
        r"\s",
    )
)
"""A newline | an indentation | one digit | a word, underscores included | punctuation | spaces left over | other
white space. One space in front belongs to the word, digit or punctuation behind it."""

_UNLEARNED: Final = r"\n| {2,}"


def train_tokenizer(texts: Iterable[str], vocab_size: int = DEFAULT_VOCAB_SIZE) -> Tokenizer:
    """Learn a byte-level BPE. The same texts in the same order give the same tokenizer.

    Ids: the special tokens, the 256 bytes, the runs of spaces, then the learned tokens, most frequent merge first.

    Args:
        texts: training documents.
        vocab_size: number of ids. Fewer come out when the texts have no more pairs that occur twice.

    Raises:
        ConfigError: ``vocab_size`` leaves no room for the bytes.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet(), key=BYTE_OF_SYMBOL.__getitem__)
    space = next(symbol for symbol in alphabet if BYTE_OF_SYMBOL[symbol] == ord(" "))
    space_merges = [(space * left, space * right) for left, right in _SPACE_MERGES]
    num_fixed = len(SPECIAL_TOKENS) + len(_SPACE_RUNS)
    if vocab_size < num_fixed + len(alphabet):
        raise ConfigError(f"vocab_size must be at least {num_fixed + len(alphabet)}, got {vocab_size}")
    learned_merges = _learn_merges(texts, vocab_size - num_fixed, alphabet)
    merges = space_merges + learned_merges
    # Two merges can give the same token; dict.fromkeys keeps the first and with it the order of ids.
    runs = [space * length for length in _SPACE_RUNS]
    symbols = dict.fromkeys([*SPECIAL_TOKENS, *alphabet, *runs, *(left + right for left, right in learned_merges)])
    vocab = {symbol: index for index, symbol in enumerate(symbols)}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(_split_pieces())
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return Tokenizer(backend)


def _split_pieces() -> list[pre_tokenizers.PreTokenizer]:
    return [
        pre_tokenizers.Split(Regex(_PIECES), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


def _learn_merges(texts: Iterable[str], vocab_size: int, alphabet: list[str]) -> list[tuple[str, str]]:
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_UNLEARNED), "removed"), *_split_pieces()]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=alphabet, min_frequency=2, show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    return [(left, right) for left, right in json.loads(learner.to_str())["model"]["merges"]]
