"""Applying: a lazy snippet of an edit, merged into its file.

An item is a file of a held-out package and one of four edits of it: a name changed wherever it stands, a guard put at
the head of a function, a statement taken out, a function of another file put in. The snippet shows what a careful
writer would (``lazy_snippets``).

* ``ast_equal``: the answer has the syntax tree of the edited file.
* ``exact_match``: it is the edited file to the byte.
* ``untouched_kept``: every line that the edit did not touch is there to the byte, in order.
* ``refused_rate``: the subject would not merge, rather than guess.
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from quicksilver.coding.apply import ApplyPrompt, render_apply
from quicksilver.errors import ConfigError
from quicksilver.evaluation.code_edits import apply_insertions, renamed, renames
from quicksilver.evaluation.documents import Corpus, SourceFile
from quicksilver.evaluation.lazy_snippets import Edit, lazy_snippet
from quicksilver.evaluation.subject import REFUSED, Answer, Ask, Editor, Subject
from quicksilver.evaluation.suite import Mark
from quicksilver.evaluation.syntax import parse

DEFAULT_COUNT = 200
FILE_LINES = (20, 400)
"""Of a file that is edited."""
MOST_FUNCTION_LINES = 12
"""Of a function that is put into another file."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplyItem:
    """A file, a snippet and what the file becomes."""

    item_id: str
    kind: str
    original: str
    snippet: str
    edited: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ApplySuite:
    """The suite ``apply``."""

    edits: tuple[ApplyItem, ...]
    source: Mapping[str, object]
    name: str = "apply"
    headline: str = "ast_equal"

    def about(self) -> Mapping[str, object]:
        return {"suite": self.name, **self.source}

    def items(self) -> tuple[ApplyItem, ...]:
        return self.edits

    def ask(self, subject: Subject, item: ApplyItem, seed: int, temperature: float) -> Answer:
        if not isinstance(subject, Editor):
            raise ConfigError(f"{subject.name} has no route that applies snippets")
        prompt = render_apply(ApplyPrompt(original=item.original, snippet=item.snippet))
        return subject.apply(prompt, Ask(seed=seed, temperature=temperature))

    def judge(self, answered: Iterable[tuple[ApplyItem, Answer]]) -> Iterator[Mark]:
        for item, answer in answered:
            yield _mark(item, answer)


def _mark(item: ApplyItem, answer: Answer) -> Mark:
    (text,) = answer.texts
    tree, wanted = parse(text) if text.strip() else None, parse(item.edited)
    is_equal = tree is not None and wanted is not None and ast.dump(tree) == ast.dump(wanted)
    lines = iter(text.split("\n"))
    kept = all(line in lines for line in _untouched(item))  # takes lines until it finds one: they are in order
    return Mark(
        values={
            "ast_equal": float(is_equal),
            "exact_match": float(text == item.edited),
            "untouched_kept": float(kept),
            "parse_rate": float(tree is not None),
            "refused_rate": float(answer.finish_reason == REFUSED),
        },
        labels={"kind": item.kind},
    )


def _untouched(item: ApplyItem) -> list[str]:
    before = item.original.split("\n")
    touched: set[int] = set()
    for start, end, _, _ in Edit.of(before, item.edited.split("\n")).hunks:
        touched.update(range(start, end))
    return [line for number, line in enumerate(before) if number not in touched]


def applications(corpus: Corpus, *, count: int | None, seed: int) -> ApplySuite:
    """The suite ``apply``: the four edits by turns.

    Args:
        corpus: the split whose files are edited.
        count: edits; None: 200.
        seed: of which edits and which snippets.

    Raises:
        ConfigError: the files have not so many places for an edit.
    """
    wanted = count or DEFAULT_COUNT
    sources = [source for source in corpus.sources() if _is_fit(source)]
    found = list(islice(_items(sources, Random(seed)), wanted))
    if len(found) < wanted:
        raise ConfigError(f"the held-out files have places for {len(found)} edits, not for {wanted}")
    return ApplySuite(edits=tuple(found), source={**corpus.identity, "items_seed": seed})


