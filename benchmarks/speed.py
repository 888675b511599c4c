r"""Decoding speed of a diffusion checkpoint and its autoregressive twin: same holes, same process, in turns.

Examples:
  python benchmarks/speed.py --model quicksilver-coder --twin quicksilver-coder-ar --out runs/speed.json
  python benchmarks/speed.py --model runs/coder/final --twin runs/coder-ar/final --items 50 --rounds 5 --threads 2 \
      --threshold 0.8 --out runs/speed.json

Four loops fill the same single-line holes: the model in place and prefix-suffix-middle, the twin
prefix-suffix-middle, all three by this repository's plain sampler (the whole canvas anew at every forward), and the
twin with a key/value cache in transformers, which is what a user of an autoregressive model has. That last one must
write the same tokens as the plain sampler before it is timed. Every round goes through all holes once per loop; the
order changes with every hole, and ratios are taken within a round.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import torch
import typer
from common import (
    CONTEXT,
    Subject,
    Suite,
    finish,
    in_engine,
    markdown_table,
    progress,
    reported_errors,
    verbatim,
)
from torch import nn

from quicksilver.api import DecodingOptions, InfillLayout, Model
from quicksilver.api.context import crop_around_holes
from quicksilver.api.loading import find_model
from quicksilver.decoding import psm_prompt
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.subject import Ask
from quicksilver.evaluation.suites.filling import InfillItem
from quicksilver.tokenization.special import SPECIAL_TOKENS

CACHED = "twin, cached (transformers)"


@dataclass(frozen=True, slots=True)
class Filled:
    """One hole, by one loop."""

    text: str
    num_tokens: int
    nfe: int
    seconds: float
    first_seconds: float | None = None
    """Until the first forward that decides was over, prompt included; None: the loop cannot be looked into."""


Loop = Callable[[InfillItem], Filled]


def split(rounds: Sequence[Sequence[Filled]]) -> tuple[float | None, float | None]:
    """Milliseconds until the first decision, and of each later forward: medians over rounds."""
    first, later = [], []
    for once in rounds:
        seen = [(f.first_seconds, f.seconds, f.nfe - 1) for f in once if f.first_seconds is not None]
        num_later = sum(nfe for *_, nfe in seen)
        if len(seen) < len(once) or num_later == 0:
            return None, None
        first.append(1000 * statistics.mean(begun for begun, *_ in seen))
        later.append(1000 * sum(ended - begun for begun, ended, _ in seen) / num_later)
    return statistics.median(first), statistics.median(later)


def plain_loop(model: Model, layout: InfillLayout, options: DecodingOptions, seed: int) -> Loop:
    """This repository's reference sampler."""
    subject = in_engine(model, layout, options)

    def fill(item: InfillItem) -> Filled:
        done = subject.model.run(subject.request((item.prefix, item.suffix), Ask(seed=seed)))
        return Filled(done.holes[0].text, done.num_tokens, done.nfe, done.seconds)

    return fill


