"""Log-probabilities of written tokens and of given texts."""

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from quicksilver.api import Alternative, Completion, Token
from quicksilver.protocol.chat import ChatLogprobs, TokenLogprob, TopLogprob
from quicksilver.protocol.completions import Logprobs
from quicksilver.tokenization.tokenizer import Tokenizer

_LEAST = -9999.0
"""What JSON has instead of minus infinity; the value OpenAI's API gives."""


def _log(probability: float) -> float:
    return max(math.log(probability), _LEAST) if probability > 0 else _LEAST


def chat_logprobs(completion: Completion, tokenizer: Tokenizer) -> ChatLogprobs:
    """Of every written token and its alternatives the logarithm of the probability at the forward that wrote it."""

    def read(token: Token | Alternative, probability: float) -> dict[str, Any]:
        content = list(tokenizer.token_bytes(token.token_id))
        return {"token": token.text, "logprob": _log(probability), "bytes": content}

    return ChatLogprobs(
        content=[
            TokenLogprob(
                **read(token, token.confidence),
                top_logprobs=[TopLogprob(**read(each, each.probability)) for each in token.alternatives],
            )
            for token in completion.holes[0].tokens
        ]
    )


def text_logprobs(completion: Completion, *, offset: int = 0) -> Logprobs:
    """The same in the shape of the completions API, where a token is always among its alternatives.

    Args:
        completion: what was written.
        offset: characters that stand before the text.
    """
    tokens = completion.holes[0].tokens
    logs = [_log(token.confidence) for token in tokens]
    return Logprobs(
        tokens=[token.text for token in tokens],
        token_logprobs=list(logs),
        top_logprobs=[
            {**{each.text: _log(each.probability) for each in token.alternatives}, token.text: log}
            for token, log in zip(tokens, logs, strict=True)
        ],
        text_offset=_offsets([token.text for token in tokens], offset),
    )


def prompt_logprobs(token_ids: Sequence[int], rows: Tensor, tokenizer: Tokenizer, num_top: int) -> Logprobs:
    """Of a given text, by the model's next-token reading; the first token has none, as in OpenAI's API.

    Args:
        token_ids: of the text.
        rows: (L, V) log-probabilities of every position's tokens.
        tokenizer: of the model.
        num_top: likeliest tokens to name beside each given one.
    """
    texts = [token_text(tokenizer, token) for token in token_ids]
    own = [max(float(rows[at, token]), _LEAST) for at, token in enumerate(token_ids)]
    top: list[dict[str, float] | None] = []
    for at, text in enumerate(texts):
        values, ids = rows[at].topk(max(num_top, 1))
        named = {
            token_text(tokenizer, int(token)): max(float(value), _LEAST)
            for value, token in zip(values, ids, strict=True)
        }
        top.append({**named, text: own[at]})
    return Logprobs(
        tokens=texts,
        token_logprobs=[None, *own[1:]],
        top_logprobs=[None, *top[1:]],
        text_offset=_offsets(texts, 0),
    )


def joined(before: Logprobs, after: Logprobs) -> Logprobs:
    """Of a text and what follows it."""
    return Logprobs(
        tokens=before.tokens + after.tokens,
        token_logprobs=before.token_logprobs + after.token_logprobs,
        top_logprobs=before.top_logprobs + after.top_logprobs,
        text_offset=before.text_offset + after.text_offset,
    )


def token_text(tokenizer: Tokenizer, token_id: int) -> str:
    r"""The token's text; bytes that are no whole character appear as ``\xNN``."""
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="backslashreplace")


def _offsets(texts: Sequence[str], start: int) -> list[int]:
    offsets, at = [], start
    for text in texts:
        offsets.append(at)
        at += len(text)
    return offsets
