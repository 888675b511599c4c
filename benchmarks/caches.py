r"""What stale rows cost and bring in place: every cache and policy on the same lines of the validation split, in turns.

Validation, not the public test: what is chosen here may become a default.

Examples:
  python benchmarks/caches.py --tokens data/corpus --items 120 --at-once 16 --out runs/caches.json
  python benchmarks/caches.py --tokens data/corpus --cache dual --policy confidence_threshold:0.7 \
      --policy entropy_bound:0.3 --policy fixed_steps:6 --twin quicksilver-coder-ar --out runs/policies.json

A cache is a name, or a name and after a colon how often all rows are computed; a policy is a line of ``quicksilver
bench frontier``, name and parameter. Every hole is filled once by each setting before the next hole comes, in an order
that rotates, so that a busy machine slows all of them. The first setting is what the others are compared with.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import default_layout, finish, in_engine, load_model, markdown_table, progress, reported_errors, verbatim
from lengths import code_lines

from quicksilver.api import InfillLayout, InfillRequest, Model
from quicksilver.decoding import Policy
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.frontier.settings import GRID
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.running import Record, paired
from quicksilver.evaluation.running import figures as figures_of_records
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.subjects.engine import EngineSubject, ExactPolicy, answer_of
from quicksilver.evaluation.suites.filling import InfillItem, judge_hole

CACHES = ("exact", "dual", "dual:4", "dual:8", "vicinity", "vicinity:8")
DEFAULT_POLICY = "the model's"
TWIN = "twin"
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One hole by one setting."""

    record: Record
    num_stale_forwards: int
    num_stale_rows: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one setting; the comparisons are with the first setting, hole by hole."""

    setting: str
    exact_match: Interval
    parse_rate: Interval
    absolute_length_error: Interval
    nfe: Interval
    stale_forwards: float
    stale_rows: float
    """Per hole."""
    ms_per_hole: float
    ms_per_hole_at_once: float | None
    """With ``--at-once`` requests in the engine; None: not measured."""
    times_faster: float
    """Seconds of the first setting over seconds of this one, both summed over holes."""
    more_exact: Interval
    """Exact match minus the first setting's."""
    more_parse: Interval
    same_text: float
    """Share of holes with the first setting's text."""


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    tokens: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    model: Annotated[str, typer.Option(help="Checkpoint folder or bundled name.")] = "quicksilver-coder",
    twin: Annotated[str | None, typer.Option(help="Autoregressive checkpoint to measure beside it.")] = None,
    cache: Annotated[list[str] | None, typer.Option(help=f"May be repeated; default: {', '.join(CACHES)}.")] = None,
    policy: Annotated[list[str] | None, typer.Option(help="May be repeated; default: the checkpoint's.")] = None,
    items: Annotated[int, typer.Option(help="Lines of code.")] = 120,
    at_once: Annotated[int, typer.Option(help="Also fill so many holes together; 0: do not.")] = 0,
    length: Annotated[str, typer.Option(help="unknown or given.")] = "unknown",
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the lines and the decoding.")] = 0,
) -> None:
    """Measure and report."""
    with reported_errors():
        if length not in ("unknown", "given"):
            raise ConfigError(f"length must be unknown or given, not {length!r}")
        torch.set_num_threads(threads)
        loaded, lines = load_model(model, "cpu"), code_lines(tokens, items, seed)
        fillers = {
            f"{name}, {each}": filler(loaded, name, each, seed)
            for each in policy or [DEFAULT_POLICY]
            for name in cache or CACHES
        }
        is_given = length == "given"
        if twin is not None:
            options = ExactPolicy(exact_policy=None, seed=seed)
            fillers[TWIN] = in_engine(load_model(twin, "cpu"), InfillLayout.PSM, options)
        with progress() as bar:
            task = bar.add_task("holes", total=(len(lines) + 1) * len(fillers), detail="")
            fill_in_turns(fillers, lines[:1], is_given, lambda: bar.advance(task))  # warms up
            runs = fill_in_turns(fillers, lines, is_given, lambda: bar.advance(task))
            together = fill_at_once(fillers, lines, is_given, at_once) if at_once else {}
        figures = [figures_of(name, each, runs[next(iter(runs))], together.get(name)) for name, each in runs.items()]
        about = {"model": model, "twin": twin, "items": items, "seed": seed, "split": "validation", "threads": threads}
        about |= {"at_once": at_once, "length": length}
        about |= {"environment": environment(), "settings": [asdict(each) for each in figures]}
        about["runs"] = {name: [asdict(run) for run in each] for name, each in runs.items()}
        finish(out, about, table(figures))


def filler(model: Model, cache: str, policy: str, seed: int) -> EngineSubject:
    """The model in place under one setting; questions have the options' seed."""
    name, _, every = cache.partition(":")
    options = ExactPolicy(
        exact_policy=policy_of(policy), seed=seed, cache=name, refresh_every=int(every) if every else None
    )
    return in_engine(model, default_layout(model), options)


