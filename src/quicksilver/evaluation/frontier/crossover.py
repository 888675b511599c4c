"""Where diffusion begins to lose to its twin: by length of the answer, of the context, and by requests at once.

Both fill the same holes of the same forced length, so that what they do not want to write does not count: in place a
hole's length is given, elsewhere the end of text is forbidden. Only one condition changes at a time.
"""

import itertools
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum

import numpy as np

from quicksilver.api import InfillLayout
from quicksilver.engine.request import Request
from quicksilver.errors import ConfigError
from quicksilver.evaluation.frontier.cold import cold
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.tokenization.tokenizer import Tokenizer

_NEVER = -100.0
"""Added to the logit of what must not be written; the least that a request may ask for."""


class Axis(StrEnum):
    """What is varied."""

    OUTPUT = "output"
    CONTEXT = "context"
    CONCURRENCY = "concurrency"


UNITS = {Axis.OUTPUT: "tokens written", Axis.CONTEXT: "tokens of context", Axis.CONCURRENCY: "requests at once"}
_LADDERS = {
    Axis.OUTPUT: (4, 8, 16, 32, 64, 128, 256),
    Axis.CONTEXT: (32, 64, 128, 256, 512, 1024, 2048, 4096),
    Axis.CONCURRENCY: (1, 2, 4, 8, 16, 32, 64),
}
_LAST_STEP = 32
REQUESTS = 8
"""Of each side, for every condition and round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """What both sides are put to."""

    output: int
    """Tokens written in the hole."""
    context: int
    """Tokens around it."""
    concurrency: int

    def along(self, axis: Axis, value: int) -> "Condition":
        """The same but for one of them."""
        return replace(self, **{axis.value: value})


@dataclass(frozen=True, kw_only=True, slots=True)
class Speed:
    """Of one side under one condition: medians over rounds."""

    tokens_per_s: float
    """Of all requests together."""
    tpf: float
    latency_ms: float
    """Median of the requests."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Both sides under one condition."""

    axis: Axis
    value: int
    diffusion: Speed
    twin: Speed
    ratio: float
    """Diffusion's tokens per second over the twin's: median over rounds, each a ratio of neighbours in time."""


def ladder(axis: Axis, base: Condition, most: int) -> list[int]:
    """The values of an axis that fit in ``most`` tokens beside the others of ``base``, and the most that do."""
    room = {Axis.OUTPUT: most - base.context, Axis.CONTEXT: most - base.output}.get(axis)
    if room is None:
        return list(_LADDERS[axis])
    values = [each for each in _LADDERS[axis] if each <= room]
    last = room // _LAST_STEP * _LAST_STEP
    # One that is hardly longer than the one before says nothing new.
    return [*values, last] if values and values[-1] < last < _LADDERS[axis][-1] and last >= 1.2 * values[-1] else values


def default_base(max_length: int) -> Condition:
    """16 tokens in 256 tokens of context, one request at a time; half of a short context."""
    return Condition(output=16, context=min(256, max_length // 2), concurrency=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Texts:
    """What stands around the holes: slices of real code, the same for both sides."""

    token_ids: tuple[int, ...]
    tokenizer: Tokenizer
    seed: int

    def around(self, length: int, number: int) -> tuple[str, str]:
        """Prefix and suffix of about ``length`` tokens together, others for every ``number``."""
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=number))
        start = int(rng.integers(max(len(self.token_ids) - length, 1)))
        part = list(self.token_ids[start : start + length])
        # Two thirds before the hole: what an editor shows of a file that is being written.
        cut = 2 * len(part) // 3
        return self.tokenizer.decode(part[:cut]), self.tokenizer.decode(part[cut:])


def make_texts(tokenizer: Tokenizer, sources: Sequence[str], seed: int) -> Texts:
    """The tokens of some files.

    Raises:
        ConfigError: there is no text.
    """
    ids = tokenizer.encode("\n".join(sources))
    if not ids:
        raise ConfigError("there is no text to make contexts of")
    return Texts(token_ids=tuple(ids), tokenizer=tokenizer, seed=seed)


def jobs(subject: EngineSubject, texts: Texts, condition: Condition, first: int) -> Iterator[Request]:
    """Requests without end, each with a text of its own; ``first`` says which."""
    model = subject.model
    for number in itertools.count(first):
        asked = subject.request(texts.around(condition.context, number), Ask(seed=number, hole_length=condition.output))
        # Without a seed blocks may get shorter while many requests run, as an engine is meant to be used.
        options = replace(asked.options, seed=None)
        if asked.resolve_layout(model.spec) is not InfillLayout.IN_PLACE:
            options = replace(options, logit_bias=((model.spec.special.eos, _NEVER),))
        yield cold(model.engine_request(replace(asked, options=options)))


