from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.coding.next_edit import parse_next_edit
from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.subject import MALFORMED, REFUSED, Answer
from quicksilver.evaluation.suite import Controlled, Suite
from quicksilver.evaluation.suites import repair
from quicksilver.evaluation.suites.filling import Length
from quicksilver.evaluation.suites.repair import RepairItem, RepairSuite, changed_lines, hole_of
from tests.fake_subjects import FakeSubject
from tests.sandboxes import closed_sandbox

DATA = {"humaneval-fix": repair.HUMANEVAL_FIX, "quixbugs": repair.QUIXBUGS}
LINES = st.lists(st.sampled_from(["a", "b", "    c"]), max_size=6).map(lambda lines: "".join(f"{x}\n" for x in lines))
ITEM = RepairItem(
    item_id="some/1",
    path="double.py",
    before='"""Twice."""\n\n',
    faulty="def double(x):\n    y = x\n    return y\n",
    mended="def double(x):\n    y = 2 * x\n    return y\n",
    checks="assert double(2) == 4",
    fault="operator",
)


def suite_of() -> RepairSuite:
    return RepairSuite(name="some", functions=(ITEM,), sandbox=closed_sandbox(), source={})


def values_of(write: Callable[[str], str]) -> dict[str, float]:
    found = figures(run(suite_of(), FakeSubject(lambda texts: write(texts[0])), [ITEM]))
    return {name: each.value for name, each in found.items()}


def test_the_function_is_the_region_and_nothing_tells_where_the_fault_is():
    suite, subject = suite_of(), FakeSubject(lambda texts: ITEM.mended)
    assert isinstance(suite, Suite)
    assert isinstance(suite, Controlled)
    run(suite, subject, [ITEM], seed=3, temperature=0.5)
    ((prompt,), ask) = subject.asked[0]
    known = parse_next_edit(prompt)
    assert (known.path, known.before, known.region, known.after) == ("double.py", ITEM.before, ITEM.faulty, "")
    assert (known.cursor, known.snippets, known.history) == (None, (), "")
    assert (ask.seed, ask.temperature, ask.stop) == (3, 0.5, ())


def test_a_mended_function_passes_and_a_kept_one_is_no_change():
    expected = {
        ITEM.mended: (1, 1, 0, 1, 1.0),
        ITEM.mended.removesuffix("\n"): (1, 1, 0, 1, 1.0),  # as the route answers
        "def double(x):\n    return 2 * x\n": (1, 1, 0, 1, 2.0),
        ITEM.faulty: (0, 1, 1, 1, None),
        "def double(x):\n    y = (x\n    return y\n": (0, 1, 0, 0, 1.0),
        "": (0, 1, 0, 1, 3.0),
    }
    for text, wanted in expected.items():
        found = values_of(lambda _, text=text: text)
        names = ("pass@1", "apply_rate", "no_change_rate", "compile_rate", "locality")
        assert tuple(found.get(name) for name in names) == wanted, text


@pytest.mark.parametrize("reason", [REFUSED, MALFORMED, "length"])
def test_what_is_no_whole_edit_is_not_applied_and_not_run(reason: str):
    answer = Answer(texts=(ITEM.mended,), num_tokens=1, nfe=None, seconds=0.1, finish_reason=reason)
    good = Answer(texts=(ITEM.mended,), num_tokens=1, nfe=None, seconds=0.1, finish_reason="stop")
    bad, mended = suite_of().judge([(ITEM, answer), (ITEM, good)])
    assert (bad.values["pass@1"], bad.values["apply_rate"], bad.detail) == (0, 0, "no edit")
    assert mended.values["pass@1"] == 1


def test_who_does_not_edit_is_told_what_may_be_asked():
    class Filler(FakeSubject):
        edit = None

    with pytest.raises(ConfigError, match="some-located"):
        run(suite_of(), Filler(lambda texts: ""), [ITEM])


@given(LINES, LINES)
def test_changed_lines_are_none_only_of_equal_texts(old: str, new: str):
    count = changed_lines(old, new)
    assert (count == 0) == (old.rstrip() == new.rstrip())
    assert count <= max(old.count("\n"), new.count("\n"), 1)
    assert changed_lines(old, old + "\n \n") == 0


@pytest.mark.parametrize("name", list(DATA))
def test_a_located_fault_is_the_hole_whose_reference_mends_the_function(name: str):
    functions = repair.read_functions(name, find_data(DATA[name]))
    assert len({item.item_id for item in functions}) == {"humaneval-fix": 164, "quixbugs": 40}[name]
    for item in functions:
        hole = hole_of(item)
        assert hole.prefix + hole.middle + hole.suffix == item.before + item.mended
        assert (item.before + item.faulty).startswith(hole.prefix)
        assert (item.before + item.faulty).endswith(hole.suffix)
    one_line = sum(changed_lines(item.faulty, item.mended) == 1 for item in functions)
    assert one_line > 0.8 * len(functions)


def test_a_located_fault_is_filled_and_run():
    path = find_data(DATA["quixbugs"])
    suite = repair.located("quixbugs", path, closed_sandbox(), count=1, seed=0, length=Length.UNKNOWN)
    (item,) = suite.items()
    (record,) = run(suite, FakeSubject(lambda texts: item.middle), [item])
    assert (record.mark.values["pass@1"], record.mark.values["exact_match"]) == (1, 1)
    assert suite.name == "quixbugs-located"


@pytest.mark.parametrize("content", ["no JSON", "{}", "[]", None])
def test_damaged_functions_are_a_clear_error(tmp_path, content):
    path = tmp_path / "functions.jsonl"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="cannot read the functions"):
        repair.read_functions("quixbugs", path)