def policy_of(text: str) -> Policy | None:
    """The policy of that line of ``frontier.settings.GRID``; None: the checkpoint's."""
    known = {f"{each.name}:{each.parameter}": each.policy for each in GRID}
    if text != DEFAULT_POLICY and text not in known:
        raise ConfigError(f"no policy {text!r}; known: {', '.join(known)}")
    return known.get(text)


def fill_in_turns(
    fillers: dict[str, EngineSubject], items: Sequence[InfillItem], is_length_given: bool, advance: Callable[[], None]
) -> dict[str, list[Run]]:
    """What every setting wrote, in the order of the items."""
    runs: dict[str, list[Run]] = {name: [] for name in fillers}
    names = list(fillers)
    for number, item in enumerate(items):
        for turn in range(len(names)):
            name = names[(turn + number) % len(names)]
            runs[name].append(fill(fillers[name], item, is_length_given))
            advance()
    return runs


def asked(filler: EngineSubject, item: InfillItem, is_length_given: bool) -> tuple[InfillRequest, int]:
    """The request of a hole, and its reference's length in the filler's tokens."""
    length = max(len(filler.model.tokenizer.encode(item.middle)), 1)
    ask = Ask(seed=filler.options.seed or 0, hole_length=length if is_length_given else None)
    return filler.request((item.prefix, item.suffix), ask), length


def fill(filler: EngineSubject, item: InfillItem, is_length_given: bool) -> Run:
    """One hole."""
    request, length = asked(filler, item, is_length_given)
    done = filler.model.run(request)
    answer = replace(answer_of(done), reference_tokens=length)
    return Run(
        record=Record(item_id=item.item_id, sample=0, answer=answer, mark=judge_hole(item, answer)),
        num_stale_forwards=done.num_stale_forwards,
        num_stale_rows=done.num_stale_rows,
    )


def fill_at_once(
    fillers: dict[str, EngineSubject], items: Sequence[InfillItem], is_length_given: bool, count: int
) -> dict[str, float]:
    """Milliseconds per hole with ``count`` requests in the engine, setting by setting for every group of items."""
    seconds = dict.fromkeys(fillers, 0.0)
    groups = [items[at : at + count] for at in range(0, len(items) - count + 1, count)]
    if not groups:
        raise ConfigError(f"{count} holes at once need as many items, got {len(items)}")
    for group in groups:
        for name, each in fillers.items():
            requests = [each.model.engine_request(asked(each, item, is_length_given)[0]) for item in group]
            start = time.perf_counter()
            each.model.engine.run(requests)
            seconds[name] += time.perf_counter() - start
    return {name: 1000 * total / (count * len(groups)) for name, total in seconds.items()}


def figures_of(name: str, runs: Sequence[Run], first: Sequence[Run], ms_per_hole_at_once: float | None) -> Figures:
    """Sum up one setting."""
    records, base = [run.record for run in runs], [run.record for run in first]
    found, more = figures_of_records(records), paired(records, base)
    seconds, base_seconds = (sum(each.answer.seconds for each in side) for side in (records, base))
    return Figures(
        setting=name,
        exact_match=found["exact_match"],
        parse_rate=found["parse_rate"],
        absolute_length_error=found["absolute_length_error"],
        nfe=found["nfe"],
        stale_forwards=statistics.mean(run.num_stale_forwards for run in runs),
        stale_rows=statistics.mean(run.num_stale_rows for run in runs),
        ms_per_hole=1000 * seconds / len(runs),
        ms_per_hole_at_once=ms_per_hole_at_once,
        times_faster=base_seconds / seconds,
        more_exact=more["exact_match"],
        more_parse=more["parse_rate"],
        same_text=statistics.mean(
            one.answer.texts == other.answer.texts for one, other in zip(records, base, strict=True)
        ),
    )


def table(figures: Sequence[Figures]) -> str:
    """One row per setting."""
    header = (
        "setting", "exact match", "parse rate", "length error", "NFE", "stale forwards", "stale rows", "ms/hole",
        "at once", "x first", "exact - first", "parse - first", "same text",
    )  # fmt: skip
    rows = [
        (
            f.setting,
            f.exact_match,
            f.parse_rate,
            f"{f.absolute_length_error.value:.2f}",
            f"{f.nfe.value:.2f}",
            f"{f.stale_forwards:.2f}",
            f"{f.stale_rows:.0f}",
            f"{f.ms_per_hole:.0f}",
            "" if f.ms_per_hole_at_once is None else f"{f.ms_per_hole_at_once:.0f}",
            f"{f.times_faster:.2f}",
            f.more_exact,
            f.more_parse,
            f"{f.same_text:.2f}",
        )
        for f in figures
    ]
    return markdown_table(header, rows)


if __name__ == "__main__":
    app()
