import ast
import textwrap
from pathlib import Path

import numpy as np
import pytest

from quicksilver.coding.apply import parse_apply
from quicksilver.coding.next_edit import fenced, parse_next_edit, unfenced
from quicksilver.errors import ConfigError
from quicksilver.evaluation.code_edits import apply_insertions, new_arguments, renamed, renames
from quicksilver.evaluation.lazy_snippets import Edit
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.subject import Answer
from quicksilver.evaluation.suites.apply import applications
from quicksilver.evaluation.suites.next_edit import next_edits
from tests.fake_documents import char_corpus
from tests.fake_subjects import FakeSubject

CODE = '''"""Some functions; total is a word of this text."""

import os
from math import log as ln


def scale(value, factor):
    """Scale."""
    scaled = value * factor
    kept = [scaled for ü in "äö" if scaled]
    print(f"{kept}")
    return scaled, ln(value)


def area(width, height):
    result = scale(width, height)[0]
    other = scale(
        width,
        height,
    )
    print(other)
    if result > 3:
        result += 1
    return result


def volume(width, height, depth):
    """Volume."""
    base = scale(width, height)[0]; print(base)
    return base * scale(depth, 1)[0]


def name(os):
    return os


class Shape:
    def size(self):
        total = area(1, 2)
        self.kept = total
        return scale(1, (2), ), scale(3, 4)
'''
OTHER = CODE.replace("scale", "shrink").replace("area", "region").replace("volume", "space").replace("kept", "held")


class Renamer(ast.NodeTransformer):
    """Another way to change a name: in the tree."""

    def __init__(self, old: str, new: str) -> None:
        self.old, self.new = old, new

    def visit_Name(self, node):
        return ast.copy_location(ast.Name(id=self.new if node.id == self.old else node.id, ctx=node.ctx), node)

    def visit_FunctionDef(self, node):
        node.name = self.new if node.name == self.old else node.name
        return self.generic_visit(node)


def test_a_rename_is_that_of_the_tree():
    found = list(renames(CODE))
    # kept stands in an f-string, os is a module and an argument.
    assert {name for name, _ in found} == {"scale", "area", "scaled", "result", "other", "base", "total"}
    for name, change in found:
        lines = apply_insertions(CODE.split("\n"), renamed(change, "fresh").insertions)
        tree = Renamer(name, "fresh").visit(ast.parse(CODE))
        assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(tree)
        assert change.first[-1].line < change.insertions[-1].line
    assert list(renames("def f(:")) == list(renames("x = 1\n")) == []


def test_renames_of_real_code_are_those_of_the_tree():
    source = Path(textwrap.__file__).read_text(encoding="utf-8")
    old = source.split("\n")
    found = list(renames(source))
    assert len(found) > 10
    for name, change in found:
        lines, first = apply_insertions(old, renamed(change, "fresh").insertions), change.insertions[0]
        if old[first.line][: first.column] == "def ":
            assert ast.dump(ast.parse("\n".join(lines))) == ast.dump(Renamer(name, "fresh").visit(ast.parse(source)))
        else:
            ast.parse("\n".join(lines))


def test_a_new_argument_reaches_every_call_that_can_take_it():
    calls = "\n".join(
        ["def f(a, b: int):", "    return a", "x = f(1, 2)", "y = f(*z)", "u = f(1, (2), )", "f(g(3), f)", ""]
    )
    assert list(new_arguments(calls, np.random.default_rng(0))) == []  # it is also handed on as a value
    calls = calls.replace("g(3), f)", "g(3), 4)")
    (change,) = new_arguments(calls, np.random.default_rng(0))
    name, _, value = change.insertions[1].text.removeprefix(", ").partition("=")
    assert apply_insertions(calls.split("\n"), change.insertions) == [
        f"def f(a, b: int, {name}):",
        "    return a",
        f"x = f(1, 2, {name}={value})",
        f"y = f(*z, {name}={value})",
        f"u = f(1, (2), {name}={value})",
        f"f(g(3), 4, {name}={value})",
        "",
    ]
    assert [each.line for each in change.first] == [0, 2]


@pytest.mark.parametrize("head", ["f(a=1)", "f(*a)", "f(**a)", "f(a, *, b)", "f(a, /)", "f()"])
def test_functions_that_a_new_argument_does_not_fit_are_left_alone(head: str):
    assert list(new_arguments(f"def {head}:\n    pass\n" + "f(1)\n" * 4, np.random.default_rng(0))) == []
    assert list(new_arguments("def f(a):\n    pass\n" + "f(x for x in y)\n" * 4, np.random.default_rng(0))) == []