def most_tokens(model: Model) -> int:
    """The api's limit of a hole."""
    return min(model.spec.decoding.max_hole_length, model.max_length // 2)


def prompt_of(model: Model, item: InfillItem) -> list[int]:
    """The api's prefix-suffix-middle prompt of a hole, for engines that are given token ids."""
    sides = [tuple(ids) for ids in model.tokenizer.encode_batch([item.prefix, item.suffix])]
    budget = model.max_length - 3 - most_tokens(model)  # three sentinels
    before, after = crop_around_holes(sides, budget, model.tokenizer.newline_id)
    return list(psm_prompt(model.spec, before, after))


class CachedTwin:
    """Greedy decoding with transformers' key/value cache, of the same prompts under the same limits as the api's."""

    def __init__(self, model: Model, folder: Path, device: str, ends: Sequence[int]) -> None:
        """Load the folder once more; any token of ``ends`` ends a hole."""
        try:
            from transformers import AutoModelForCausalLM
        except ImportError as error:
            raise ConfigError("the cached twin needs transformers: pip install 'quicksilver-lm[hf]'") from error
        self._api, self._device, self._ends = model, torch.device(device), list(ends)
        network = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
        self._network = cast(nn.Module, network).eval().to(self._device)
        self._banned = torch.tensor([i for i in range(len(SPECIAL_TOKENS)) if i != model.spec.special.eos])

    @torch.inference_mode()
    def __call__(self, item: InfillItem) -> Filled:
        room = most_tokens(self._api)
        inputs = torch.tensor([prompt_of(self._api, item)], device=self._device)
        start = time.perf_counter()
        cache, written, nfe, first = None, [], 0, None
        while len(written) < room:
            output = self._network(input_ids=inputs, cache=cache, use_cache=True, logits_to_keep=1)
            nfe += 1
            cache, logits = output.past_key_values, output.logits[0, -1]
            logits[self._banned] = -torch.inf
            token = int(logits.argmax())
            first = first or time.perf_counter() - start
            if token in self._ends:
                break
            written.append(token)
            inputs = torch.tensor([[token]], device=self._device)
        seconds = time.perf_counter() - start
        return Filled(self._api.tokenizer.decode(written), len(written), nfe, seconds, first)


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one loop: medians over rounds, quality over the holes."""

    loop: str
    tokens_per_s: float
    tpf: float
    nfe_per_item: float
    ms_per_forward: float
    ms_per_item: float
    exact_match: float
    times_twin: float
    """Median over rounds: holes per second, over those of the twin by the same sampler."""
    times_cached_twin: float


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="Diffusion checkpoint: folder or bundled name.")],
    twin: Annotated[str, typer.Option(help="Autoregressive checkpoint: folder or bundled name.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table.")],
    suite: Annotated[Suite, typer.Option(help="Which holes.")] = Suite.HUMANEVAL,
    tokens: Annotated[Path | None, typer.Option(help="Corpus folder, for fim-line.")] = None,
    items: Annotated[int, typer.Option(help="Random holes.")] = 30,
    rounds: Annotated[int, typer.Option(help="How often each is filled.")] = 5,
    policy: Annotated[str | None, typer.Option(help="Default: the checkpoint's.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Confidence from which a token is written.")] = None,
    context: Annotated[int, typer.Option(help="Most tokens the models see.")] = CONTEXT,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample and the decoding.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure and report."""
    with reported_errors():
        if rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {rounds}")
        if threads is not None:
            torch.set_num_threads(threads)
        subject, twin_subject = (
            Subject(
                model=name, suite=suite.value, tokens=tokens, items=items, context=context, seed=seed, device=device
            )
            for name in (model, twin)
        )
        loaded, loaded_twin, holes = subject.load(), twin_subject.load(), subject.holes()
        if loaded_twin.spec.objective is not Objective.AUTOREGRESSIVE or loaded.spec.objective is not Objective.MASK:
            raise ConfigError("--model must be a mask diffusion checkpoint and --twin an autoregressive one")
        options = DecodingOptions(policy=policy, threshold=threshold)
        loops: dict[str, Loop] = {
            "diffusion, in place": plain_loop(loaded, InfillLayout.IN_PLACE, options, seed),
            "diffusion, psm": plain_loop(loaded, InfillLayout.PSM, options, seed),
            "twin": plain_loop(loaded_twin, InfillLayout.PSM, DecodingOptions(), seed),
            CACHED: CachedTwin(loaded_twin, find_model(twin), device, [loaded_twin.spec.special.eos]),
        }
        with progress() as bar:
            task = bar.add_task("holes", total=(rounds + 1) * len(holes), detail="checking and warming up")
            agreeing = check_agreement(loops["twin"], loops[CACHED], holes, lambda: bar.advance(task))
            bar.update(task, detail="")
            filled = measure(list(loops.values()), holes, rounds, lambda: bar.advance(task))
        figures = sum_up(list(loops), filled, holes)
        about = subject.about() | {"twin": twin_subject.about(), "rounds": rounds, "options": asdict(options)}
        about |= {"policy": repr(options.resolve_policy(loaded.spec)), "cached_twin_agrees_on": agreeing}
        finish(
            out, about | {"environment": environment(), "loops": [asdict(f) for f in figures]}, _table(about, figures)
        )


def check_agreement(one: Loop, other: Loop, items: Sequence[InfillItem], advance: Callable[[], None]) -> float:
    """Share of holes that both loops fill with the same text; also warms them up.

    Raises:
        ConfigError: fewer than nine in ten: then they are not the same model. (Float sums in another order can turn a
            tie between two tokens, so a rare difference is no error.)
    """
    same = 0
    for item in items:
        same += one(item).text == other(item).text
        advance()
    if same < 0.9 * len(items):
        raise ConfigError(f"the cached twin writes the same text in only {same} of {len(items)} holes")
    return same / len(items)


def measure(
    loops: Sequence[Loop], items: Sequence[InfillItem], rounds: int, advance: Callable[[], None]
) -> list[list[list[Filled]]]:
    """What every loop wrote, by loop, round and item."""
    filled: list[list[list[Filled]]] = [[[] for _ in range(rounds)] for _ in loops]
    for number in range(rounds):
        for position, item in enumerate(items):
            for turn in range(len(loops)):
                index = (turn + position + number) % len(loops)
                filled[index][number].append(loops[index](item))
            advance()
    return filled


def sum_up(
    names: Sequence[str], filled: Sequence[Sequence[Sequence[Filled]]], items: Sequence[InfillItem]
) -> list[Figures]:
    """Medians and ratios."""
    seconds = {n: [sum(f.seconds for f in once) for once in rounds] for n, rounds in zip(names, filled, strict=True)}
    figures = []
    for name, rounds in zip(names, filled, strict=True):
        first = rounds[0]
        num_tokens, nfe = sum(f.num_tokens for f in first), sum(f.nfe for f in first)
        exact = sum(f.text.rstrip() == item.middle.rstrip() for f, item in zip(first, items, strict=True))
        median = statistics.median(seconds[name])

        def times(base: str, mine: list[float] = seconds[name]) -> float:
            return statistics.median(a / b for a, b in zip(seconds[base], mine, strict=True))

        figures.append(
            Figures(
                loop=name,
                tokens_per_s=num_tokens / median,
                tpf=num_tokens / nfe,
                nfe_per_item=nfe / len(items),
                ms_per_forward=1000 * median / nfe,
                ms_per_item=1000 * median / len(items),
                exact_match=exact / len(items),
                times_twin=times("twin"),
                times_cached_twin=times(CACHED),
            )
        )
    return figures


def _table(about: dict[str, object], figures: Sequence[Figures]) -> str:
    header = (
        "loop",
        "tokens/s",
        "TPF",
        "NFE/item",
        "ms/forward",
        "ms/item",
        "exact match",
        "holes/s x twin",
        "x cached twin",
    )
    rows = [
        (
            f.loop,
            f"{f.tokens_per_s:.1f}",
            f"{f.tpf:.2f}",
            f"{f.nfe_per_item:.2f}",
            f"{f.ms_per_forward:.1f}",
            f"{f.ms_per_item:.0f}",
            f"{f.exact_match:.3f}",
            f"{f.times_twin:.2f}",
            f"{f.times_cached_twin:.2f}",
        )
        for f in figures
    ]
    title = f"{about['model']} on {about['items']} holes of {about['suite']}, length unknown, batch 1, {about['dtype']}"
    return f"{title}, {about['device']}, {about['policy']}\n\n" + markdown_table(header, rows)


if __name__ == "__main__":
    app()