def measure(subject: EngineSubject, texts: Texts, condition: Condition, num_requests: int, first: int) -> Speed:
    """``condition.concurrency`` requests under way until ``num_requests`` have been answered."""
    engine = subject.model.engine
    todo = list(itertools.islice(jobs(subject, texts, condition, first), num_requests))
    running, done = [], []
    start = time.perf_counter()
    while len(done) < num_requests:
        while todo and len(running) < condition.concurrency:
            running.append(engine.submit(todo.pop(0)))
        engine.step()
        done += [ticket for ticket in running if ticket.is_ended]
        running = [ticket for ticket in running if not ticket.is_ended]
    seconds = time.perf_counter() - start
    num_tokens, nfe = sum(len(each.result.token_ids) for each in done), sum(each.result.nfe for each in done)
    return Speed(
        tokens_per_s=num_tokens / seconds,
        tpf=num_tokens / nfe,
        latency_ms=statistics.median(1000 * each.usage.seconds for each in done if each.usage is not None),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Duel:
    """Diffusion under one setting, and the twin."""

    diffusion: EngineSubject
    twin: EngineSubject
    texts: Texts
    base: Condition
    rounds: int
    requests: int
    """Per condition and round, or as many as run at once if that is more."""

    def compare(self, axis: Axis, value: int) -> Comparison:
        """Both under one condition, by turns; who is first changes with every round."""
        condition = self.base.along(axis, value)
        count = max(self.requests, condition.concurrency)
        found: dict[str, list[Speed]] = {"diffusion": [], "twin": []}
        sides = {"diffusion": self.diffusion, "twin": self.twin}
        for subject in sides.values():
            measure(subject, self.texts, condition, condition.concurrency, 0)
        for number in range(self.rounds):
            for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                found[name].append(measure(sides[name], self.texts, condition, count, number * count))
        pairs = zip(found["diffusion"], found["twin"], strict=True)
        return Comparison(
            axis=axis,
            value=value,
            diffusion=_median(found["diffusion"]),
            twin=_median(found["twin"]),
            ratio=statistics.median(a.tokens_per_s / b.tokens_per_s for a, b in pairs),
        )

    def values(self, axis: Axis) -> list[int]:
        """What is measured along an axis."""
        most = min(side.model.max_length for side in (self.diffusion, self.twin)) - _SENTINELS
        most -= self.diffusion.model.spec.block_length  # the last block is written whole
        return ladder(axis, self.base, most)

    def run(self, log: ResultLog, advance: Callable[[], None]) -> list[Comparison]:
        """All axes; what ``log`` holds is not measured again."""
        old = {(each["axis"], each["value"]): each for each in log.read()}
        found = []
        for axis in Axis:
            for value in self.values(axis):
                known = old.get((axis.value, value))
                found.append(self.compare(axis, value) if known is None else read_comparison(known))
                if known is None:
                    log.append(asdict(found[-1]))
                advance()
        return found


_SENTINELS = 8
"""Room for the special tokens of every layout."""


def _median(speeds: Sequence[Speed]) -> Speed:
    return Speed(
        tokens_per_s=statistics.median(each.tokens_per_s for each in speeds),
        tpf=statistics.median(each.tpf for each in speeds),
        latency_ms=statistics.median(each.latency_ms for each in speeds),
    )


def read_comparison(values: Mapping[str, object]) -> Comparison:
    """One that ``asdict`` wrote."""
    both = {name: Speed(**values[name]) for name in ("diffusion", "twin")}  # pyright: ignore[reportCallIssue]
    plain = {name: value for name, value in values.items() if name not in (*both, "axis")}
    return Comparison(axis=Axis(str(values["axis"])), **both, **plain)  # pyright: ignore[reportArgumentType]


def crossings(points: Sequence[Comparison]) -> list[tuple[float, bool]]:
    """Where the ratio passes 1 along an axis, and whether diffusion wins behind it; between two values by log-log."""
    ordered = sorted(points, key=lambda each: each.value)
    found = []
    for one, other in itertools.pairwise(ordered):
        if (one.ratio >= 1) != (other.ratio >= 1):
            low, high = math.log(one.ratio), math.log(other.ratio)
            share = low / (low - high)
            at = math.exp(math.log(one.value) + share * (math.log(other.value) - math.log(one.value)))
            found.append((at, other.ratio >= 1))
    return found
