"""Holes in files of held-out packages: lines, spans, blocks.

* Lines: drawn uniformly from all lines that are not blank; one whole line with its indentation and its line end.
* Spans: half of them syntax, drawn uniformly from all expressions but names and constants, and all simple statements,
  of at most 256 characters; half of them random, with any start and a length drawn log-uniformly from 4 to 256
  characters, as in Bavarian et al. 2022 (arXiv:2207.14255) blind to what they cut.
* Blocks: drawn uniformly from all bodies of functions, classes, loops, branches and the like that are 3 to 10 whole
  lines long, a docstring left out.

All are in files that parse. The same seed gives a longer sample the same beginning.
"""

import ast
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import numpy as np

from quicksilver.errors import ConfigError
from quicksilver.evaluation.documents import Corpus, SourceFile
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length
from quicksilver.evaluation.syntax import SourceMap, characters, is_plain, line_starts, parse

DEFAULT_COUNT = 1000
SPAN_CHARS = (4, 256)
BLOCK_LINES = (3, 10)
SPAN_TOKENS = 128
"""Most tokens of a span's answer: 256 characters of code are about 100 of the bundled models' tokens."""
BLOCK_TOKENS = 160
"""Most tokens of a block's answer; 99 % of the blocks of networkx and flask take at most 145 of the bundled models'."""


class LineKind(StrEnum):
    """What a line is. Prose is much harder to guess than code, so results are split by it."""

    CODE = "code"
    COMMENT = "comment"
    STRING = "string"
    """Inside a docstring or another string of several lines."""


def lines_suite(corpus: Corpus, *, count: int | None, seed: int, length: Length) -> FillSuite:
    """The suite ``fim-line``.

    Args:
        corpus: the split to draw from.
        count: lines to draw; None: 1,000.
        seed: the same seed and split give the same items, whatever model they are for.
        length: what is told of it.

    Raises:
        ConfigError: there are fewer lines than that.
    """
    items = sample_lines(corpus.sources(), count or DEFAULT_COUNT, seed)
    return _suite("fim-line", items, corpus, seed, length, has_whole_lines=True)


def spans_suite(corpus: Corpus, *, count: int | None, seed: int, length: Length) -> FillSuite:
    """The suite ``fim-span``; see ``lines_suite``."""
    items = sample_spans(corpus.sources(), count or DEFAULT_COUNT, seed)
    return _suite("fim-span", items, corpus, seed, length, max_tokens=SPAN_TOKENS)


def blocks_suite(corpus: Corpus, *, count: int | None, seed: int, length: Length) -> FillSuite:
    """The suite ``fim-block``; see ``lines_suite``."""
    items = sample_blocks(corpus.sources(), count or DEFAULT_COUNT, seed)
    return _suite("fim-block", items, corpus, seed, length, max_tokens=BLOCK_TOKENS)


def _suite(
    name: str,
    items: Sequence[InfillItem],
    corpus: Corpus,
    seed: int,
    length: Length,
    *,
    has_whole_lines: bool = False,
    max_tokens: int | None = None,
) -> FillSuite:
    source = {**corpus.identity, "items_seed": seed}
    return FillSuite(
        name=name,
        holes=tuple(items),
        length=length,
        has_whole_lines=has_whole_lines,
        max_tokens=max_tokens,
        source=source,
    )


def sample_lines(sources: Sequence[SourceFile], count: int, seed: int) -> list[InfillItem]:
    """``count`` lines drawn uniformly, without repetition, from all non-blank lines of the files that parse.

    Raises:
        ConfigError: there are fewer lines than that.
    """
    places = [(source, line, kind) for source in sources for line, kind in _lines(source.text)]
    return [_line(source, line, kind) for source, line, kind in subsample(places, count, seed)]


