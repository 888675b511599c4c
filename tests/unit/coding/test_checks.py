"""Checks of filled files: what they object to, and where."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from quicksilver.coding.checks import CommandCheck, PythonCheck
from quicksilver.errors import CheckError, ConfigError
from quicksilver.sandbox.cages import Level
from tests.sandboxes import require

PYTHON = PythonCheck()


def whole(text: str) -> list[tuple[int, int]]:
    return [(0, len(text))]


def test_right_python_passes():
    text = "def add(a, b):\n    return a + b\n"
    assert PYTHON(text, whole(text)) == []
    assert PYTHON.parts[:2] == ("parse", "compile")


@pytest.mark.parametrize(
    ("text", "message", "piece"),
    [
        ("x = (1\ny = 2\n", "never closed", "("),
        ("def f():\npass\n", "indented block", "pass"),
        ("return 1\n", "outside function", "return 1"),
        ("x = 'abc\n", "unterminated", "'"),
        ("x = '\0'", "null", None),
    ],
)
def test_what_is_no_python_fails_where_the_parser_says(text, message, piece):
    [problem] = PYTHON(text, [])
    assert message in problem.message
    if piece is None:
        assert problem.span is None
    else:
        start, stop = problem.span
        assert text[start:stop] == piece


def test_lint_counts_only_in_what_was_written():
    pytest.importorskip("ruff")
    text = "def f():\r\n    é = missing\r\n    return other\r\n"
    at = text.index("missing")
    [problem] = PYTHON(text, [(at, at + 7)])
    assert problem.message.startswith("F821")
    assert problem.span == (at, at + 7)
    assert len(PYTHON(text, whole(text))) == 2


@given(st.text(st.sampled_from("ab ():=\n\r\t'\"\\#é\x0c") | st.characters(codec="utf-8"), max_size=40))
def test_any_text_is_judged_and_spans_lie_in_it(text):
    for problem in PYTHON(text, [(0, 0)]):
        assert problem.message
        if problem.span is not None:
            assert 0 <= problem.span[0] <= problem.span[1] <= len(text)


@pytest.mark.parametrize("is_confined", [False, True])
def test_a_command_fails_with_the_lines_that_it_names(is_confined):
    if is_confined:
        require(Level.BWRAP)
    text = "import os\nx = 1\ny = undefined\n"
    check = CommandCheck.of("ruff check --isolated --output-format concise --select F821 {}", is_confined=is_confined)
    [problem] = check(text, whole(text))
    assert problem.message.startswith("filled.py:3:5: F821")
    assert text[slice(*problem.span)] == "u"
    assert check(text.replace("undefined", "x"), whole(text)) == []


@pytest.mark.parametrize("is_confined", [False, True])
def test_a_command_without_a_place_for_the_file_reads_it(is_confined):
    if is_confined:
        require(Level.BWRAP)
    check = CommandCheck.of("sh -c 'grep -q wanted || { echo no; exit 4; }'", name="mine", is_confined=is_confined)
    assert check("it is wanted\n", []) == []
    [problem] = check("else\n", [])
    assert (problem.message, problem.span) == ("status 4: no", None)


def test_a_traceback_names_its_line():
    text = "a = 1\nb = 1 / 0\n"
    problems = CommandCheck.of("python3 {}")(text, [])
    assert [text[slice(*each.span)] for each in problems] == ["b = 1 / 0\n"]


def test_a_command_that_takes_too_long_fails():
    [problem] = CommandCheck(("sh", "-c", "sleep 30 & sleep 30"), timeout_s=0.2)("", [])
    assert "longer than 0.2 s" in problem.message


def test_commands_that_cannot_be():
    with pytest.raises(ConfigError, match="empty"):
        CommandCheck.of("")
    with pytest.raises(ConfigError, match="cannot be read"):
        CommandCheck.of("a 'b")
    with pytest.raises(CheckError, match="no-such-tool"):
        CommandCheck.of("no-such-tool {}")("", [])
