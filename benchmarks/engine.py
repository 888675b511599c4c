r"""The engine, measured: its overhead, its speed against the twin and other engines, under load, in memory.

Examples:
  python benchmarks/engine.py --model quicksilver-coder --twin quicksilver-coder-ar --out runs/engine.json
  python benchmarks/engine.py --model runs/coder/final --twin runs/coder-ar/final --items 100 --rounds 7 --threads 1 \
      --only speed --only load --plot runs/engine.svg --out runs/engine.json

Parts (--only picks some):
  overhead     an engine step over the bare network on the same rows, at batch 1 and 16, and both under strict
               arithmetic; to plan the attention (slots,
               masks) is the engine's work, so the bare network finds that done
  speed        batch 1: diffusion in place and prefix-suffix-middle, the autoregressive twin in the same engine, and the
               twin in transformers (a loop over its cache, and generate) and llama.cpp (weights in q8_0 and in f32),
               where installed
  load         tokens/s and latency at 1 to 64 concurrent requests
  first-token  time to the first committed token behind a long prefix, cached and not
  memory       peak resident memory over weights and page pool, in a process of its own
  costs        milliseconds of a forward by rows

What is compared takes turns, in changing order. No request finds its prompt in the prefix cache but where that is what
is measured.
"""

import copy
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import engine_memory
import numpy as np
import torch
import typer
from common import (
    CONTEXT,
    Subject,
    Suite,
    finish,
    load_parts,
    markdown_table,
    progress,
    reported_errors,
    verbatim,
)
from engine_rivals import rivals
from speed import Filled, Loop, measure, split

from quicksilver.api import DecodingOptions, InfillLayout, InfillRequest, Model
from quicksilver.api.loading import find_model
from quicksilver.decoding import Cache, Commit
from quicksilver.diffusion.spec import Objective
from quicksilver.engine import costs
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval, bootstrap_mean
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.suites.filling import LINE_END, InfillItem
from quicksilver.models.attention import Attention
from quicksilver.models.denoiser import Denoiser

BATCHES = (1, 16)
LEVELS = (1, 2, 4, 8, 16, 32, 64)
NUM_WARM_STEPS = 3
PREFIX_SHARE = 7 / 8
"""Of the context, for the time to the first token: 448 of the bundled model's 512."""
IN_PLACE, PSM, TWIN = "diffusion, in place", "diffusion, psm", "twin"
_tenants = itertools.count(1)


class Part(StrEnum):
    """What is measured."""

    OVERHEAD = "overhead"
    SPEED = "speed"
    LOAD = "load"
    FIRST_TOKEN = "first-token"
    MEMORY = "memory"
    COSTS = "costs"


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """A model in its engine, asked in one way."""

    model: Model
    denoiser: Denoiser
    engine: Engine
    layout: InfillLayout
    options: DecodingOptions

    def job(self, item: InfillItem) -> Request:
        """The engine's request for a hole, of a tenant of its own: nothing of it is cached."""
        request = InfillRequest(texts=(item.prefix, item.suffix), layout=self.layout, options=self.options)
        return replace(self.model.engine_request(request), tenant=new_tenant())

    def fill(self, item: InfillItem) -> Filled:
        """One hole at batch 1; tokenizing is not timed."""
        job = self.job(item)
        start, first = time.perf_counter(), None
        ticket = self.engine.submit(job)
        while not ticket.is_ended:
            self.engine.step()
            if first is None and ticket.sequence.ledger.nfe:
                first = time.perf_counter() - start
        seconds = time.perf_counter() - start
        token_ids = ticket.result.token_ids
        return Filled(self.model.tokenizer.decode(token_ids), len(token_ids), ticket.result.nfe, seconds, first)


def new_tenant() -> bytes:
    return next(_tenants).to_bytes(8, "little")


