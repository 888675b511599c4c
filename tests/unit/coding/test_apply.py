import itertools
import re
from pathlib import Path

import pytest

from quicksilver.coding.apply import Merge, merge, parse_apply, verify
from quicksilver.coding.apply.markers import is_marker
from quicksilver.errors import InputError, MergeError


def cases() -> list:
    """Every ``##### name`` of the case files, as a list of (section, text)."""
    found = []
    for path in sorted((Path(__file__).parent / "apply_cases").glob("*.txt")):
        for case in re.split(r"^##### ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            name, _, body = case.partition("\n")
            parts = re.split(r"^=== (.*)\n", body, flags=re.MULTILINE)[1:]
            sections = list(zip(parts[::2], parts[1::2], strict=True))
            found.append(pytest.param(sections, id=f"{path.stem}: {name}"))
    return found


def resolved(merged: Merge) -> list[str]:
    picks = itertools.product(*(range(len(hole.candidates)) for hole in merged.holes))
    return [merged.resolve(pick) for pick in picks]


@pytest.mark.parametrize("sections", cases())
def test_case(sections):
    (_, original), (_, snippet), (kind, wanted), *others = sections
    if kind == "error":
        with pytest.raises(MergeError, match=re.escape(wanted.strip())):
            merge(original, snippet)
        return
    merged = merge(original, snippet)
    assert merged.text == wanted
    assert resolved(merged) == [wanted, *(text for _, text in others)]


ORIGINAL = "def f(x):\n    y = x\n    return y\n\n\ndef g(x):\n    z = x\n    return z\n"
SNIPPET = "def g(x):\n    # ...\n    print(x)\n    return z"
MERGED = "def f(x):\n    y = x\n    return y\n\n\ndef g(x):\n    z = x\n    print(x)\n    return z\n"


def test_windows_line_breaks_stay_whatever_the_snippet_has():
    assert merge(ORIGINAL.replace("\n", "\r\n"), SNIPPET).text == MERGED.replace("\n", "\r\n")
    assert merge(ORIGINAL, SNIPPET.replace("\n", "\r\n")).text == MERGED


def test_a_missing_last_line_break_stays_missing():
    assert merge(ORIGINAL.removesuffix("\n"), SNIPPET).text == MERGED.removesuffix("\n")
    longer = "# ...\n    return z\n\n\nprint(1)\n"
    assert merge(ORIGINAL.removesuffix("\n"), longer).text == ORIGINAL + "\n\nprint(1)"


def test_lines_outside_the_edit_keep_tabs_blanks_and_odd_characters():
    odd = 'def f(x):\n\ty = "\x0c\u2028"  \n\treturn y \t\n\n \ndef g(x):\n    z = x\n    return z\n'
    assert merge(odd, SNIPPET).text == odd.replace("    return z", "    print(x)\n    return z")


def test_candidates_are_texts_of_the_hole_and_the_first_is_shown():
    original = "def f(x):\n    if x > 2:\n        return None\n    if x > 1:\n        return None\n    return x\n"
    merged = merge(original, "def f(x):\n    # ...\n        log(x)\n        return None\n    # ...\n")
    (hole,) = merged.holes
    assert merged.text[hole.start : hole.end] == hole.candidates[0]
    assert merged.resolve([0]) == merged.text
    with pytest.raises(MergeError, match="0 picks for 1 holes"):
        merged.resolve([])
    with pytest.raises(MergeError, match="candidate 2 of a hole that has 2"):
        merged.resolve([2])


def test_an_empty_file_takes_the_snippet_and_no_markers():
    assert merge("", "x = 1").text == "x = 1\n"
    with pytest.raises(MergeError, match="markers stand for nothing"):
        merge("\n", "x = 1\n# ... existing code ...\n")
    with pytest.raises(MergeError, match="the snippet is empty"):
        merge("x = 1\n", " \n")


@pytest.mark.parametrize(
    "line",
    [
        "# ... existing code ...",
        "    # ...",
        "// ... rest of the function ...",
        "/* ... */",
        "<!-- ... existing items ... -->",
        "{/* ... existing code ... */}",
        "-- ... unchanged ...",
        "# …",
        "# ... (keep the other methods) ...",
        "# [... existing code ...]",
        "# existing code ...",
        "# rest of the function unchanged",
        "// existing code",
        "...",
    ],
)
def test_markers(line):
    assert is_marker(line)


@pytest.mark.parametrize(
    "line",
    [
        "x = ...",
        "# Loading...",
        "# ... and then it rains",
        "# The rest is silence",
        "print('# ...')",
        "# existing",
        "",
        "#",
    ],
)
def test_other_lines_are_no_markers(line):
    assert not is_marker(line)


def test_a_weak_marker_that_the_original_has_is_code():
    assert not is_marker("...", {"..."})
    assert not is_marker("# rest of the code", {"# rest of the code"})
    assert is_marker("# ... existing code ...", {"# ... existing code ..."})


def test_a_sound_merge_is_verified():
    verify(ORIGINAL, SNIPPET, MERGED)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("    y = x\n", "", "'y = x' is gone"),
        ("    print(x)\n", "", r"'print\(x\)' is not in the merged file"),
        ("    y = x\n", "    y = 2\n", "'y = 2' is neither"),
        ("    z = x\n", "    # ...\n", "'# ...' is neither"),
        (
            "    y = x\n    return y\n",
            "    return y\n    y = x\n",
            "neither the original's nor the snippet's in their order",
        ),
        ("    y = x\n", "    y = x\n" * 2, "'y = x' is neither"),
        ("def f(x):\n", "", "not valid Python"),
    ],
)
def test_an_unsound_merge_is_refused(old, new, message):
    assert old in MERGED
    with pytest.raises(MergeError, match=message):
        verify(ORIGINAL, SNIPPET, MERGED.replace(old, new))


