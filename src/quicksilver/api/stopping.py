"""Stop strings: where a text ends, told from its tokens."""

from collections.abc import Sequence

from quicksilver.errors import ConfigError
from quicksilver.tokenization.tokenizer import Tokenizer


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stop strings."""
    found = [at for at in (text.find(each) for each in stop) if at >= 0]
    return text[: min(found)] if found else text


class TextStop:
    """``decoding.StopRule``: keeps the tokens that hold the text before the first stop string.

    The last of them may reach into the stop string; ``cut_at_stop`` gives the exact text.
    """

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str]) -> None:
        """Raises ConfigError if a stop string is empty."""
        if not all(stop):
            raise ConfigError("a stop string must not be empty")
        self.stop = tuple(stop)
        self._tokenizer = tokenizer

    def __call__(self, token_ids: Sequence[int]) -> int | None:
        text = self._tokenizer.decode(list(token_ids))
        kept_text = cut_at_stop(text, self.stop)
        if len(kept_text) == len(text):
            return None
        kept = 0
        while len(self._tokenizer.decode(list(token_ids[:kept]))) < len(kept_text):
            kept += 1
        return kept
