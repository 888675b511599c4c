import gzip
import json

import pytest

from quicksilver.errors import InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.suite import Controlled, Suite
from quicksilver.evaluation.suites import completion
from quicksilver.evaluation.suites.inside.same_answers import is_same
from tests.fake_subjects import FakeSubject
from tests.sandboxes import closed_sandbox

PLUS = {
    "task_id": "HumanEval/0",
    "prompt": "def halves(xs):\n",
    "entry_point": "halves",
    "canonical_solution": "    return [x / 2 for x in xs]\n",
    "contract": "    assert xs\n",
    "base_input": [[[2]]],
    "plus_input": [[[2, -3]]],
    "atol": 0,
}


def plus_file(tmp_path, **changes):
    path = tmp_path / "plus.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(PLUS | changes).encode()))
    return path


def marks_of(suite, *texts: str) -> list[dict[str, float]]:
    return [
        {
            name: each.value
            for name, each in figures(run(suite, FakeSubject(lambda _, t=text: t), suite.items())).items()
        }
        for text in texts
    ]


def test_humaneval_is_asked_with_its_stops_and_judged_by_running():
    suite = completion.humaneval(find_data(completion.HUMANEVAL), closed_sandbox(), count=1, seed=0)
    assert isinstance(suite, Suite)
    assert isinstance(suite, Controlled)
    (item,) = suite.items()
    subject = FakeSubject(lambda texts: item.reference + "\ndef other():\n    oh no")
    (record,) = run(suite, subject, [item])
    ((prompt,), ask) = subject.asked[0]
    assert (prompt, ask.max_tokens, ask.stop) == (item.prompt, 256, ("\nclass", "\ndef", "\n#", "\nif", "\nprint"))
    assert record.mark.values == {"pass@1": 1, "timeout_rate": 0, "compile_rate": 1}
    wrong, broken = marks_of(suite, "    pass\n", "    return (\n")
    assert (wrong["pass@1"], wrong["compile_rate"]) == (0, 1)
    assert (broken["pass@1"], broken["compile_rate"]) == (0, 0)
    assert (suite.about()["sandbox"], suite.about()["stops"]) == ("bwrap+seccomp", [*ask.stop])


def test_more_inputs_tell_what_the_few_do_not(tmp_path):
    suite = completion.humaneval_plus(plus_file(tmp_path), closed_sandbox(), count=None, seed=0)
    lucky = "    return [max(x, 0) / 2 for x in xs]\n"
    right, base, wrong = marks_of(suite, PLUS["canonical_solution"], lucky, "    return []\n")
    assert (right["pass@1"], right["base_pass@1"]) == (1, 1)
    assert (base["pass@1"], base["base_pass@1"]) == (0, 1)
    assert (wrong["pass@1"], wrong["base_pass@1"]) == (0, 0)


def test_an_answer_may_not_change_what_it_is_given(tmp_path):
    suite = completion.humaneval_plus(plus_file(tmp_path), closed_sandbox(), count=None, seed=0)
    (mark,) = marks_of(suite, "    ys = [x / 2 for x in xs]\n    xs.clear()\n    return ys\n")
    assert mark["pass@1"] == 1


def test_zeros_of_polynomials_are_tried_out(tmp_path):
    row = {
        "prompt": "def poly(xs, x):\n    return sum(c * x**i for i, c in enumerate(xs))\n\n\ndef find_zero(xs):\n",
        "entry_point": "find_zero",
        "canonical_solution": "    return 1.0\n",
        "base_input": [[[-1, 0, 1]]],
        "plus_input": [],
        "atol": 1e-4,
    }
    suite = completion.humaneval_plus(plus_file(tmp_path, **row), closed_sandbox(), count=None, seed=0)
    marks = marks_of(suite, "    return -1.0\n", "    return 0.0\n", "    return float('nan')\n", "    pass\n")
    assert [mark["pass@1"] for mark in marks] == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("found", "wanted", "tolerance", "same"),
    [
        (1, 1.0, 0, True),
        (0.1 + 0.2, 0.3, 0, True),
        (0.31, 0.3, 0, False),
        (0.31, 0.3, 0.1, True),
        ([0.1 + 0.2, "a"], [0.3, "a"], 0, True),
        ([(0.1 + 0.2,)], [(0.3,)], 0, True),
        ((1, 2), [1, 2], 0, False),
        ([1.0], [1.0, 2.0], 0, False),
        ("0.3", 0.3, 0, False),
        (None, None, 0, True),
        (True, False, 0, False),
        (float("nan"), 1.0, 0, False),
        (float("inf"), float("inf"), 0, True),
        ({"a": 1}, {"a": 1}, 0, True),
    ],
)
def test_answers_are_the_same_up_to_the_last_digits(found, wanted, tolerance, same):
    assert is_same(found, wanted, float(tolerance)) is same


def test_mbpp_is_the_sanitized_test_split():
    suite = completion.mbpp(find_data(completion.MBPP), closed_sandbox(), count=None, seed=0)
    assert len(suite.items()) == 257
    first = suite.items()[0]
    assert first.item_id == "MBPP/11"
    assert first.prompt.startswith('"""\nWrite a python function to remove first and last occurrence')
    assert first.prompt.count("assert") == 1
    assert first.checks["pass@1"].count("assert") == 3


@pytest.mark.parametrize("content", ["no JSON", '[{"task_id": 11}]', "{}", None])
def test_damaged_problems_are_a_clear_error(tmp_path, content):
    path = tmp_path / "problems.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="cannot read the problems"):
        completion.mbpp(path, closed_sandbox(), count=None, seed=0)


def test_another_humaneval_file_is_told_from_evalplus_own():
    with pytest.raises(InputError, match="line 1 has no atol, base_input, plus_input"):
        completion.humaneval_plus(find_data(completion.HUMANEVAL), closed_sandbox(), count=None, seed=0)
