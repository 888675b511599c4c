"""Editors' prompts: what is rendered is parsed, what is malformed is refused by name."""

import hypothesis.strategies as st
import pytest
from hypothesis import assume, given

from quicksilver.coding.dialects import DIALECTS, parse_fim, render
from quicksilver.errors import InputError

SIGNS = [sign for dialect in DIALECTS for sign in (dialect.prefix, dialect.suffix, dialect.middle) if sign]
CODE = st.text(st.sampled_from("ab \n()<>|[]:é"), max_size=40)


@given(dialect=st.sampled_from(DIALECTS), prefix=CODE, suffix=CODE)
def test_what_a_client_renders_is_parsed(dialect, prefix, suffix):
    whole = render(dialect, prefix, suffix)
    assume(all(whole.count(sign) == 1 for sign in (dialect.prefix, dialect.suffix, dialect.middle) if sign))
    found = parse_fim(whole)
    assert (found.dialect, found.prefix, found.suffix) == (dialect.name, prefix, suffix)


@given(CODE)
def test_plain_code_is_no_such_prompt(code):
    assert parse_fim(code) is None


@pytest.mark.parametrize("sign", SIGNS)
def test_code_that_mentions_one_sentinel_is_plain(sign):
    assert parse_fim(f"print('{sign}')") is None


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("<|fim_suffix|>b<|fim_prefix|>a<|fim_middle|>", "order"),
        ("<|fim_prefix|>a<|fim_suffix|>b", "<|fim_middle|> exactly once"),
        ("<|fim_prefix|>a<|fim_suffix|>b<|fim_suffix|>c<|fim_middle|>", "<|fim_suffix|> exactly once"),
        ("<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>c", "nothing may follow"),
        ("[PREFIX]a[SUFFIX]b", "order"),
    ],
)
def test_malformed_prompts_are_refused(prompt, words):
    with pytest.raises(InputError, match="(?s)" + words.replace("|", r"\|")):
        parse_fim(prompt)
