"""Texts of calls, cut anywhere, come out as the same calls."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.constraints.tool_calls import ToolForm
from quicksilver.server.tool_reading import Argued, Begun, Said, ToolReader

MARKED = ToolForm(opening="<tool_call>\n", closing="\n</tool_call>", between="\n", separators="spaced")
BARE = ToolForm()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet='ab"\\{}[]é\n<', max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
ARGUMENTS = st.dictionaries(st.text(max_size=4), JSON, max_size=3)
CALL = st.tuples(st.sampled_from(["add", "get-time", "x_1"]), ARGUMENTS)


def written(form, name, arguments):
    separators = (", ", ": ") if form.separators == "spaced" else (",", ":")
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, separators=separators)
    return form.opening + body + form.closing


def read(reader, text, cuts):
    bounds = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [p for begin, end in itertools.pairwise(bounds) for p in reader.take(text[begin:end])]
    return [*pieces, *reader.end()]


def gathered(pieces):
    said = "".join(piece.text for piece in pieces if isinstance(piece, Said))
    names = {piece.index: piece.name for piece in pieces if isinstance(piece, Begun)}
    found = {index: "" for index in names}
    for piece in pieces:
        if isinstance(piece, Argued):
            found[piece.index] += piece.text
    return said, [(names[index], json.loads(found[index])) for index in sorted(names)]


@given(
    before=st.text(alphabet="<tool_call>\n ab", max_size=10).filter(lambda text: MARKED.opening not in text),
    calls=st.lists(CALL, max_size=3),
    cuts=st.lists(st.integers(0, 300), max_size=12),
)
def test_text_and_calls_wherever_they_are_cut(before, calls, cuts):
    reader = ToolReader(MARKED, has_text=True)
    text = before + MARKED.between.join(written(MARKED, *call) for call in calls)
    assert gathered(read(reader, text, cuts)) == (before, calls)
    assert reader.is_whole
    assert reader.num_calls == len(calls)


@given(call=CALL, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_bare_json(call, cuts):
    reader = ToolReader(BARE, has_text=False)
    pieces = read(reader, written(BARE, *call), cuts)
    assert gathered(pieces) == ("", [call])
    assert len([piece for piece in pieces if isinstance(piece, Begun)]) == 1
    assert reader.is_whole


@pytest.mark.parametrize("length", [5, 20, 40])
def test_a_call_that_is_cut_is_not_whole(length):
    reader = ToolReader(MARKED, has_text=False)
    read(reader, written(MARKED, "add", {"text": "a" * 30})[:length], [])
    assert not reader.is_whole
