"""Which of a few texts stands in a place of a held-out file: operators, keywords, names.

* Operators: of a comparison, an arithmetic or a logical expression, among those of its group (``GROUPS``).
* Keywords: ``True``, ``False`` or ``None``; ``break``, ``continue``, ``pass`` or ``return``.
* Names: a variable that a function reads, among up to ``MOST_NAMES`` that the function binds on earlier lines: the
  question of variable misuse (Allamanis et al. 2018, arXiv:1711.00740).

A third each, every one drawn uniformly from all such places in the files that parse.

``accuracy`` is that of the likeliest label, ``chance`` that of a guess, ``nll`` the nats of the right one, ``ece`` the
expected calibration error; the last two again with ``_plain``, for probabilities that no temperature has softened.
``forwards`` is the time of a decision in forwards of the engine over the same text.
"""

import ast
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from random import Random

import numpy as np

from quicksilver.api import Model
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.calibration import calibration_error, fit_temperature, softmax
from quicksilver.evaluation.documents import Corpus, SourceFile
from quicksilver.evaluation.sampling import subsample
from quicksilver.evaluation.subject import Answer, Ask, Decider, Subject
from quicksilver.evaluation.suite import Mark
from quicksilver.evaluation.syntax import SourceMap, is_plain

DEFAULT_COUNT = 1200
MOST_NAMES = 4
GROUPS = (
    ("==", "!=", "<", "<=", ">", ">="),
    ("is", "is not"),
    ("in", "not in"),
    ("+", "-", "*", "/", "//", "%"),
    ("and", "or"),
)
CONSTANTS = ("True", "False", "None")
STATEMENTS = ("break", "continue", "pass", "return")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionItem:
    """One place, and what may stand there."""

    item_id: str
    before: str
    after: str
    labels: tuple[str, ...]
    right: int
    """Which of the labels stands there."""
    kind: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DecisionSuite:
    """The suite ``decisions``."""

    decisions: tuple[DecisionItem, ...]
    source: Mapping[str, object]
    name: str = "decisions"
    headline: str = "accuracy"

    def about(self) -> Mapping[str, object]:
        return {"suite": self.name, "items": len(self.decisions), **self.source}

    def items(self) -> tuple[DecisionItem, ...]:
        return self.decisions

    def ask(self, subject: Subject, item: DecisionItem, seed: int, temperature: float) -> Answer:
        """A decision draws nothing; the hole of one token beside it, which is one forward, is there for its time."""
        if not isinstance(subject, Decider):
            raise ConfigError(f"{subject.name} reads no decisions; name a model of our engine")
        answer = subject.decide(item.before, item.after, item.labels)
        one = subject.fill((item.before, item.after), Ask(seed=seed, hole_length=1))
        return replace(answer, forward_s=one.seconds / max(one.nfe or 1, 1))

    def judge(self, answered: Iterable[tuple[DecisionItem, Answer]]) -> Iterator[Mark]:
        for item, answer in answered:
            calibrated, plain = _probabilities(answer)
            ratios = {} if answer.forward_s is None else {"forwards": (answer.seconds, answer.forward_s)}
            values = {
                "accuracy": float(int(calibrated.argmax()) == item.right),
                "nll": _nats(calibrated[item.right]),
                "nll_plain": _nats(plain[item.right]),
                "chance": 1 / len(item.labels),
            }
            yield Mark(values=values, ratios=ratios, labels={"kind": item.kind})

    def sum_up(self, answered: Sequence[tuple[DecisionItem, Answer]]) -> Mapping[str, Interval]:
        """Calibration errors."""
        soft, plain = zip(*(_probabilities(answer) for _, answer in answered), strict=True)
        right = [item.right for item, _ in answered]
        return {"ece": _error(soft, right), "ece_plain": _error(plain, right)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """The temperature that fits a model's decisions best, and what it does to the places it was fitted to."""

    temperature: float
    accuracy: float
    nll: float
    nll_plain: float
    """With temperature 1."""
    ece: float
    ece_plain: float

    def __str__(self) -> str:
        return (
            f"temperature {self.temperature:.3f}: nll {self.nll_plain:.3f} -> {self.nll:.3f}, calibration error "
            f"{self.ece_plain:.3f} -> {self.ece:.3f} on the places it was fitted to; accuracy {self.accuracy:.3f}"
        )

    def to_dict(self) -> dict[str, float]:
        """For programs."""
        return asdict(self)


def calibrate(model: Model, items: Sequence[DecisionItem], advance: Callable[[], None]) -> Calibration:
    """Fit a model's temperature to items.

    Args:
        model: whose own temperature does not matter.
        items: none of those that will be reported.
        advance: called after every item.

    Raises:
        ConfigError: no temperature fits, or the model reads no decisions.
    """
    scores = []
    for item in items:
        scores.append(np.array(model.decide(item.before, item.after, item.labels).scores))
        advance()
    right = [item.right for item in items]
    temperature = fit_temperature(scores, right)
    soft, plain = ([softmax(row / each) for row in scores] for each in (temperature, 1.0))
    return Calibration(
        temperature=temperature,
        accuracy=float(np.mean([row.argmax() == which for row, which in zip(plain, right, strict=True)])),
        nll=_mean_nats(soft, right),
        nll_plain=_mean_nats(plain, right),
        ece=_error(soft, right).value,
        ece_plain=_error(plain, right).value,
    )


def with_temperature(spec: DiffusionSpec, temperature: float) -> DiffusionSpec:
    """The same checkpoint, its decisions calibrated."""
    return replace(spec, decoding=replace(spec.decoding, decision_temperature=round(temperature, 4)))


def _mean_nats(rows: Sequence[np.ndarray], right: Sequence[int]) -> float:
    return float(np.mean([_nats(row[which]) for row, which in zip(rows, right, strict=True)]))


def _error(rows: Sequence[np.ndarray], right: Sequence[int]) -> Interval:
    is_right = np.array([row.argmax() == which for row, which in zip(rows, right, strict=True)])
    return calibration_error(np.array([row.max() for row in rows]), is_right)


def _probabilities(answer: Answer) -> tuple[np.ndarray, np.ndarray]:
    """As the subject gives them, and with temperature 1."""
    return np.array(answer.nats["probabilities"]), softmax(np.array(answer.nats["scores"]))


def _nats(probability: float) -> float:
    return -math.log(max(float(probability), 1e-12))


def decisions_suite(corpus: Corpus, *, count: int | None, seed: int) -> DecisionSuite:
    """The suite ``decisions``.

    Args:
        corpus: the split to draw from.
        count: places; None: 1,200.
        seed: the same seed and split give the same places, whatever model they are for.

    Raises:
        ConfigError: there are fewer places of a kind than a third of that.
    """
    items = sample_decisions(corpus.sources(), count or DEFAULT_COUNT, seed)
    return DecisionSuite(decisions=tuple(items), source={**corpus.identity, "items_seed": seed})


def sample_decisions(sources: Sequence[SourceFile], count: int, seed: int) -> list[DecisionItem]:
    """``count`` places, by turns of operators, keywords and names.

    Raises:
        ConfigError: there are fewer places of a kind than its share.
    """
    places: dict[str, list[tuple[SourceFile, _Place]]] = {"operator": [], "keyword": [], "name": []}
    for source in sources:
        if is_plain(source.text):
            for place in _places(source.text):
                places[place.kind].append((source, place))
    drawn = [
        subsample(found, share, seed) if (share := (count + 2 - turn) // 3) else []
        for turn, found in enumerate(places.values())
    ]
    turns = [drawn[number % 3][number // 3] for number in range(count)]
    return [_item(source, place, seed) for source, place in turns]


@dataclass(frozen=True, slots=True)
class _Place:
    start: int
    stop: int
    kind: str
    others: tuple[str, ...]
    """What else might stand there."""


def _item(source: SourceFile, place: _Place, seed: int) -> DecisionItem:
    text, item_id = source.text, f"{source.name}:{place.start}-{place.stop}"
    right, rng = text[place.start : place.stop], Random(f"{seed}:{item_id}")
    others = place.others if place.kind != "name" else rng.sample(place.others, min(MOST_NAMES - 1, len(place.others)))
    labels = [right, *others]
    rng.shuffle(labels)
    return DecisionItem(
        item_id=item_id,
        before=text[: place.start],
        after=text[place.stop :],
        labels=tuple(labels),
        right=labels.index(right),
        kind=place.kind,
    )


def _places(text: str) -> Iterator[_Place]:
    source = SourceMap(text)
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Compare(left=left, comparators=comparators):
                for first, second in zip((left, *comparators), comparators, strict=False):
                    yield from _operator(source, first, second)
            case ast.BinOp(left=first, right=second):
                yield from _operator(source, first, second)
            case ast.BoolOp(values=values):
                for first, second in pairwise(values):
                    yield from _operator(source, first, second)
            case ast.Constant() | ast.Break() | ast.Continue() | ast.Pass() | ast.Return():
                yield from _keyword(source, node)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _names(source, node)
            case _:
                pass


def _operator(source: SourceMap, first: ast.expr, second: ast.expr) -> Iterator[_Place]:
    """What stands between two operands, if nothing but blanks is around it."""
    low, high = source.span(first)[1], source.span(second)[0]
    between = source.text[low:high]
    operator = between.strip(" ")
    group = next((group for group in GROUPS if operator in group), None)
    if group is not None:
        start = low + between.index(operator)
        others = tuple(each for each in group if each != operator)
        yield _Place(start, start + len(operator), "operator", others)


def _keyword(source: SourceMap, node: ast.expr | ast.stmt) -> Iterator[_Place]:
    start, stop = source.span(node)
    word = source.text[start:stop]
    group = CONSTANTS if isinstance(node, ast.expr) else STATEMENTS
    if word in group:
        yield _Place(start, stop, "keyword", tuple(each for each in group if each != word))


def _names(source: SourceMap, function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[_Place]:
    """Reads of a function's own variables; those of functions inside it belong to them."""
    arguments = function.args
    every = (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg)
    first_line = {each.arg: function.lineno for each in every if each is not None}
    nodes = [node for node in _own(function) if isinstance(node, ast.Name)]
    for node in nodes:
        if isinstance(node.ctx, ast.Store):
            first_line[node.id] = min(first_line.get(node.id, node.lineno), node.lineno)
    for node in nodes:
        bound = sorted(name for name, line in first_line.items() if line < node.lineno)
        if isinstance(node.ctx, ast.Load) and node.id in bound and len(bound) > 1:
            others = tuple(name for name in bound if name != node.id)
            yield _Place(*source.span(node), "name", others)


def _own(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda | ast.comprehension):
            waiting.extend(ast.iter_child_nodes(node))
