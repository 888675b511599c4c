"""Every setting, the twin and other baselines on the same items, by turns; what each gains in speed and loses."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.frontier.cold import ColdSubject
from quicksilver.evaluation.frontier.settings import Setting
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.running import Record, Sampling, Side, compare, figures
from quicksilver.evaluation.subject import Subject
from quicksilver.evaluation.subjects.engine import EngineSubject, ExactPolicy
from quicksilver.evaluation.suite import Suite

DIFFUSION, TWIN, BASELINE = "diffusion", "twin", "baseline"


@dataclass(frozen=True, kw_only=True, slots=True)
class Contender:
    """Who is asked."""

    label: str
    family: str
    """Contenders of one family are points of one line."""
    kind: str
    """``DIFFUSION``, ``TWIN`` or ``BASELINE``."""
    slug: str
    subject: Subject
    setting: Setting | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """What one contender reached."""

    label: str
    family: str
    kind: str
    quality: Interval
    tokens_per_s: Interval
    seconds: Interval
    """Per item."""
    tpf: Interval | None
    """None where a server does not count its forwards."""
    nfe: Interval | None
    others: Mapping[str, Interval]
    """Further figures of the suite."""
    is_on_front: bool = False
    """No diffusion setting has more of both quality and speed."""
    is_in_place: bool = False
    has_fixed_nfe: bool = False
    """See ``Setting``."""
    is_chosen: bool = False
    """The fastest that is as good as the twin."""
    is_compared: bool = False
    """The same among those whose forwards grow with the hole: what can be compared along lengths."""

    def to_dict(self) -> dict[str, object]:
        """JSON-ready."""
        return asdict(self)


def diffusion_contenders(base: EngineSubject, settings: Sequence[Setting], cache: str | None) -> list[Contender]:
    """One per setting; ``cache`` is of rows in place, see ``DecodingOptions``."""
    found = []
    for setting in settings:
        is_in_place = setting.block_length is None
        options = ExactPolicy(
            exact_policy=setting.policy.policy,
            cache=cache if is_in_place else None,
            block_length=setting.block_length,
        )
        subject = ColdSubject(
            name=setting.label, model=base.model, layout=setting.layout, options=options, identity=base.identity
        )
        found.append(
            Contender(
                label=setting.label,
                family=setting.family,
                kind=DIFFUSION,
                slug=setting.slug,
                subject=subject,
                setting=setting,
            )
        )
    return found


def twin_contender(base: EngineSubject) -> Contender:
    """The autoregressive twin in our engine."""
    subject = ColdSubject(name=base.name, model=base.model, options=base.options, identity=base.identity)
    return Contender(label=f"twin: {base.name}", family="twin", kind=TWIN, slug="twin", subject=subject)


def baseline_contender(subject: Subject, number: int) -> Contender:
    """Anything else that answers."""
    return Contender(label=subject.name, family=subject.name, kind=BASELINE, slug=f"baseline-{number}", subject=subject)


def run_sweep(
    suite: Suite[Any],
    contenders: Sequence[Contender],
    sampling: Sampling,
    quality: str,
    *,
    folder: Path,
    machine: Mapping[str, object],
    advance: Callable[[], None],
) -> list[Point]:
    """Ask every contender every item, by turns.

    Args:
        suite: the questions.
        contenders: who is asked.
        sampling: of all.
        quality: the figure of the suite that stands for quality.
        folder: of logs; what they hold is not asked again.
        machine: what times depend on; a log of another machine is refused.
        advance: called with every answer, old ones included.

    Raises:
        ConfigError: a log is of another run, or the suite has no such figure.
    """
    sides = []
    for contender in contenders:
        identity = {
            "suite": dict(suite.about()),
            "subject": dict(contender.subject.about()),
            "machine": dict(machine),
            **asdict(sampling),
        }
        log = ResultLog(folder / f"{contender.slug}.jsonl", json.loads(json.dumps(identity, default=str)))
        sides.append(Side(subject=contender.subject, log=log, on_record=lambda _: advance()))
    items = suite.items()
    _warm_up(suite, sides, len(items), sampling)
    compare(suite, sides, items, sampling)
    points = [_point(contender, side.records, quality) for contender, side in zip(contenders, sides, strict=True)]
    return mark_front(points)


def _warm_up(suite: Suite[Any], sides: Sequence[Side], num_items: int, sampling: Sampling) -> None:
    """First requests pay for what later ones find ready; nobody's first counts."""
    for side in sides:
        if len(side.seen()) < num_items:
            suite.ask(side.subject, suite.items()[0], sampling.seed, sampling.temperature)


def _point(contender: Contender, records: Sequence[Record], quality: str) -> Point:
    found = figures(records)
    if quality not in found:
        raise ConfigError(f"the suite has no figure {quality!r}; it has {', '.join(found)}")
    nothing = Interval(value=0.0, low=0.0, high=0.0)
    used = {quality, "tokens_per_s", "seconds", "tpf", "nfe"}
    return Point(
        label=contender.label,
        family=contender.family,
        kind=contender.kind,
        quality=found[quality],
        tokens_per_s=found.get("tokens_per_s", nothing),  # nothing at all was written
        seconds=found["seconds"],
        tpf=found.get("tpf"),
        nfe=found.get("nfe"),
        others={name: interval for name, interval in found.items() if name not in used},
        is_in_place=contender.setting is not None and contender.setting.block_length is None,
        has_fixed_nfe=contender.setting is not None and contender.setting.has_fixed_nfe,
    )


def mark_front(points: Sequence[Point]) -> list[Point]:
    """Mark the diffusion settings that no other one beats in quality and speed together."""
    places = {each.label: (each.quality.value, each.tokens_per_s.value) for each in points if each.kind == DIFFUSION}

    def is_beaten(place: tuple[float, float]) -> bool:
        return any(other != place and other[0] >= place[0] and other[1] >= place[1] for other in places.values())

    return [replace(each, is_on_front=each.kind == DIFFUSION and not is_beaten(places[each.label])) for each in points]


def mark_chosen(points: Sequence[Point], tolerance: float) -> list[Point]:
    """Mark the fastest diffusion setting as good as the twin, ``tolerance`` allowed for; else the best one.

    Raises:
        ConfigError: there is no diffusion setting, or ``tolerance`` is negative.
    """
    if tolerance < 0:
        raise ConfigError(f"tolerance must not be negative, got {tolerance}")
    settings = [each for each in points if each.kind == DIFFUSION]
    if not settings:
        raise ConfigError("there is no diffusion setting to choose from")
    wanted = min((each.quality.value for each in points if each.kind == TWIN), default=0.0) - tolerance
    best = _fastest(settings, wanted)
    compared = _fastest([each for each in settings if not each.has_fixed_nfe] or settings, wanted)
    return [replace(each, is_chosen=each is best, is_compared=each is compared) for each in points]


def _fastest(points: Sequence[Point], wanted: float) -> Point:
    # Sums of floats: what is equal to the limit in decimals must count.
    good = [each for each in points if each.quality.value >= wanted - 1e-9]
    if good:
        return max(good, key=lambda each: (each.tokens_per_s.value, each.quality.value))
    return max(points, key=lambda each: (each.quality.value, each.tokens_per_s.value))
