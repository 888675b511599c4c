"""What the benchmark of checks and guidance counts."""

import ast
import importlib
from pathlib import Path
from types import ModuleType

import pytest

from quicksilver.coding.checks import PythonCheck

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def control(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("control")


@pytest.mark.parametrize(
    ("parameters", "counted"),
    [
        ("a, b: int", (2, 1, True)),
        ("self, a: int, *, b: str = ''", (2, 2, True)),
        ("a, /, b", (2, 0, True)),
        ("a, b:", (0, 0, False)),
        ("a): pass\ndef g(b", (0, 0, False)),
    ],
)
def test_parameters_and_annotations_are_counted(control: ModuleType, parameters: str, counted: tuple) -> None:
    assert control._annotated(parameters) == counted


def test_parameter_lists_become_holes(control: ModuleType) -> None:
    lists = ("one(a)", "two(a, b)", "three(a, b=(1)) -> int")
    text = "".join(f"def {each}:\n    return a\n\n\n" for each in lists)
    (found,) = control._signatures_of(text, ast.parse(text))
    assert found.before.endswith("def two(")
    assert found.behind.startswith("):\n    return a\n")


def test_what_the_check_saw_is_kept(control: ModuleType) -> None:
    watched = control.Watched(PythonCheck())
    assert watched("x = 1\n", ()) == []
    assert watched("x = (\n", ())
    assert watched.seen == [("x = 1\n", True), ("x = (\n", False)]
