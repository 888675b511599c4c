"""Suites of prompts: references are right, empty answers wrong, and other right answers count."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from quicksilver.errors import InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.suites.json_documents import MOST_SCHEMA_CHARS, json_suite, judge_json
from quicksilver.evaluation.suites.prompting import PromptItem, PromptSuite
from quicksilver.evaluation.suites.puzzles import (
    COUNTDOWN,
    SUDOKU,
    countdown,
    judge_countdown,
    judge_sudoku,
    solve,
    sudoku,
)
from tests.fake_subjects import FakeSubject


def suites() -> list[PromptSuite]:
    return [
        json_suite(count=None, seed=0),
        sudoku(find_data(SUDOKU), count=None, seed=0),
        countdown(find_data(COUNTDOWN), count=None, seed=0),
    ]


@pytest.mark.parametrize(("number", "count"), [(0, 1000), (1, 500), (2, 256)])
def test_references_are_right_and_empty_answers_wrong(number: int, count: int):
    suite = suites()[number]
    items = suite.items()
    assert (len(items), len({item.item_id for item in items})) == (count, count)
    answers = {item.prompt: item.reference for item in items}
    right = figures(run(suite, FakeSubject(lambda texts: answers[texts[0]]), items))
    assert right[suite.headline].low == 1
    empty = figures(run(suite, FakeSubject(lambda texts: ""), items))
    assert all(interval.high == 0 for name, interval in empty.items() if name not in ("seconds", "nfe"))


def test_schemas_are_schemas_and_repeat():
    suite = json_suite(count=200, seed=3)
    for item in suite.items():
        Draft202012Validator.check_schema(item.given)
        assert len(json.dumps(item.given)) <= MOST_SCHEMA_CHARS
        assert json.dumps(item.given) in item.prompt
    assert json_suite(count=50, seed=3).items() == suite.items()[:50]
    assert json_suite(count=50, seed=4).items() != suite.items()[:50]
    kinds = json.dumps([item.given for item in suite.items()])
    assert all(f'"{word}"' in kinds for word in ("enum", "integer", "number", "boolean", "array", "minLength"))


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ('{"a": 1}', (1, 1, 1)),
        (' {"a": 1}\n# and more', (1, 1, 0)),
        ('{"a": "1"}', (0, 1, 1)),
        ('{"a": 1.5}', (0, 1, 1)),
        ("3", (0, 1, 1)),
        ('{"a": NaN}', (0, 0, 0)),
        ("{'a': 1}", (0, 0, 0)),
        ('{"a": 1', (0, 0, 0)),
        ("[" * 100_000, (0, 0, 0)),
    ],
)
def test_json_is_judged(text: str, marks: tuple[int, int, int]):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    mark = judge_json(PromptItem(item_id="0", prompt="", reference="", given=schema), text)
    assert tuple(mark.values[name] for name in ("valid_rate", "parse_rate", "clean_rate")) == marks


@pytest.mark.parametrize(
    ("text", "is_solved", "num_right"),
    [
        (" 1234341221434321", 1, 8),
        ("1234 3412\n2143 4321", 1, 8),
        ("the solution: 1234341221434321!", 1, 8),
        ("1234341221434312", 0, 7),
        ("123434122143432", 0, 0),
        ("1111111111111111", 0, 1),
    ],
)
def test_sudoku_is_judged(text: str, is_solved: int, num_right: int):
    given = {"puzzle": "1200041020030301", "solution": "1234341221434321"}
    mark = judge_sudoku(PromptItem(item_id="0", prompt="", reference="", given=given), text)
    assert mark.values["solve_rate"] == is_solved
    assert mark.ratios["cell_accuracy"] == (num_right, 8)


def test_any_right_solution_of_a_sudoku_counts():
    given = {"puzzle": "0" * 16, "solution": "1234341221434321"}
    mark = judge_sudoku(PromptItem(item_id="0", prompt="", reference="", given=given), "2143432112343412")
    assert (mark.values["solve_rate"], mark.ratios["cell_accuracy"]) == (1, (0, 16))


@pytest.mark.parametrize(
    ("text", "is_solved", "is_read"),
    [
        ("2 * 3 + 7", 1, 1),
        (" (3 * 2) + 7 = 13\n", 1, 1),
        ("7 - (-6)", 0, 0),
        ("13", 0, 1),
        ("2 * 3 + 7 + 7 - 7", 0, 1),
        ("2 ** 3 + 5", 0, 0),
        ("3 / (2 - 2)", 0, 0),
        ("6.0 + 7", 0, 0),
        ("True + 12", 0, 0),
        ("print(13)", 0, 0),
        ("(" * 5000, 0, 0),
        ("2 * 3 +", 0, 0),
    ],
)
def test_countdown_is_judged_and_never_run(text: str, is_solved: int, is_read: int):
    item = PromptItem(item_id="0", prompt="", reference="", given={"numbers": [2, 3, 7], "target": 13})
    assert judge_countdown(item, text).values == {"solve_rate": is_solved, "parse_rate": is_read}


def test_solutions_are_found_where_there_are_any():
    assert solve([2, 3, 7], 10_000) is None
    given = {"numbers": [1, 2, 5], "target": 8}
    expression = solve([1, 2, 5], 8)
    assert expression is not None
    assert judge_countdown(PromptItem(item_id="0", prompt="", reference="", given=given), expression).values[
        "solve_rate"
    ]


@pytest.mark.parametrize(
    ("make", "content"),
    [
        (sudoku, "Puzzle,Solution\n1200,1234\n"),
        (sudoku, "Puzzle\n1200041020030301\n"),
        (sudoku, "Puzzle,Solution\n2200041020030301,1234341221434321\n"),
        (countdown, "not json\n"),
        (countdown, '{"input": "2,3,7", "output": "10000"}\n'),
    ],
)
def test_a_damaged_set_is_a_clear_error(tmp_path: Path, make, content: str):
    (tmp_path / "set").write_text(content)
    for path in (tmp_path / "set", tmp_path / "none"):
        with pytest.raises(InputError, match="cannot read the puzzles"):
            make(path, count=None, seed=0)
