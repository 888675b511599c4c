"""The rules of the house that no other tool checks: docs/architecture.md says why they are there."""

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest
import torch
from jaxtyping import TypeCheckError

import quicksilver
from quicksilver.models.layers import rotary_angles
from tests.conftest import IS_SHAPE_CHECKED
from tests.tiny import TINY

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
ALL_PYTHON = sorted(
    path for folder in ("src", "tests", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
# Code shipped in exported folders never runs as part of the package; test_huggingface runs it where it is meant to.
STRANGERS = ("__main__", "checkpoints.shipped.modeling")
MODULES = sorted(
    m.name
    for m in pkgutil.walk_packages(quicksilver.__path__, "quicksilver.")
    if not any(each in m.name for each in STRANGERS)
)
README = (ROOT / "README.md").read_text(encoding="utf-8")

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60
EXCUSE = re.compile(r"# Long because .{10,}")
"""Such a line inside a file or function lifts the limit there."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_and_keeps_its_promise_of_public_names(module):
    loaded = importlib.import_module(module)
    for public in getattr(loaded, "__all__", ()):
        assert hasattr(loaded, public), f"{module}.__all__ names {public}"


def test_public_names_are_complete_and_sorted():
    assert quicksilver.__all__ == sorted(quicksilver.__all__)
    assert {public: hasattr(quicksilver, public) for public in quicksilver.__all__} == dict.fromkeys(
        quicksilver.__all__, True
    )
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        quicksilver.lode  # noqa: B018


@pytest.mark.skipif(not IS_SHAPE_CHECKED, reason="this session runs without shape checks")
def test_a_wrong_shape_is_caught():
    with pytest.raises(TypeCheckError, match="positions"):
        rotary_angles(torch.arange(3), TINY.rotary, torch.float32)
    with pytest.raises(TypeCheckError, match="positions"):
        rotary_angles(torch.zeros(1, 3), TINY.rotary, torch.float32)


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_files_and_functions_are_short(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MAX_FILE_LINES or any(map(EXCUSE.search, lines)), f"{len(lines)} lines"
    for node in ast.walk(ast.parse("\n".join(lines))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            body = lines[node.lineno - 1 : node.end_lineno]
            assert len(body) <= MAX_FUNCTION_LINES or any(map(EXCUSE.search, body)), f"{node.name}: {len(body)} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_input_is_not_checked_by_asserts(path):
    """``python -O`` removes them; raise a QuicksilverError."""
    found = [n.lineno for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Assert)]
    assert not found, f"lines {found}"


@pytest.mark.parametrize("path", ALL_PYTHON, ids=name)
def test_nothing_is_left_to_do_without_a_link(path):
    word = re.compile(r"\b(TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b(?!.*https?://)")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    assert not [number for number, line in lines if word.search(line)]


@pytest.mark.parametrize("path", ALL_PYTHON, ids=name)
def test_annotations_are_not_postponed(path):
    """Shapes in signatures are read when a function is defined."""
    assert "from __future__ import " + "annotations" not in path.read_text(encoding="utf-8")


def test_make_commands_of_the_documents_exist():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for document in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        wanted = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
        assert wanted, document
        assert wanted <= targets, document


def test_subcommands_of_the_readme_exist():
    from quicksilver.cli.main import _COMMANDS

    wanted = set(re.findall(r"(?:^|\| )quicksilver ([a-z]+)", README, re.MULTILINE))
    assert wanted
    assert wanted <= set(_COMMANDS)


def test_python_of_the_readme_parses():
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert blocks
    for block in blocks:
        ast.parse(block)


def test_links_of_the_documents_lead_somewhere():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{name(document)} links to {target}"


def test_the_tree_of_the_readme_is_the_tree():
    rooms = set(re.findall(r"^    ([a-z]+)/ ", README, re.MULTILINE))
    packages = {path.parent.name for path in (ROOT / "src/quicksilver").glob("*/__init__.py")}
    assert rooms == packages


def test_the_changelog_knows_this_version():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{quicksilver.__version__}]" in changelog or "## [Unreleased]" in changelog
