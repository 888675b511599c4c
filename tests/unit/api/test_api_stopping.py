"""Stop strings end a generation at the right character, whatever the tokens are."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.api.stopping import TextStop, cut_at_stop
from quicksilver.errors import ConfigError
from tests.tiny_checkpoints import SOURCE, tiny_tokenizer


def test_the_first_of_several_counts():
    assert cut_at_stop("abcabc", ["c", "b"]) == "a"
    assert cut_at_stop("abc", ["x"]) == "abc"


@given(st.integers(0, len(SOURCE) - 40), st.integers(1, 40), st.text("\n def:xs", min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_kept_tokens_hold_the_text_before_the_stop_and_no_token_more(start, length, stop):
    text = SOURCE[start : start + length]
    token_ids = tiny_tokenizer().encode(text)
    kept = TextStop(tiny_tokenizer(), [stop])(token_ids)
    assert (kept is None) == (stop not in text)
    if kept is not None:
        wanted = text[: text.index(stop)]
        decoded = tiny_tokenizer().decode(token_ids[:kept])
        assert cut_at_stop(decoded, [stop]).startswith(wanted)
        assert decoded[: len(wanted)] == wanted
        assert kept == 0 or len(tiny_tokenizer().decode(token_ids[: kept - 1])) < len(wanted)


def test_an_empty_stop_string_is_refused():
    with pytest.raises(ConfigError, match="must not be empty"):
        TextStop(tiny_tokenizer(), ["a", ""])
