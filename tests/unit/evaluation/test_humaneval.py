import ast
import gzip
from pathlib import Path

import pytest

from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.suites import humaneval
from quicksilver.evaluation.suites.filling import Length
from tests.fake_subjects import FakeSubject


def test_the_set_is_whole_and_every_reference_is_judged_right():
    suite = humaneval.single_line(find_data(humaneval.SINGLE_LINE), count=None, seed=0, length=Length.UNKNOWN)
    items = suite.items()
    assert len({item.item_id for item in items}) == 1033
    for item in items:
        assert item.middle.strip()
        assert item.middle.index("\n") == len(item.middle) - 1
        ast.parse(item.prefix + item.middle + item.suffix)
    answers = {(item.prefix, item.suffix): item.middle for item in items}
    found = figures(run(suite, FakeSubject(answers.__getitem__), items))
    assert [found[name].low for name in ("exact_match", "parse_rate", "compile_rate")] == [1, 1, 1]
    nothing = figures(run(suite, FakeSubject(lambda texts: ""), items[:50]))
    assert nothing["exact_match"].high == 0


@pytest.mark.parametrize(
    "content",
    [b"not gzip", gzip.compress(b"not json\n"), gzip.compress(b'{"task_id": "x"}\n'), None],
    # Compressed bytes hold the time, and parallel test processes must agree on every name.
    ids=["no gzip", "no JSON", "no task", "no file"],
)
def test_a_damaged_suite_is_a_clear_error(tmp_path: Path, content: bytes | None):
    path = tmp_path / "tasks.jsonl.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the tasks"):
        humaneval.read_tasks(path)


def test_a_sample_is_no_larger_than_the_set():
    with pytest.raises(ConfigError, match=r"1\.\.1033"):
        humaneval.single_line(find_data(humaneval.SINGLE_LINE), count=2000, seed=0, length=Length.UNKNOWN)
