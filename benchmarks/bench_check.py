r"""A few ratios of the bundled models in about two minutes, beside those recorded in docs/results/bench-check.json.

Only ratios of things that take turns in one process: they move far less between machines than times do. Nothing
fails where one has moved; it is for whoever changed the engine to look at.

Examples:
  python benchmarks/bench_check.py                # the same as make bench-check
  python benchmarks/bench_check.py --rounds 9 --threads 2 --out runs/bench-check.json
  python scripts/results.py add runs/bench-check.json --name bench-check    # records what the last run has found
"""

import json
import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import CONTEXT, Subject, Suite, finish, markdown_table, progress, reported_errors, verbatim
from engine import BATCHES, IN_PLACE, PSM, TWIN, Side, load_sides, measure_first_token, measure_load, measure_overhead

from quicksilver.api import DecodingOptions
from quicksilver.decoding import Cache
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.suites.filling import LINE_END, InfillItem

RECORDED = Path(__file__).parents[1] / "docs/results/bench-check.json"
MODEL, AR_TWIN = "quicksilver-coder", "quicksilver-coder-ar"
NUM_STEPS = 20
"""Engine steps of one round."""
MACHINE = ("cpu", "cpu_cores", "gpu", "threads", "torch")
"""What must agree for two runs to be of the same machine."""
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A ratio: the median of the rounds, between their least and their most."""

    figure: str
    ratio: Interval


@app.command(help=verbatim(__doc__))
def main(
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table.")] = Path("runs/bench-check.json"),
    recorded: Annotated[Path, typer.Option(help="What to compare with.")] = RECORDED,
    items: Annotated[int, typer.Option(min=1, help="Holes (HumanEval, one line).")] = 6,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 5,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads. Two suffer far more from other work.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the sample and the decoding.")] = 0,
) -> None:
    """Measure and compare."""
    with reported_errors():
        torch.set_num_threads(threads)
        subject = Subject(
            model=MODEL, suite=Suite.HUMANEVAL, tokens=None, items=items, context=CONTEXT, seed=seed, device="cpu"
        )
        before = read_recorded(recorded)
        options = DecodingOptions(seed=seed, stop=(LINE_END,))
        sides = load_sides(subject, replace(subject, model=AR_TWIN), options, torch.float32, None)
        sides[IN_PLACE] = replace(sides[IN_PLACE], options=replace(options, cache=Cache.VICINITY))
        load, found = os.getloadavg()[0], environment()
        figures = measure(ratios(sides, subject.holes()), rounds)
        about = subject.about() | {"twin": AR_TWIN, "rounds": rounds, "environment": found}
        about |= {"load_average_before": round(load, 1), "figures_of": "median (least to most) of the rounds"}
        finish(out, about | {"ratios": [asdict(each) for each in figures]}, comparison(figures, before, found))


def ratios(sides: Mapping[str, Side], holes: Sequence[InfillItem]) -> dict[str, Callable[[], float]]:
    """One round of every figure."""

    def overhead(name: str, batch: int) -> float:
        return measure_overhead(sides[name], holes, batch, NUM_STEPS)["ratio"]

    def first_token(name: str) -> float:
        return measure_first_token(sides[name], holes, 1)["ratio"]

    def requests_at_once(name: str) -> float:
        few, many = (measure_load(sides[name], holes, level)["requests_per_s"] for level in (1, 16))
        return many / few

    def holes_per_second(name: str) -> float:
        seconds = [(sides[TWIN].fill(item).seconds, sides[name].fill(item).seconds) for item in holes]
        return sum(twin for twin, _ in seconds) / sum(own for _, own in seconds)

    found: dict[str, Callable[[], float]] = {}
    for name in (PSM, TWIN):
        for batch in BATCHES:
            found[f"engine step ÷ bare network, batch {batch}, {name}"] = partial(overhead, name, batch)
        found[f"first token, cached ÷ uncached, {name}"] = partial(first_token, name)
        found[f"requests/s, 16 at once ÷ 1, {name}"] = partial(requests_at_once, name)
    for name in (IN_PLACE, PSM):
        found[f"holes/s, {name} ÷ twin"] = partial(holes_per_second, name)
    return found


def measure(once: Mapping[str, Callable[[], float]], rounds: int) -> list[Figure]:
    """All figures of a round come before those of the next, so that a busy minute spoils one round of each."""
    values: dict[str, list[float]] = {name: [] for name in once}
    with progress() as bar:
        task = bar.add_task("warming up", total=(rounds + 1) * len(once), detail="")
        for turn in range(rounds + 1):
            bar.update(task, description=f"round {turn} of {rounds}" if turn else "warming up")
            for name, each in once.items():
                value = each()
                if turn:
                    values[name].append(value)
                bar.advance(task)
    return [
        Figure(figure=name, ratio=Interval(value=statistics.median(each), low=min(each), high=max(each)))
        for name, each in values.items()
    ]


@dataclass(frozen=True, slots=True)
class Recorded:
    """What the repository keeps of an earlier run."""

    environment: Mapping[str, object]
    date: str | None
    ratios: Mapping[str, Interval]


def read_recorded(path: Path) -> Recorded | None:
    """None if nothing is recorded yet."""
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        ratios = {row["figure"]: Interval(**row["ratio"]) for row in values["rows"]}
        return Recorded(values["environment"], values["date"], ratios)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no recorded ratios: {error!r}") from error


def comparison(figures: Sequence[Figure], before: Recorded | None, machine: Mapping[str, object]) -> str:
    """What moved, as a table with notes."""
    known = before.ratios if before else {}
    rows = [
        (each.figure, _text(known.get(each.figure)), _text(each.ratio), moved(known.get(each.figure), each.ratio))
        for each in figures
    ]
    notes = ["A ratio is the median of the rounds (least to most)."]
    if before is None:
        notes.append("Nothing is recorded yet: scripts/results.py add does that.")
    else:
        notes.append(f"Recorded {before.date or 'at an unknown date'} at {before.environment.get('commit')}.")
        then = {key: before.environment.get(key) for key in MACHINE}
        if different := [
            f"{key} {old} then, {machine.get(key)} now" for key, old in then.items() if old != machine.get(key)
        ]:
            notes.append(f"Another machine: {'; '.join(different)}.")
        if gone := [name for name in known if name not in {each.figure for each in figures}]:
            notes.append(f"Recorded and no longer measured: {', '.join(gone)}.")
    return "\n\n".join([markdown_table(("figure", "recorded", "now", "moved"), rows), *notes])


def moved(recorded: Interval | None, now: Interval) -> str:
    """By how much, and whether that is more than the rounds of either run scatter."""
    if recorded is None:
        return "new"
    is_beyond = now.low > recorded.high or now.high < recorded.low
    return f"{now.value / recorded.value - 1:+.0%}" + (", beyond both ranges" if is_beyond else "")


def _text(ratio: Interval | None) -> str:
    return "" if ratio is None else f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})"


if __name__ == "__main__":
    app()
