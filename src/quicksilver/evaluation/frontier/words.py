"""What the figures say, in sentences."""

from collections.abc import Sequence

from quicksilver.evaluation.frontier.crossover import UNITS, Axis, Comparison, Condition, crossings
from quicksilver.evaluation.frontier.sweep import DIFFUSION, TWIN, Point

_NAMES = {Axis.OUTPUT: "length of the answer", Axis.CONTEXT: "length of the context", Axis.CONCURRENCY: "load"}


def sweep_words(points: Sequence[Point], quality: str, tolerance: float) -> list[str]:
    """The best quality, the best speed at the twin's quality, and what more speed costs."""
    settings = [each for each in points if each.kind == DIFFUSION]
    twin = next((each for each in points if each.kind == TWIN), None)
    best = max(settings, key=lambda each: (each.quality.value, each.tokens_per_s.value))
    fastest = max(settings, key=lambda each: each.tokens_per_s.value)
    if best.quality.value == 0 and (twin is None or twin.quality.value == 0):
        return [f"Nobody has any {_plain(quality)}, so nothing can be said of quality against speed: take more items."]
    found = [f"The best {_plain(quality)} of a diffusion setting is {_score(best)}, by {best.label}: {_pace(best)}."]
    if twin is not None:
        found.append(f"The twin reaches {_score(twin)} at {_pace(twin)}.")
        found.append(_at_twins_quality(next(each for each in points if each.is_chosen), twin, quality, tolerance))
    if fastest is not best:
        found.append(f"The fastest setting, {fastest.label}, runs at {_pace(fastest)} and keeps {_score(fastest)}.")
    others = [each for each in points if each.kind not in (DIFFUSION, TWIN)]
    return found + [f"{each.label} reaches {_score(each)} at {_pace(each)}." for each in others]


def _at_twins_quality(point: Point, twin: Point, quality: str, tolerance: float) -> str:
    if point.quality.value < twin.quality.value - tolerance - 1e-9:
        return (
            f"No setting is as good as the twin: the best one, {point.label}, loses "
            f"{twin.quality.value - point.quality.value:.3f} of {_plain(quality)}, {_times(point, twin)}."
        )
    return (
        f"At the twin's quality (less {tolerance:g} allowed for) the fastest setting is {point.label}: "
        f"{_score(point)}, {_times(point, twin)}."
    )


def _times(point: Point, twin: Point) -> str:
    per_token = point.tokens_per_s.value / twin.tokens_per_s.value if twin.tokens_per_s.value else float("inf")
    per_item = twin.seconds.value / point.seconds.value
    return f"with {per_token:.2f} times the twin's tokens/s and {per_item:.2f} times its answers/s"


def _pace(point: Point) -> str:
    tpf = "" if point.tpf is None else f", {point.tpf.value:.2f} tokens per forward"
    return f"{point.tokens_per_s.value:.0f} tokens/s{tpf}"


def _score(point: Point) -> str:
    return f"{point.quality.value:.3f} [{point.quality.low:.3f}, {point.quality.high:.3f}]"


def _plain(figure: str) -> str:
    return figure.replace("_", " ")


def compared_words(points: Sequence[Point]) -> str:
    """Which setting the crossover is of."""
    compared = next(each for each in points if each.is_compared)
    return (
        f"Lengths and load are compared under {compared.label}, the fastest setting as good as the twin (or else the "
        f"best one) among those whose forwards grow with the hole."
    )


def crossover_words(points: Sequence[Comparison], base: Condition) -> dict[Axis, str]:
    """For each axis where diffusion begins to lose, or that it never does."""
    return {
        axis: axis_words(axis, [each for each in points if each.axis is axis], base)
        for axis in dict.fromkeys(each.axis for each in points)
    }


def axis_words(axis: Axis, points: Sequence[Comparison], base: Condition) -> str:
    """One axis; ``points`` are all of it."""
    ordered = sorted(points, key=lambda each: each.value)
    first, last = ordered[0], ordered[-1]
    low, high = (sorted(ordered, key=lambda each: each.ratio)[index] for index in (0, -1))
    head = f"By {_NAMES[axis]} ({_others(axis, base)}): "
    span = f"{first.value} to {last.value} {UNITS[axis]}"
    spread = f"{low.ratio:.2f} times the twin's tokens/s at {low.value} to {high.ratio:.2f} at {high.value}"
    passed = crossings(ordered)
    if not passed:
        verdict = "diffusion is faster" if first.ratio >= 1 else "diffusion is slower"
        return f"{head}{verdict} everywhere from {span}, from {spread}."
    if len(passed) == 1:
        at, wins_behind = passed[0]
        verdict = "begins to win" if wins_behind else "begins to lose"
        return f"{head}diffusion {verdict} at about {_rounded(at)} {UNITS[axis]}; it has {spread}."
    places = ", ".join(_rounded(at) for at, _ in passed)
    return (
        f"{head}the two are too near each other to name one place: they change places at about {places} {UNITS[axis]}; "
        f"diffusion has {spread}."
    )


def _others(axis: Axis, base: Condition) -> str:
    parts = {
        Axis.OUTPUT: f"{base.output} tokens written",
        Axis.CONTEXT: f"{base.context} tokens of context",
        Axis.CONCURRENCY: "one request at a time" if base.concurrency == 1 else f"{base.concurrency} requests at once",
    }
    return ", ".join(text for each, text in parts.items() if each is not axis)


def _rounded(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
