"""`quicksilver generate` and `quicksilver demo`."""

import ast
from pathlib import Path

import pytest

from quicksilver.cli.demo import DEFAULT_FILE


def test_prompts_come_from_argument_file_or_stdin(quicksilver, folder, tmp_path):
    (tmp_path / "start.py").write_text("def mean")
    common = ("--model", folder, "--max-tokens", "4", "--seed", "0")
    by_argument = quicksilver("generate", "def mean", *common)
    by_file = quicksilver("generate", "--file", str(tmp_path / "start.py"), *common)
    by_stdin = quicksilver("generate", "-", *common, stdin="def mean")
    assert by_argument.status == 0
    assert by_argument.out
    assert by_argument == by_file == by_stdin


def test_json_reports_the_continuation(quicksilver, folder):
    report = quicksilver("generate", "def", "--model", folder, "--max-tokens", "4", "--json").json
    assert report["text"] == report["holes"][0]["text"]
    assert report["num_tokens"] <= 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("PROMPT", "--file")),
        (("a", "--file", "b.py"), ("PROMPT", "--file", "both")),
        (("a", "--max-tokens", "0"), ("max_tokens", "0")),
        (("a" * 500,), ("128", "context")),
    ],
)
def test_bad_prompts_are_one_line_and_status_2(quicksilver, folder, arguments, words):
    outcome = quicksilver("generate", *arguments, "--model", folder)
    assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1)
    assert all(word in outcome.err for word in words)


def test_demo_fills_and_judges(quicksilver, folder, tmp_path):
    source = tmp_path / "draft.py"
    source.write_text("a = [0]\n# <FILL>\nb = <FILL>\n")
    outcome = quicksilver("demo", str(source), "--model", folder)
    assert outcome.status == 0
    for word in ("2 holes", "forward 1:", "pars", "NFE", "TPF", "tokens/s"):
        assert word in outcome.out


def test_the_shipped_example_is_python_with_holes():
    text = (Path(__file__).parents[3] / DEFAULT_FILE).read_text()
    assert 3 <= text.count("<FILL>") <= 4
    ast.parse(text.replace("<FILL>", "None"))
