import pytest

from quicksilver.coding.next_edit import NextEditPrompt, ViewedSnippet, fenced, parse_next_edit
from quicksilver.errors import InputError

PROMPT = """<|recently_viewed_code_snippets|>
<|recently_viewed_code_snippet|>
code_snippet_file_path: src/a.py
A = 1
<|/recently_viewed_code_snippet|>
<|recently_viewed_code_snippet|>
code_snippet_file_path: src/c.py
C = 1

<|/recently_viewed_code_snippet|>
<|/recently_viewed_code_snippets|>

<|current_file_content|>
current_file_path: b.py
import a
<|code_to_edit|>
def f(board<|cursor|>, r):
    b.flag(r)
<|/code_to_edit|>

f(1, 2)
<|/current_file_content|>

<|edit_diff_history|>
--- b.py
+++ b.py
@@ -6,1 +6,1 @@
-def f(b, r):
+def f(board, r):
<|/edit_diff_history|>
"""
PARSED = NextEditPrompt(
    path="b.py",
    before="import a\n",
    region="def f(board, r):\n    b.flag(r)",
    cursor=11,
    after="\nf(1, 2)",
    snippets=(ViewedSnippet(path="src/a.py", code="A = 1"), ViewedSnippet(path="src/c.py", code="C = 1\n")),
    diff_history="--- b.py\n+++ b.py\n@@ -6,1 +6,1 @@\n-def f(b, r):\n+def f(board, r):",
)


def test_every_part_is_found():
    assert parse_next_edit(PROMPT) == PARSED


def test_windows_line_breaks_stay_in_the_code_and_leave_the_tags():
    parsed = parse_next_edit(PROMPT.replace("\n", "\r\n"))
    assert parsed.region == "def f(board, r):\r\n    b.flag(r)"
    assert (parsed.path, parsed.before, parsed.after) == ("b.py", "import a\r\n", "\r\nf(1, 2)")
    assert [(snippet.path, snippet.code) for snippet in parsed.snippets] == [
        ("src/a.py", "A = 1"),
        ("src/c.py", "C = 1\r\n"),
    ]


def test_bodies_may_be_empty_and_extras_absent():
    empty = (
        "<|recently_viewed_code_snippets|>\n\n<|/recently_viewed_code_snippets|>\n\n<|current_file_content|>\n"
        "current_file_path: \n<|code_to_edit|>\n<|cursor|>\n<|/code_to_edit|>\n\n<|/current_file_content|>\n\n"
        "<|edit_diff_history|>\n<|/edit_diff_history|>"
    )
    nothing = NextEditPrompt(path="", before="", region="", cursor=0, after="")
    assert parse_next_edit(empty) == nothing
    assert parse_next_edit(empty[empty.index("<|current") : empty.index("<|edit")]) == nothing


def test_tags_within_lines_are_text():
    code = 'OPEN = "<|code_to_edit|>"\n    <|/current_file_content|>\n'
    changed = PROMPT.replace("import a\n", code).replace("A = 1", "A = '<|cursor|>'")
    parsed = parse_next_edit(changed)
    assert parsed.before == code
    assert parsed.snippets[0].code == "A = '<|cursor|>'"
    assert parsed.region == PARSED.region


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("<|current_file_content|>\n", "", r"<\|current_file_content\|> is missing"),
        ("<|/current_file_content|>\n", "", r"<\|/current_file_content\|> is missing"),
        ("<|code_to_edit|>\n", "", r"<\|code_to_edit\|> is missing"),
        ("<|/code_to_edit|>\n", "<|/code_to_edit|>\n" * 2, r"<\|/code_to_edit\|> stands on 2 lines"),
        ("<|/edit_diff_history|>\n", "", r"<\|/edit_diff_history\|> is missing"),
        ("<|cursor|>", "", r"<\|cursor\|> 0 times"),
        ("<|cursor|>", "<|cursor|><|cursor|>", r"<\|cursor\|> 2 times"),
        ("current_file_path: b.py\n", "", "expected a line 'current_file_path:' first"),
        ("code_snippet_file_path: src/c.py\n", "", "expected a line 'code_snippet_file_path:' first"),
        ("C = 1\n\n<|/recently_viewed_code_snippet|>\n", "", r"\(2 of them\).*\(1\) do not come in pairs"),
        ("<|edit_diff_history|>", "<|/edit_diff_history|>", r"<\|edit_diff_history\|> is missing"),
    ],
)
def test_a_fault_is_named(old, new, message):
    assert old in PROMPT
    with pytest.raises(InputError, match=message):
        parse_next_edit(PROMPT.replace(old, new))


def test_a_prompt_without_file_or_region_is_refused():
    with pytest.raises(InputError, match=r"no <\|current_file_content\|>"):
        parse_next_edit("def f():")
    with pytest.raises(InputError, match=r"has no <\|code_to_edit\|>"):
        parse_next_edit("<|current_file_content|>\ncurrent_file_path: a\n<|/current_file_content|>")
    region = "<|/code_to_edit|>\n<|code_to_edit|>\n"
    with pytest.raises(InputError, match=r"<\|/code_to_edit\|> stands before"):
        parse_next_edit(f"<|current_file_content|>\ncurrent_file_path: a\n{region}<|/current_file_content|>")


def test_replies_are_fenced_exactly():
    assert fenced("x = 1") == "```\nx = 1\n```"
    assert fenced("") == "```\n\n```"
    reply = fenced("a\n```\nb\n")
    assert reply[reply.index("```\n") + 4 : reply.rindex("\n```")] == "a\n```\nb\n"
