"""Running an infill suite: fill every hole, judge the text, keep the results, sum up with intervals.

Exact match compares with the reference after trailing white space alone is stripped from both. The parse rate is that
of the whole completed file. Nothing is executed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np

from quicksilver.api import Completion, DecodingOptions, FinishReason, InfillLayout, InfillRequest, Model
from quicksilver.decoding import Policy
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_mean, bootstrap_ratio
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.suites import InfillItem, LineKind, parse

LINE_END = "\n"


@runtime_checkable
class Filler(Protocol):
    """What a suite asks of a model."""

    def count_tokens(self, text: str) -> int:
        """Length of a text in the model's tokens."""
        ...

    def fill(self, prefix: str, suffix: str, hole_length: int | None) -> Completion:
        """One hole filled; ``hole_length`` is the reference's length in tokens, None if it is to be found."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class ExactPolicy(DecodingOptions):
    """Options with a policy object, for settings that have no option of their own."""

    exact_policy: Policy | None
    """None: the checkpoint's; must be None where that is autoregressive."""

    def resolve_policy(self, spec: DiffusionSpec) -> Policy | None:
        """The policy as given; the sampler still checks it against the checkpoint."""
        return self.exact_policy


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiller:
    """A loaded model with fixed options. Give the options a seed, or the results cannot be repeated."""

    model: Model
    layout: InfillLayout
    options: DecodingOptions = field(default_factory=lambda: DecodingOptions(seed=0))
    is_one_line: bool = False
    """Ask for one line, as a client that wants one does: the line's end is a stop string. It is added to the text
    again, and counts as no token."""

    def count_tokens(self, text: str) -> int:
        return len(self.model.tokenizer.encode(text.removesuffix(LINE_END) if self.is_one_line else text))

    def fill(self, prefix: str, suffix: str, hole_length: int | None) -> Completion:
        """See ``request``."""
        completion = self.model.run(self.request(prefix, suffix, hole_length))
        return _with_line_end(completion) if self.is_one_line else completion

    def request(self, prefix: str, suffix: str, hole_length: int | None) -> InfillRequest:
        """A given length is exact in place; in layout psm, where the model ends the hole itself, it is a limit."""
        if self.is_one_line and hole_length is not None:
            raise ConfigError("a line of given length ends there; ask for one line or give its length")
        is_in_place = self.layout is InfillLayout.IN_PLACE
        return InfillRequest(
            texts=(prefix, suffix),
            hole_length=hole_length if is_in_place else None,
            max_hole_length=None if is_in_place else hole_length,
            layout=self.layout,
            options=replace(self.options, stop=(LINE_END,)) if self.is_one_line else self.options,
        )


def _with_line_end(completion: Completion) -> Completion:
    """What the hole of a completion would hold with the line end that stopped it."""
    if completion.finish_reason is not FinishReason.STOP:
        return completion
    (hole,) = completion.holes
    return replace(completion, holes=(replace(hole, text=hole.text + LINE_END),))


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemResult:
    """How one hole was filled."""

    item_id: str
    kind: LineKind
    text: str
    is_exact: bool
    parses: bool
    """Whether the whole completed file is valid syntax."""
    num_tokens: int
    reference_tokens: int
    nfe: int
    seconds: float
    finish_reason: str

    @property
    def tpf(self) -> float:
        return self.num_tokens / self.nfe if self.nfe else 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class InfillSummary:
    """Figures of a suite. Ratios are of sums over items, so that long lines count by their length."""

    num_items: int
    exact_match: Interval
    parse_rate: Interval
    length_error: Interval
    """Mean of written minus reference tokens: negative means too short."""
    absolute_length_error: Interval
    nfe: Interval
    """Forwards per item."""
    tpf: Interval
    tokens_per_s: Interval
    seconds: float
    """Decoding time of all items."""
    exact_match_by_kind: dict[str, Interval]
    items_by_kind: dict[str, int]

    def to_dict(self) -> dict[str, object]:
        """A JSON-ready dictionary."""
        return asdict(self)


def judge(item: InfillItem, completion: Completion, reference_tokens: int) -> ItemResult:
    """Compare a completion with its reference."""
    text = completion.holes[0].text
    return ItemResult(
        item_id=item.item_id,
        kind=item.kind,
        text=text,
        is_exact=text.rstrip() == item.middle.rstrip(),
        parses=parse(item.prefix + text + item.suffix) is not None,
        num_tokens=completion.num_tokens,
        reference_tokens=reference_tokens,
        nfe=completion.nfe,
        seconds=completion.seconds,
        finish_reason=completion.finish_reason,
    )


def run_suite(
    filler: Filler,
    items: Sequence[InfillItem],
    *,
    is_length_given: bool,
    log: ResultLog | None = None,
    on_item: Callable[[ItemResult], None] | None = None,
) -> list[ItemResult]:
    """Fill every item, in order; those that ``log`` already holds are not filled again.

    Args:
        filler: the model.
        items: the suite.
        is_length_given: tell the model the reference's length in its own tokens.
        log: where results are kept as they come.
        on_item: called with every result, old ones included.
    """
    done = {} if log is None else {str(values["item_id"]): _read_item(values) for values in log.read()}
    results = []
    for item in items:
        result = done.get(item.item_id)
        if result is None:
            length = max(filler.count_tokens(item.middle), 1)
            completion = filler.fill(item.prefix, item.suffix, length if is_length_given else None)
            result = judge(item, completion, length)
            if log is not None:
                log.append(asdict(result) | {"tpf": round(result.tpf, 4)})
        results.append(result)
        if on_item is not None:
            on_item(result)
    return results


def _read_item(values: dict[str, object]) -> ItemResult:
    kept = {name: value for name, value in values.items() if name != "tpf"}
    return ItemResult(**(kept | {"kind": LineKind(str(values["kind"]))}))  # pyright: ignore[reportArgumentType]


def summarise(results: Sequence[ItemResult]) -> InfillSummary:
    """Figures with bootstrap intervals over items.

    Raises:
        ConfigError: there is no result.
    """
    exact = np.array([result.is_exact for result in results], dtype=np.float64)
    tokens, reference, nfe, seconds = (
        np.array([getattr(result, name) for result in results], dtype=np.float64)
        for name in ("num_tokens", "reference_tokens", "nfe", "seconds")
    )
    kinds = np.array([result.kind for result in results])
    present = [kind for kind in LineKind if (kinds == kind).any()]
    return InfillSummary(
        num_items=len(results),
        exact_match=bootstrap_mean(exact),
        parse_rate=bootstrap_mean(np.array([result.parses for result in results], dtype=np.float64)),
        length_error=bootstrap_mean(tokens - reference),
        absolute_length_error=bootstrap_mean(np.abs(tokens - reference)),
        nfe=bootstrap_mean(nfe),
        tpf=bootstrap_ratio(tokens, nfe),
        tokens_per_s=bootstrap_ratio(tokens, seconds),
        seconds=float(seconds.sum()),
        exact_match_by_kind={kind.value: bootstrap_mean(exact[kinds == kind]) for kind in present},
        items_by_kind={kind.value: int((kinds == kind).sum()) for kind in present},
    )
