import ast
import gzip
import json
from pathlib import Path

import pytest

from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.suite import Controlled, Suite
from quicksilver.evaluation.suites import humaneval
from quicksilver.evaluation.suites.filling import FillSuite, Length
from quicksilver.evaluation.suites.humaneval import MULTI_LINE, RANDOM_SPAN, RANDOM_SPAN_LIGHT, SINGLE_LINE
from tests.fake_subjects import FakeSubject
from tests.sandboxes import closed_sandbox

ROW = {
    "task_id": "some/1",
    "prompt": "def double(x):\n",
    "canonical_solution": "    y = 2 * x\n",
    "suffix": "    return y\n",
    "test": "def check(f):\n    assert f(2) == 4\n",
    "entry_point": "double",
}


def holes_of(which: humaneval.InfillSet, count: int | None) -> FillSuite:
    return humaneval.holes(which, find_data(which.file), count=count, seed=0, length=Length.UNKNOWN)


@pytest.mark.parametrize(
    ("which", "count"), [(SINGLE_LINE, 1033), (MULTI_LINE, 5815), (RANDOM_SPAN, 1640), (RANDOM_SPAN_LIGHT, 164)]
)
def test_the_sets_are_whole_and_every_reference_is_python(which, count):
    items = holes_of(which, None).items()
    assert len({item.item_id for item in items}) == len(items) == count
    for item in items[::10]:
        ast.parse(item.prefix + item.middle + item.suffix)
    if which.has_whole_lines:
        assert all(item.middle.strip() and item.middle.index("\n") == len(item.middle) - 1 for item in items)


def test_every_reference_is_judged_right_by_its_text():
    suite = holes_of(SINGLE_LINE, None)
    answers = {(item.prefix, item.suffix): item.middle for item in suite.items()}
    found = figures(run(suite, FakeSubject(answers.__getitem__), suite.items()))
    assert [found[name].low for name in ("exact_match", "parse_rate", "compile_rate")] == [1, 1, 1]
    nothing = figures(run(suite, FakeSubject(lambda texts: ""), suite.items()[:50]))
    assert nothing["exact_match"].high == 0


def test_an_answer_that_works_passes_whatever_its_text(tmp_path):
    path = tmp_path / "tasks.jsonl"
    path.write_text(json.dumps(ROW))
    fills = humaneval.holes(SINGLE_LINE, path, count=None, seed=0, length=Length.UNKNOWN)
    suite = humaneval.executed(fills, path, closed_sandbox())
    assert isinstance(suite, Suite)
    assert isinstance(suite, Controlled)
    expected = {
        "    y = 2 * x\n": (1, 1, ""),
        "    y = x + x\n": (1, 0, ""),
        "    y = x\n": (0, 0, "failed: AssertionError (checks.py, line 2)"),
        ")(": (0, 0, "failed: SyntaxError: unmatched ')' (program.py, line 2)"),
        "    import os; os._exit(0)\n": (0, 0, "crashed: left the interpreter with status 0 before its end"),
    }
    for text, (passes, is_exact, detail) in expected.items():
        (record,) = run(suite, FakeSubject(lambda texts, text=text: text), suite.items())
        values = record.mark.values
        assert (values["pass@1"], values["exact_match"], values["timeout_rate"]) == (passes, is_exact, 0)
        assert record.mark.detail.startswith(detail)
        assert bool(record.mark.detail) is bool(detail)
    about = suite.about()
    assert (about["sandbox"], about["sandbox_mode"], about["length"]) == ("bwrap+seccomp", "fast", "unknown")


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"not json\n"), gzip.compress(b'{"task_id": "x"}\n'), gzip.compress(b""), None],
    # Compressed bytes hold the time, and parallel test processes must agree on every name.
    ids=["no gzip", "no JSON", "no task", "nothing", "no file"],
)
def test_a_damaged_suite_is_a_clear_error(tmp_path: Path, content: bytes | None):
    path = tmp_path / "tasks.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the tasks"):
        humaneval.read_tasks(path)


def test_a_sample_is_no_larger_than_the_set_and_only_one_line_is_asked_for_as_such():
    with pytest.raises(ConfigError, match=r"1\.\.1033"):
        holes_of(SINGLE_LINE, 2000)
    with pytest.raises(ConfigError, match="no single lines"):
        humaneval.holes(MULTI_LINE, find_data(MULTI_LINE.file), count=1, seed=0, length=Length.ONE_LINE)