def test_what_a_marker_stands_for_must_stay():
    snippet = "def g(x):\n    # ...\n    return z\n"
    verify(ORIGINAL, snippet, ORIGINAL)
    with pytest.raises(MergeError, match="'z = x' is gone"):
        verify(ORIGINAL, snippet, ORIGINAL.replace("    z = x\n", ""))


def test_brackets_are_counted_where_nothing_parses():
    with pytest.raises(MergeError, match="brackets"):
        verify("f { }\ng\n", "f { }\n}\n// ...\n", "f { }\n}\ng\n")


def test_apply_prompts_of_three_services():
    mercury = "<|original_code|>\na\n\n<|/original_code|>\n\n<|update_snippet|>\n// ...\nb\n<|/update_snippet|>"
    prompt = parse_apply(mercury)
    assert (prompt.original, prompt.snippet, prompt.instruction) == ("a\n", "// ...\nb", "")
    morph = "<instruction>do it</instruction>\n<code>a\n</code>\n<update>b</update>"
    prompt = parse_apply(morph)
    assert (prompt.original, prompt.snippet, prompt.instruction) == ("a", "b", "do it")
    prompt = parse_apply('{"initial_code": "a\\n", "edit_snippet": "b", "stream": false}')
    assert (prompt.original, prompt.snippet) == ("a\n", "b")


def test_tags_within_lines_of_an_apply_prompt_are_code():
    code = 'TAG = "<|original_code|>"'
    text = f"<|original_code|>\n{code}\n<|/original_code|>\n<|update_snippet|>\nb\n<|/update_snippet|>"
    assert parse_apply(text).original == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge this", "not an apply prompt"),
        ("<|original_code|>a<|/original_code|>", r"<\|update_snippet\|> is missing"),
        ("<|original_code|>a<|update_snippet|>b<|/update_snippet|>", r"<\|/original_code\|> is missing"),
        ("<code>a</code><code>b</code><update>c</update>", "<code> stands in 2 places"),
        ("</code>a<code><update>c</update>", "</code> stands before <code>"),
        ('{"initial_code": "a"}', r"got \['initial_code'\]"),
        ("{initial_code", "must be JSON"),
    ],
)
def test_malformed_apply_prompts_are_refused_by_name(text, message):
    with pytest.raises(InputError, match=message):
        parse_apply(text)