def sample_spans(sources: Sequence[SourceFile], count: int, seed: int) -> list[InfillItem]:
    """``count`` spans, by turns of syntax and at random.

    Raises:
        ConfigError: there are fewer spans of syntax than half of that.
    """
    parsed = [source for source in sources if is_plain(source.text)]
    syntax = iter(_sample(parsed, _syntax_spans, (count + 1) // 2, seed, "syntax"))
    random = _random_spans(parsed, seed)
    return [next(random if number % 2 else syntax) for number in range(count)]


def sample_blocks(sources: Sequence[SourceFile], count: int, seed: int) -> list[InfillItem]:
    """``count`` blocks drawn uniformly, without repetition.

    Raises:
        ConfigError: there are fewer blocks than that.
    """
    parsed = [source for source in sources if is_plain(source.text)]
    return _sample(parsed, _blocks, count, seed, "code")


def _sample(
    sources: Sequence[SourceFile],
    find: Callable[[str], Iterator[tuple[int, int]]],
    count: int,
    seed: int,
    kind: str,
) -> list[InfillItem]:
    places = [(source, span) for source in sources for span in dict.fromkeys(find(source.text))]
    return [_item(source, *span, kind) for source, span in subsample(places, count, seed)]


def _item(source: SourceFile, start: int, stop: int, kind: str, place: str | None = None) -> InfillItem:
    text = source.text
    return InfillItem(
        item_id=f"{source.name}:{place or f'{start}-{stop}'}",
        prefix=text[:start],
        middle=text[start:stop],
        suffix=text[stop:],
        kind=kind,
    )


def _line(source: SourceFile, line: int, kind: LineKind) -> InfillItem:
    starts = line_starts(source.text)
    stop = min(starts[line + 1], len(source.text))
    return _item(source, starts[line], stop, kind, place=str(line + 1))


def _lines(text: str) -> list[tuple[int, LineKind]]:
    """Numbers (from 0) and kinds of the lines that are not blank; none if the file does not parse."""
    tree = parse(text)
    if tree is None:
        return []
    in_string: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.JoinedStr) and _is_string(node):
            in_string.update(range(node.lineno, node.end_lineno or node.lineno))
        if isinstance(node, ast.Expr) and _is_string(node.value):
            in_string.update(range(node.lineno - 1, node.end_lineno or node.lineno))
    kinds = []
    for number, line in enumerate(text.split("\n")):
        if line.strip():
            kind = LineKind.COMMENT if line.lstrip().startswith("#") else LineKind.CODE
            kinds.append((number, LineKind.STRING if number in in_string else kind))
    return kinds


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _syntax_spans(text: str) -> Iterator[tuple[int, int]]:
    source = SourceMap(text)
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.expr | ast.stmt) or isinstance(node, ast.Name | ast.Constant):
            continue
        if hasattr(node, "body") and isinstance(node, ast.stmt):
            continue
        start, stop = source.span(node)
        if SPAN_CHARS[0] <= stop - start <= SPAN_CHARS[1] and not _is_docstring(node):
            yield start, stop


def _is_docstring(node: ast.expr | ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and _is_string(node.value)


def _random_spans(sources: Sequence[SourceFile], seed: int) -> Iterator[InfillItem]:
    """Without end, as long as there is text; a span that is blank is drawn again, one that came before left out."""
    sizes = np.array([len(source.text) for source in sources], dtype=np.int64)
    if not len(sizes) or sizes.max() <= SPAN_CHARS[0]:
        raise ConfigError("there is no file long enough to cut a span from")
    rng, seen = np.random.Generator(np.random.Philox(key=seed)), set()
    ends = sizes.cumsum()
    while True:
        place = int(rng.integers(ends[-1]))
        index = int(np.searchsorted(ends, place, side="right"))
        start = place - int(ends[index] - sizes[index])
        low, high = np.log(SPAN_CHARS)
        stop = start + round(float(np.exp(rng.uniform(low, high))))
        source = sources[index]
        if stop <= len(source.text) and source.text[start:stop].strip() and (index, start, stop) not in seen:
            seen.add((index, start, stop))
            yield _item(source, start, stop, "random")


def _blocks(text: str) -> Iterator[tuple[int, int]]:
    lines, starts = text.split("\n"), line_starts(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module):
            continue
        for name in ("body", "orelse", "finalbody"):
            body = getattr(node, name, None)
            if not isinstance(body, list):  # a conditional expression has a body too
                continue
            body = body[1:] if body and name == "body" and _is_docstring(body[0]) else body
            if body and (span := _whole_lines(body, lines)) is not None:
                yield starts[span[0]], min(starts[span[1]], len(text))


def _whole_lines(body: Sequence[ast.stmt], lines: Sequence[str]) -> tuple[int, int] | None:
    """First line and the one behind the last, from 0; None if they are too few or too many, or shared with others."""
    first = min([body[0].lineno, *(each.lineno for each in getattr(body[0], "decorator_list", ()))]) - 1
    end = body[-1].end_lineno or 0
    if not BLOCK_LINES[0] <= end - first <= BLOCK_LINES[1]:
        return None
    head = lines[first][: characters(lines[first], body[0].col_offset)]
    if first == body[0].lineno - 1 and (head.strip() or lines[first].startswith("elif", len(head))):
        return None  # behind a colon; or no body, but the rest of a branch
    # Behind the last statement only a comment may stand, or else the next statement would be cut from its line.
    rest = lines[end - 1][characters(lines[end - 1], body[-1].end_col_offset or 0) :].strip()
    return (first, end) if not rest or rest.startswith("#") else None
