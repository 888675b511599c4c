"""The next-edit prompt: read as rendered, and as a client sends it."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from quicksilver.coding.next_edit import NextEdit, Snippet, fenced, parse_next_edit, render
from quicksilver.errors import InputError

# A prompt as the documentation of the service prints it (research: product.md, section 1).
SENT = """<|recently_viewed_code_snippets|>
<|recently_viewed_code_snippet|>
code_snippet_file_path: src/a.py
x = 1
<|/recently_viewed_code_snippet|>
<|/recently_viewed_code_snippets|>

<|current_file_content|>
current_file_path: b.py
import board
<|code_to_edit|>
def f(board<|cursor|>, r):
    b.flag(r)
<|/code_to_edit|>
print(f)
<|/current_file_content|>

<|edit_diff_history|>
--- b.py
+++ b.py
@@ -6,1 +6,1 @@
-def f(b, r):
+def f(board, r):
<|/edit_diff_history|>
"""
LINES = st.lists(st.text(st.sampled_from("ab ():<|>/é"), max_size=12).map(lambda line: line + "\n"), max_size=4).map(
    "".join
)
PATHS = st.text(st.sampled_from("ab/._"), min_size=1, max_size=8)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_prompt_as_sent(end):
    edit = parse_next_edit(SENT.replace("\n", end))
    assert edit.path == "b.py"
    assert edit.before == "import board\n"
    assert edit.region == "def f(board, r):\n    b.flag(r)\n"
    assert edit.cursor == len("def f(board")
    assert edit.after == "print(f)\n"
    assert edit.snippets == (Snippet(path="src/a.py", text="x = 1\n"),)
    assert edit.history.endswith("+def f(board, r):\n")


@given(
    path=PATHS,
    before=LINES,
    region=LINES,
    after=LINES,
    history=LINES,
    snippets=st.lists(st.builds(Snippet, path=PATHS, text=LINES), max_size=2).map(tuple),
    at=st.none() | st.integers(0, 50),
)
def test_what_is_rendered_is_read(path, before, region, after, history, snippets, at):
    edit = NextEdit(
        path=path,
        before=before,
        region=region,
        after=after,
        cursor=None if at is None or not region else min(at, len(region) - 1),
        snippets=snippets,
        history=history,
    )
    assert parse_next_edit(render(edit)) == edit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("<|current_file_content|>\n", ""), "current_file_content"),
        (("<|code_to_edit|>\n", ""), "code_to_edit"),
        (("<|/code_to_edit|>\n", "<|/code_to_edit|>\n<|/code_to_edit|>\n"), "found 1 and 2"),
        (("current_file_path: b.py\n", ""), "current_file_path: PATH"),
        (("b.flag(r)", "b.flag(<|cursor|>r)"), "2 <|cursor|>"),
    ],
)
def test_malformed_prompts_are_refused(change, words):
    with pytest.raises(InputError) as error:
        parse_next_edit(SENT.replace(*change))
    assert words in str(error.value)


def test_a_prompt_without_a_file_is_refused():
    with pytest.raises(InputError, match="no file to edit"):
        parse_next_edit("hello")


def test_the_fence_is_closed():
    assert fenced("a\n") == "```\na\n\n```"