def _is_fit(source: SourceFile) -> bool:
    num_lines = source.text.count("\n")
    is_plain = "\r" not in source.text and "\f" not in source.text and source.text.endswith("\n")
    return is_plain and FILE_LINES[0] <= num_lines <= FILE_LINES[1] and parse(source.text) is not None


def _items(sources: Sequence[SourceFile], rng: Random) -> Iterator[ApplyItem]:
    """Each file once by each kind, in random order."""
    functions = [text for source in sources for text in _small_functions(source.text)]
    kinds: dict[str, Callable[[str, Random], list[str] | None]] = {
        "rename": _rename,
        "guard": _guard,
        "delete": _delete,
        "insert": lambda text, rng: _insert(text, functions, rng),
    }
    orders = {kind: rng.sample(range(len(sources)), len(sources)) for kind in kinds}
    for turn in range(len(sources)):
        for kind, change in kinds.items():
            source = sources[orders[kind][turn]]
            item = _item(source, kind, change(source.text, rng), rng)
            if item is not None:
                yield item


def _item(source: SourceFile, kind: str, lines: list[str] | None, rng: Random) -> ApplyItem | None:
    if lines is None or parse("\n".join(lines)) is None:
        return None
    snippet = lazy_snippet(rng, Edit.of(source.text.split("\n"), lines))
    if snippet is None:
        return None
    return ApplyItem(
        item_id=f"{source.name}:{kind}", kind=kind, original=source.text, snippet=snippet, edited="\n".join(lines)
    )


def _rename(text: str, rng: Random) -> list[str] | None:
    places = [(name, change) for name, change in renames(text) if f"{name}_value" not in text]
    if not places:
        return None
    name, change = rng.choice(places)
    return apply_insertions(text.split("\n"), renamed(change, f"{name}_value").insertions)


def _functions(text: str) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef)]


def _guard(text: str, rng: Random) -> list[str] | None:
    """``if x is None: raise`` in front of the body, behind a docstring."""
    lines = text.split("\n")
    places = [
        (node, body[0])
        for node in _functions(text)
        if node.args.args and (body := _without_docstring(node.body)) and _begins_line(body[0], lines)
    ]
    if not places:
        return None
    function, first = rng.choice(places)
    name, indent = function.args.args[-1].arg, " " * first.col_offset
    guard = [f"{indent}if {name} is None:", f'{indent}    raise ValueError("{name} is missing")']
    at = first.lineno - 1
    return [*lines[:at], *guard, *lines[at:]]


def _delete(text: str, rng: Random) -> list[str] | None:
    """One simple statement of one line, of a body that has others."""
    lines = text.split("\n")
    places = [
        each.lineno - 1
        for node in _functions(text)
        for each in _without_docstring(node.body)[1:-1]
        if isinstance(each, ast.Expr | ast.Assign | ast.AugAssign)
        and each.lineno == each.end_lineno
        and _begins_line(each, lines)
        and not lines[each.lineno - 1][each.end_col_offset :].strip()
    ]
    if not places:
        return None
    at = rng.choice(places)
    return [*lines[:at], *lines[at + 1 :]]


def _insert(text: str, functions: Sequence[str], rng: Random) -> list[str] | None:
    """A function of another file, two blank lines behind one of this file."""
    lines = text.split("\n")
    ends = [node.end_lineno or 0 for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)]
    if not ends or not functions:
        return None
    function = rng.choice(functions)
    if function.split("(")[0] + "(" in text:
        return None
    at = rng.choice(ends)
    return [*lines[:at], "", "", *function.split("\n"), *lines[at:]]


def _small_functions(text: str) -> list[str]:
    """Functions of the module without decorators."""
    lines = text.split("\n")
    return [
        "\n".join(lines[node.lineno - 1 : node.end_lineno])
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef)
        and not node.decorator_list
        and (node.end_lineno or 0) - node.lineno < MOST_FUNCTION_LINES
    ]


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if has_docstring else body


def _begins_line(node: ast.stmt, lines: Sequence[str]) -> bool:
    return not lines[node.lineno - 1][: node.col_offset].strip() and not getattr(node, "decorator_list", ())