def load_sides(
    subject: Subject, twin: Subject, options: DecodingOptions, dtype: torch.dtype, row_budget: int | None
) -> dict[str, Side]:
    """The model in both layouts, where it was trained so, and the twin."""
    sides: dict[str, Side] = {}
    for each, layouts in ((subject, {IN_PLACE: InfillLayout.IN_PLACE, PSM: InfillLayout.PSM}), (twin, None)):
        denoiser, spec, tokenizer = load_parts(each.model, each.device)
        if (spec.objective is Objective.AUTOREGRESSIVE) != (layouts is None):
            raise ConfigError("--model must be a diffusion checkpoint and --twin an autoregressive one")
        denoiser.config = replace(denoiser.config, max_length=min(each.context, denoiser.config.max_length))
        denoiser = denoiser.to(dtype)
        model = Model(denoiser, spec, tokenizer, name=find_model(each.model).resolve().name)
        config = EngineConfig() if row_budget is None else EngineConfig(row_budget=row_budget)
        engine = Engine(denoiser, spec, config)
        chosen = options if layouts else DecodingOptions(seed=options.seed, stop=options.stop)
        for name, layout in (layouts or {TWIN: InfillLayout.PSM}).items():
            sides[name] = Side(model=model, denoiser=denoiser, engine=engine, layout=layout, options=chosen)
    return sides


def strict(side: Side) -> Side:
    """The same under strict arithmetic; what that costs is its engine ms over those without."""
    config = replace(side.engine.config, is_strict=True)
    return replace(side, engine=Engine(side.denoiser, side.model.spec, config))


class Recorder:
    """Keeps what the last forward of an engine's network was given, to give it the same once more without the engine.

    The network is the one that the engine runs, so a faster one makes the engine's share greater, not smaller.
    """

    def __init__(self, engine: Engine) -> None:
        self._runner, self._network, self._denoiser = engine.runner, engine.runner.network, engine.denoiser
        self._inputs: tuple[torch.Tensor, torch.Tensor, Attention] | None = None
        self._head_rows: list[torch.Tensor] = []
        self._is_on = True

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Listen to the network and the head meanwhile."""
        plain = self._denoiser.logits

        def logits(hidden: torch.Tensor) -> torch.Tensor:
            if self._is_on:
                self._head_rows.append(hidden)
            return plain(hidden)

        self._runner.network = self._listen
        vars(self._denoiser)["logits"] = logits
        try:
            yield
        finally:
            del vars(self._denoiser)["logits"]
            self._runner.network = self._network

    def _listen(self, token_ids: torch.Tensor, positions: torch.Tensor, attention: Attention) -> torch.Tensor:
        # An attention counts its layers, so each forward needs one that has not run.
        self._inputs, self._head_rows = (token_ids, positions, copy.copy(attention)), []
        return self._network(token_ids, positions, attention)

    @property
    def num_rows(self) -> int:
        return 0 if self._inputs is None else self._inputs[0].shape[1]

    @torch.inference_mode()
    def replay(self) -> None:
        """The same rows through the same attention, and the logits of the same rows. It writes what stands there."""
        if self._inputs is None:
            return
        self._is_on = False
        token_ids, positions, attention = self._inputs
        self._network(token_ids, positions, copy.copy(attention))
        for rows in self._head_rows:
            self._denoiser.logits(rows)
        self._is_on = True


def measure_overhead(side: Side, items: Sequence[InfillItem], batch: int, num_steps: int) -> dict[str, float]:
    """Engine steps over bare forwards of the same rows, with ``batch`` requests under way."""
    recorder, waiting, tickets = Recorder(side.engine), itertools.cycle(items), []
    engine_ms, bare_ms, rows = [], [], []
    with recorder.attached():
        for _ in range(NUM_WARM_STEPS + num_steps):
            while side.engine.num_requests < batch:
                tickets.append(side.engine.submit(side.job(next(waiting))))
            start = time.perf_counter()
            side.engine.step()
            middle = time.perf_counter()
            recorder.replay()
            engine_ms.append(1000 * (middle - start))
            bare_ms.append(1000 * (time.perf_counter() - middle))
            rows.append(recorder.num_rows)
    for ticket in tickets:
        side.engine.abort(ticket)
    engine_ms, bare_ms, rows = (values[NUM_WARM_STEPS:] for values in (engine_ms, bare_ms, rows))
    return {
        "batch": batch,
        "steps": num_steps,
        "rows_per_step": statistics.mean(rows),
        "engine_ms": statistics.median(engine_ms),
        "bare_ms": statistics.median(bare_ms),
        "ratio": statistics.median(a / b for a, b in zip(engine_ms, bare_ms, strict=True)),
        "ratio_of_sums": sum(engine_ms) / sum(bare_ms),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one loop at batch 1: medians over rounds, quality over the holes."""

    loop: str
    tokens_per_s: float
    tpf: float
    nfe_per_item: float
    ms_per_item: float
    first_ms: float | None
    """Until the first forward that decides was over, so with the prompt's; None: not seen."""
    ms_per_later_forward: float | None
    exact_match: Interval
    times_twin: float
    """Tokens per second over those of the twin in this engine: median over rounds."""
    holes_times_twin: float
    """The same for holes, whose number does not depend on how much is written."""