@pytest.fixture(scope="module")
def corpus():
    return char_corpus(CODE, OTHER, "broken(", "x = 1\r\n", "banana = 1\ncherry = 2\n")


def test_next_edit_judges_the_wanted_right_and_the_empty_wrong(corpus):
    suite = next_edits(corpus, count=8, seed=0)
    assert [item.kind for item in suite.items()][:1] == ["rename"]
    wanted = {item.prompt(region): "\n".join(region.wanted) for item in suite.items() for region in item.regions}
    right = figures(run(suite, FakeSubject(lambda texts: wanted[texts[0]]), suite.items()))
    assert [right[name].low for name in ("exact_match", "no_op_precision")] == [1, 1]
    assert [right[name].high for name in ("over_edit_rate", "missed_rate")] == [0, 0]
    empty = figures(run(suite, FakeSubject(lambda texts: ""), suite.items()))
    assert [empty[name].high for name in ("exact_match", "no_op_precision")] == [0, 0]
    assert empty["over_edit_rate"].low == 1
    still = figures(run(suite, FakeSubject(lambda texts: parse_next_edit(texts[0]).region), suite.items()))
    assert (still["exact_match"].high, still["missed_rate"].low, still["over_edit_rate"].high) == (0, 1, 0)
    assert still["no_op_precision"].low == 1


def test_next_edit_tells_what_was_begun_and_asks_for_the_rest(corpus):
    for item in next_edits(corpus, count=8, seed=1).items():
        assert item.history.startswith(f"--- a/{item.path}\n+++ b/{item.path}\n@@ ")
        taken = []
        for region in item.regions:
            known = parse_next_edit(item.prompt(region))
            assert known.before + known.region + known.after == "".join(line + "\n" for line in item.lines)
            assert known.history == item.history
            taken += range(region.start, region.start + len(region.now))
        assert len(taken) == len(set(taken))
        assert item.regions[0].num_sites > 0
    assert next_edits(corpus, count=8, seed=1) == next_edits(corpus, count=8, seed=1)
    assert next_edits(corpus, count=5, seed=1).items() == next_edits(corpus, count=8, seed=1).items()[:5]
    with pytest.raises(ConfigError, match="places for"):
        next_edits(corpus, count=1000, seed=0)


def test_apply_judges_the_wanted_right_and_the_empty_wrong(corpus):
    suite = applications(corpus, count=6, seed=0)
    assert {item.kind for item in suite.items()} >= {"rename", "guard"}
    wanted = {item.snippet: item.edited for item in suite.items()}
    right = figures(run(suite, FakeSubject(lambda texts: wanted[parse_apply(texts[0]).snippet]), suite.items()))
    names = ("ast_equal", "exact_match", "untouched_kept", "parse_rate")
    assert [right[name].low for name in names] == [1] * 4
    empty = figures(run(suite, FakeSubject(lambda texts: ""), suite.items()))
    assert [empty[name].high for name in names] == [0] * 4
    old = figures(run(suite, FakeSubject(lambda texts: parse_apply(texts[0]).original), suite.items()))
    assert (old["ast_equal"].high, old["untouched_kept"].low) == (0, 1)
    commented = figures(run(suite, FakeSubject(lambda t: wanted[parse_apply(t[0]).snippet] + "# x\n"), suite.items()))
    assert (commented["ast_equal"].low, commented["exact_match"].high) == (1, 0)
    for item in suite.items():
        assert parse_apply("<code>\n" + item.original + "\n</code><update>\n" + item.snippet + "\n</update>")
    assert applications(corpus, count=3, seed=0).items() == suite.items()[:3]
    with pytest.raises(ConfigError, match="places for"):
        applications(corpus, count=1000, seed=0)


def test_a_refusal_is_no_answer(corpus):
    suite = applications(corpus, count=1, seed=0)
    answer = Answer(texts=("",), num_tokens=0, nfe=0, seconds=0.1, finish_reason="refused")
    (mark,) = suite.judge([(suite.items()[0], answer)])
    assert (mark.values["refused_rate"], mark.values["ast_equal"]) == (1, 0)


def test_hunks_are_what_differs():
    edit = Edit.of(["a", "b", "c"], ["a", "x", "y", "c", "d"])
    assert edit.hunks == [(1, 2, 1, 3), (3, 3, 4, 5)]


@pytest.mark.parametrize("code", ["a\n", "", "```\n", "x = '''\n```\n'''"])
def test_a_fence_is_taken_off_again(code: str):
    assert unfenced(fenced(code)) == code
