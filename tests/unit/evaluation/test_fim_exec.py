import ast
import zipfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest

from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.data import find_data
from quicksilver.evaluation.running import run
from quicksilver.evaluation.suites import fim_exec
from quicksilver.evaluation.suites.filling import Length
from quicksilver.evaluation.suites.fim_exec import BODY, STATEMENT, Place
from quicksilver.evaluation.validation import validate
from tests.fake_subjects import FakeSubject
from tests.sandboxes import closed_sandbox

SHORTEST = '''"""Paths."""
import os


def double(x):
    """Twice."""
    y = x
    if y: y += 0
    y += (
        x
    )
    return y


def tiny():
    return 1


class Class:
    def method(self):
        a = 1
        b = 2
        return a + b
'''
TESTS = """
import networkx
from networkx.parts.paths import double

def test_double():
    assert double(2) == 4 and networkx.__name__ == "networkx"

def test_others_are_kept_away():
    import pytest
    with pytest.raises(ModuleNotFoundError):
        import hypothesis
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A package by networkx' name, with a module, its test file, and a module without."""
    root = tmp_path_factory.mktemp("site")
    for name, text in {
        "__init__.py": "",
        "parts/__init__.py": "",
        "parts/paths.py": SHORTEST,
        "parts/untested.py": SHORTEST,
        "parts/tests/__init__.py": "",
        "parts/tests/test_paths.py": TESTS,
    }.items():
        path = root / "networkx" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def list_of(root: Path, path: Path) -> Path:
    fim_exec.write_places(path, list(fim_exec.find_places(root)), root, ["a remark"])
    return path


def test_places_are_bodies_and_statements_of_tested_functions(root):
    places = list(fim_exec.find_places(root))
    assert [(place.module, place.function, place.kind) for place in places] == [
        ("parts/paths.py", "double", BODY),
        ("parts/paths.py", "double", STATEMENT),
    ]
    body, statement = places
    assert (body.start, body.end) == (7, 12)
    assert (statement.start, statement.end) in {(7, 7), (9, 11), (12, 12)}
    assert body.test_file == "parts/tests/test_paths.py"
    assert places == list(fim_exec.find_places(root))


def test_a_list_says_what_it_was_made_from(root, tmp_path):
    path = list_of(root, tmp_path / "holes.tsv")
    places, made_from = fim_exec.read_places(path)
    assert places == list(fim_exec.find_places(root))
    assert made_from == fim_exec.fingerprint(root, places)
    other = tmp_path / "networkx" / "parts"
    other.mkdir(parents=True)
    (other.parent / "__init__.py").touch()
    with pytest.raises(InputError, match=r"not networkx 3\.6\.1 as it was published.*--package"):
        fim_exec.fim_exec(path, tmp_path, closed_sandbox(), count=None, seed=0, length=Length.UNKNOWN)


def test_answers_are_judged_by_the_tests_of_the_package(root, tmp_path):
    path = list_of(root, tmp_path / "holes.tsv")
    suite = fim_exec.fim_exec(path, root, closed_sandbox(), count=2, seed=0, length=Length.UNKNOWN)
    body = next(item for item in suite.items() if item.kind == BODY)
    expected = {
        body.middle: (1, ""),
        "    return 2 * x\n": (1, ""),
        "    return x\n": (0, "failed: AssertionError: test_double: "),
        "    return (\n": (0, "failed: AssertionError: "),
        "    import os; os._exit(0)\n": (0, "crashed: "),
    }
    for text, (passes, detail) in expected.items():
        (record,) = run(suite, FakeSubject(lambda _, text=text: text), [body])
        assert (record.mark.values["pass@1"], record.mark.detail[: len(detail)]) == (passes, detail), text
    assert suite.about()["max_tokens_by_kind"] == {BODY: 256, STATEMENT: 128}


def test_a_subject_gets_the_room_that_the_kind_needs(root, tmp_path):
    suite = fim_exec.fim_exec(
        list_of(root, tmp_path / "holes.tsv"), root, closed_sandbox(), count=None, seed=0, length=Length.UNKNOWN
    )
    subject = FakeSubject(lambda texts: "")
    for item in suite.items():
        suite.ask(subject, item, 0, 0.0)
    assert [ask.max_tokens for _, ask in subject.asked] == [256, 128]


def test_a_package_may_be_a_wheel(root, tmp_path):
    wheel = tmp_path / "networkx.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in (root / "networkx").rglob("*.py"):
            archive.write(path, path.relative_to(root))
    places = list(fim_exec.find_places(root))
    assert fim_exec.fingerprint(fim_exec.package_root(wheel), places) == fim_exec.fingerprint(root, places)
    (tmp_path / "no.whl").write_text("no wheel")
    with pytest.raises(InputError, match="cannot read the wheel"):
        fim_exec.package_root(tmp_path / "no.whl")
    with pytest.raises(ConfigError, match="there is no networkx in"):
        fim_exec.package_root(tmp_path)


@pytest.mark.parametrize("content", ["# x\na\tb\n", "# x\na\tb\tbody\tone\t2\n", None, ""])
def test_a_damaged_list_is_a_clear_error(tmp_path, content):
    path = tmp_path / "holes.tsv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match="cannot read the holes"):
        fim_exec.read_places(path)


def test_the_list_in_the_repository_is_of_bodies_and_statements_once_each():
    places, made_from = fim_exec.read_places(find_data(fim_exec.HOLES))
    assert (len(places), len(made_from)) == (1139, 64)
    assert len({(place.module, place.function, place.kind) for place in places}) == len(places)
    assert all(place.end - place.start + 1 in fim_exec.BODY_LINES for place in places if place.kind == BODY)


@pytest.mark.slow
def test_networkx_own_tests_notice_what_is_listed():
    if find_spec("networkx") is None or f"networkx {version('networkx')}" != fim_exec.RELEASE:
        pytest.skip(f"needs {fim_exec.RELEASE}")
    holes = find_data(fim_exec.HOLES)
    suite = fim_exec.fim_exec(holes, None, closed_sandbox(), count=2, seed=0, length=Length.UNKNOWN)
    for item in suite.items():
        ast.parse(item.prefix + item.middle + item.suffix)
    tallies = validate(suite)
    assert [surprise for tally in tallies for surprise in tally.surprises] == []
    assert sum(tally.num_items for tally in tallies) == 4


def test_a_place_knows_its_test_file():
    assert Place("a/b.py", "f", BODY, 1, 3).test_file == "a/tests/test_b.py"