def sum_up(loops: Mapping[str, Sequence[Sequence[Filled]]], items: Sequence[InfillItem]) -> list[Figures]:
    """Figures of what every loop wrote, by round and item; ``TWIN`` is among the loops."""
    seconds = {name: [sum(f.seconds for f in once) for once in rounds] for name, rounds in loops.items()}
    tokens = {name: [sum(f.num_tokens for f in once) for once in rounds] for name, rounds in loops.items()}
    found = []
    for name, rounds in loops.items():
        nfe = sum(f.nfe for f in rounds[0])
        exact = [f.text.rstrip() == item.middle.rstrip() for f, item in zip(rounds[0], items, strict=True)]
        speed = [n / s for n, s in zip(tokens[name], seconds[name], strict=True)]
        twin = [n / s for n, s in zip(tokens[TWIN], seconds[TWIN], strict=True)]
        pairs = zip(seconds[TWIN], seconds[name], strict=True)
        first_ms, later_ms = split(rounds)
        found.append(
            Figures(
                loop=name,
                tokens_per_s=statistics.median(speed),
                tpf=tokens[name][0] / nfe if nfe else 0.0,
                nfe_per_item=nfe / len(items),
                ms_per_item=1000 * statistics.median(seconds[name]) / len(items),
                first_ms=first_ms,
                ms_per_later_forward=later_ms,
                exact_match=bootstrap_mean(np.array(exact, dtype=np.float64)),
                times_twin=statistics.median(a / b for a, b in zip(speed, twin, strict=True)) if all(twin) else 0.0,
                holes_times_twin=statistics.median(a / b for a, b in pairs),
            )
        )
    return found


def measure_load(side: Side, items: Sequence[InfillItem], level: int) -> dict[str, float]:
    """``level`` requests under way until all holes, or as many as that, are filled."""
    jobs = [side.job(item) for item, _ in zip(itertools.cycle(items), range(max(len(items), level)), strict=False)]
    waiting, running, done = iter(jobs), [], []
    start = time.perf_counter()
    while len(done) < len(jobs):
        while len(running) < level and (job := next(waiting, None)) is not None:
            running.append(side.engine.submit(job))
        side.engine.step()
        done += [ticket for ticket in running if ticket.is_ended]
        running = [ticket for ticket in running if not ticket.is_ended]
    seconds = time.perf_counter() - start
    num_tokens, nfe = sum(len(t.result.token_ids) for t in done), sum(t.result.nfe for t in done)
    latency = [1000 * ticket.usage.seconds for ticket in done]
    return {
        "level": level,
        "requests": len(jobs),
        "tokens_per_s": num_tokens / seconds,
        "requests_per_s": len(jobs) / seconds,
        "tpf": num_tokens / nfe,
        "p50_ms": float(np.percentile(latency, 50)),
        "p99_ms": float(np.percentile(latency, 99)),
    }


def measure_loads(
    sides: Mapping[str, Side], items: Sequence[InfillItem], rounds: int, advance: Callable[[], None]
) -> dict[str, list[dict[str, float]]]:
    """Medians over rounds of every side and level; sides and levels take turns."""
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    for number in range(rounds):
        for level in LEVELS:
            names = list(sides)
            for turn in range(len(names)):
                name = names[(turn + number) % len(names)]
                found.setdefault((name, level), []).append(measure_load(sides[name], items, level))
                advance()
    return {name: [_medians(found[name, level]) for level in LEVELS] for name in sides}


def _medians(rounds: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}


def measure_first_token(side: Side, items: Sequence[InfillItem], rounds: int) -> dict[str, float]:
    """Milliseconds to the first committed token behind a long prefix, seen for the first and the second time."""
    num_prompt = int(side.model.max_length * PREFIX_SHARE)
    texts = "".join(item.prefix + item.middle + item.suffix for item in items)
    token_ids = tuple(side.model.tokenizer.encode(texts * (1 + num_prompt // max(len(texts) // 8, 1))))[:num_prompt]
    base = side.job(items[0])
    params = replace(base.params, max_tokens=side.model.spec.block_length)
    first, second = [], []
    for _ in range(rounds + 1):
        job = replace(base, task=Continuation(prompt_ids=token_ids), params=params, tenant=new_tenant())
        first.append(_first_token_ms(side.engine, job))
        second.append(_first_token_ms(side.engine, job))
    pairs = list(zip(second, first, strict=True))[1:]
    return {
        "prompt_tokens": len(token_ids),
        "uncached_ms": statistics.median(first[1:]),
        "cached_ms": statistics.median(second[1:]),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def _first_token_ms(engine: Engine, job: Request) -> float:
    start = time.perf_counter()
    ticket = engine.submit(job)
    while not any(isinstance(event, Commit) for event in ticket.events):
        engine.step()
    seconds = time.perf_counter() - start
    engine.abort(ticket)
    return 1000 * seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Bench:
    """Everything that is measured, on one set of holes."""

    subject: Subject
    twin: Subject
    sides: Mapping[str, Side]
    holes: Sequence[InfillItem]
    rounds: int
    dtype: torch.dtype

    def measure(self, part: Part) -> object:
        """One part of the report."""
        return {
            Part.OVERHEAD: self._overhead,
            Part.SPEED: self._speed,
            Part.LOAD: self._load,
            Part.FIRST_TOKEN: self._first_token,
            Part.MEMORY: self._memory,
            Part.COSTS: self._costs,
        }[part]()

    def _overhead(self) -> object:
        sides = {name: self.sides[name] for name in (PSM, TWIN)}
        sides |= {f"{name}, strict": strict(side) for name, side in sides.items()}
        return {
            name: [measure_overhead(side, self.holes, batch, 10 * self.rounds) for batch in BATCHES]
            for name, side in sides.items()
        }

    def _speed(self) -> object:
        side = self.sides[TWIN]
        is_one_line = bool(side.options.stop)
        others, left_out = rivals(
            side.model, find_model(self.twin.model), self.subject.device, self.dtype, is_one_line=is_one_line
        )
        loops: dict[str, Loop] = {name: side.fill for name, side in self.sides.items()} | others
        with progress() as bar:
            task = bar.add_task("speed", total=(self.rounds + 1) * len(self.holes), detail="warming up")
            for item in self.holes:
                for loop in loops.values():
                    loop(item)
                bar.advance(task)
            bar.update(task, detail="")
            filled = measure(list(loops.values()), self.holes, self.rounds, lambda: bar.advance(task))
        figures = sum_up(dict(zip(loops, filled, strict=True)), self.holes)
        return {"loops": [asdict(each) for each in figures], "left_out": left_out}

    def _load(self) -> object:
        with progress() as bar:
            task = bar.add_task("load", total=self.rounds * len(LEVELS) * len(self.sides), detail="")
            return measure_loads(self.sides, self.holes, self.rounds, lambda: bar.advance(task))

    def _first_token(self) -> object:
        return {name: measure_first_token(self.sides[name], self.holes, self.rounds) for name in (PSM, TWIN)}

    def _memory(self) -> object:
        dtype, threads = str(self.dtype).partition(".")[2], torch.get_num_threads()
        return [engine_memory.measure(self.subject.model, dtype, threads, count) for count in (16, None)]

    def _costs(self) -> object:
        side = self.sides[PSM]
        curve = costs.measure(side.denoiser, side.model.spec)
        budget = costs.choose_row_budget(curve, longest_block=side.model.spec.block_length)
        return asdict(curve) | {"row_budget": budget}


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


class Dtype(StrEnum):
    """Number format of weights and arithmetic."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="Diffusion checkpoint: folder or bundled name.")],
    twin: Annotated[str, typer.Option(help="Autoregressive checkpoint: folder or bundled name.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table.")],
    suite: Annotated[Suite, typer.Option(help="Which holes.")] = Suite.HUMANEVAL,
    tokens: Annotated[Path | None, typer.Option(help="Corpus folder, for fim-line.")] = None,
    items: Annotated[int, typer.Option(min=1, help="Random holes.")] = 30,
    rounds: Annotated[int, typer.Option(min=1, help="How often each is measured.")] = 5,
    only: Annotated[list[Part] | None, typer.Option(help="Only this part; may be repeated.")] = None,
    policy: Annotated[str | None, typer.Option(help="Default: the checkpoint's.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Confidence from which a token is written.")] = None,
    steps: Annotated[int | None, typer.Option(help="Forwards per block, for policies that count.")] = None,
    cache: Annotated[Cache, typer.Option(help="Of holes in place.")] = Cache.EXACT,
    one_line: Annotated[bool, typer.Option("--one-line", help="End every hole at its first line end.")] = False,
    block_length: Annotated[int | None, typer.Option(help="Of layout psm. Default: the checkpoint's.")] = None,
    row_budget: Annotated[int | None, typer.Option(help="Rows of a forward. Default: the engine's.")] = None,
    dtype: Annotated[
        Dtype, typer.Option(help="Of weights and arithmetic, everywhere but in llama.cpp.")
    ] = Dtype.FLOAT32,
    context: Annotated[int, typer.Option(help="Most tokens the models see.")] = CONTEXT,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and the decoding.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Picture of load and costs, .svg or .png.")] = None,
) -> None:
    """Measure and report."""
    # Long because every option is a parameter.
    with reported_errors():
        if threads is not None:
            torch.set_num_threads(threads)
        subject, twin_subject = (
            Subject(
                model=name, suite=suite.value, tokens=tokens, items=items, context=context, seed=seed, device=device
            )
            for name in (model, twin)
        )
        number_format = getattr(torch, dtype.value)
        stop = (LINE_END,) if one_line else ()
        options = DecodingOptions(policy=policy, threshold=threshold, steps=steps, seed=seed, stop=stop)
        sides = load_sides(subject, twin_subject, options, number_format, row_budget)
        if block_length is not None:
            sides[PSM] = replace(sides[PSM], options=replace(options, block_length=block_length))
        sides[IN_PLACE] = replace(sides[IN_PLACE], options=replace(options, cache=cache))
        about = subject.about() | {"twin": twin_subject.about(), "rounds": rounds, "dtype": dtype.value}
        about |= {"policy": repr(options.resolve_policy(sides[PSM].model.spec)), "environment": environment()}
        about |= {"block_length": block_length or sides[PSM].model.spec.block_length}
        about |= {"cache": cache.value, "one_line": one_line}
        about |= {"row_budget": sides[PSM].engine.config.row_budget}
        bench = Bench(
            subject=subject,
            twin=twin_subject,
            sides=sides,
            holes=subject.holes(),
            rounds=rounds,
            dtype=number_format,
        )
        report = {part.name.lower(): bench.measure(part) for part in only or Part}
        finish(out, about | report, _text(about, report))
        if plot is not None:
            from plots import plot_engine

            plot_engine(out, plot)


def _text(about: Mapping[str, object], report: Mapping[str, object]) -> str:
    """The report for people; the JSON file has all of it."""
    from engine_tables import TABLES

    found = about["environment"]
    machine = found if isinstance(found, dict) else {}
    title = f"{about['model']} on {about['items']} holes of {about['suite']}, {about['dtype']}, {about['device']}, "
    title += f"{machine.get('gpu') if about['device'] != 'cpu' else machine.get('cpu')}, "
    title += f"{machine.get('threads')} threads, {about['policy']}, block length {about['block_length']}, "
    title += f"cache {about['cache']}, {'one line, ' if about['one_line'] else ''}"
    title += f"row budget {about['row_budget']}, {about['rounds']} rounds"
    parts = [title]
    for name, values in report.items():
        heading, header, rows, notes = TABLES[name](values)
        parts += [f"**{heading}**", markdown_table(header, rows), *notes]
    return "\n\n".join(parts)


if __name__ == "__main__":
    app()
