r"""Published layouts at 32M random weights: the engine against the families' own loops, in turns.

Every loop gets the same prompt, 4 tokens a step by quota, temperature 0 and a batch of one. First each writes its
answer once, and the engine's tokens are compared with those of the loop that has the same rule; only then is it timed.

Examples:
  python benchmarks/families.py --references clones --threads 2 --out runs/families.json
  python benchmarks/families.py --references clones --length 4096 --answer 32 --rounds 0 --out runs/long.json

``--references`` is a folder with clones of ML-GSAI/LLaDA, NVlabs/Fast-dLLM and ZHZisZZ/dllm under their own names.
Their code wants transformers 4.57 and einops, so run this in an environment that has them. Loops without a clone are
left out.
"""

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import finish, markdown_table, progress, reported_errors, verbatim
from families_rivals import Loop, Setting, Written, rivals
from safetensors.torch import save_file

from quicksilver.checkpoints.family import Whole
from quicksilver.checkpoints.loading import load_folder, open_folder
from quicksilver.decoding import Cache, FixedSteps, Order, Policy, SamplingParams, Timesteps
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.errors import ConfigError, EngineError
from quicksilver.evaluation.provenance import environment
from quicksilver.models.denoiser import Denoiser

CONFIGS = Path(__file__).parents[1] / "tests/golden/checkpoints"
"""Each family's published keys at a tiny size."""
TOKENS_PER_STEP = 4
PAGE = 32
NUM_SPECIAL = 256
"""Ids below are not in prompts: special ones are among them."""
HEAD_GAIN = 3.0
"""Standard deviation of logits: as sharp as those of a trained model, so that rounding decides little."""
SIZES = ("32M", "tiny")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """A layout, and which loop each way of the engine is compared with."""

    layout: str
    sizes: Mapping[str, int]
    """What makes it 32M."""
    own_loop: str
    same_rule: Mapping[Cache, str]
    """Caches of the engine that are measured, and the rival with the same rule; empty: there is none."""


CONTEXT = 8192
FAMILIES = {
    "llada": Family(
        layout="llada",
        sizes={
            "d_model": 512, "n_heads": 8, "n_kv_heads": 8, "n_layers": 8, "mlp_hidden_size": 1408, "vocab_size": 6144,
            "embedding_size": 6144, "max_sequence_length": CONTEXT,
        },
        own_loop="LLaDA's loop",
        same_rule={
            Cache.EXACT: "LLaDA's loop", Cache.PREFIX: "Fast-dLLM's prefix", Cache.DUAL: "Fast-dLLM's dual",
            Cache.VICINITY: "",
        },
    ),
    "dream": Family(
        layout="dream",
        sizes={
            "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 2, "num_hidden_layers": 8,
            "max_window_layers": 8, "intermediate_size": 1536, "vocab_size": 7680, "max_position_embeddings": CONTEXT,
        },
        own_loop="Dream's loop",
        same_rule={Cache.EXACT: "Dream's loop", Cache.PREFIX: "", Cache.DUAL: "", Cache.VICINITY: ""},
    ),
    "sdar": Family(
        layout="sdar",
        sizes={
            "hidden_size": 512, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 64,
            "num_hidden_layers": 8, "max_window_layers": 8, "intermediate_size": 1408, "vocab_size": 8192,
            "max_position_embeddings": CONTEXT,
        },
        own_loop="dllm's block diffusion",
        same_rule={Cache.EXACT: "dllm's block diffusion"},
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one loop at one length."""

    family: str
    length: int
    """Prompt and answer."""
    answer: int
    loop: str
    tokens_per_second: float
    """From the median of the rounds."""
    tpf: float
    num_forwards: int
    """All of them, those that only read the prompt too."""
    num_stale_rows: int
    times_own_loop: float | None
    """Seconds of the family's own loop over those of this one; None: it was not run."""
    times_same_rule: float | None
    same_tokens: float | None
    """Share equal to what the loop of the same rule wrote; None: there is none."""
    first_difference: int | None
    """The engine's first forward at which another token was written; None: there is none."""
    seconds: list[float]


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    references: Annotated[Path | None, typer.Option(help="Folder of clones; none: the engine alone.")] = None,
    family: Annotated[list[str] | None, typer.Option(help="May be repeated; default: all.")] = None,
    cache: Annotated[list[str] | None, typer.Option(help="May be repeated; default: all that a family has.")] = None,
    length: Annotated[list[int] | None, typer.Option(help="Prompt and answer; may be repeated; default 256.")] = None,
    answer: Annotated[int, typer.Option(help="Tokens to write, a multiple of the block length.")] = 128,
    block: Annotated[int, typer.Option(help=f"Block length, a multiple of {TOKENS_PER_STEP}.")] = 32,
    rounds: Annotated[int, typer.Option(help="Timings of each loop; 0: the run that compares tokens is timed.")] = 3,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    size: Annotated[str, typer.Option(help="32M, or tiny to try this script.")] = "32M",
    checkpoints: Annotated[Path | None, typer.Option(help="Where checkpoints are written; none: not kept.")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
    seed: Annotated[int, typer.Option(help="Of weights and prompts.")] = 0,
) -> None:
    """Measure and report."""
    with reported_errors():
        names, lengths = family or list(FAMILIES), length or [256]
        _check(dtype, size, rounds, names, cache or list(Cache))
        _check_lengths(lengths, answer, block)
        torch.set_num_threads(threads)
        figures, left_out, parameters = [], [], {}
        with _folder(checkpoints) as folder, progress() as bar:
            task = bar.add_task("answers", total=None, detail="")
            for name in names:
                place, parameters[name] = write_checkpoint(folder / name, FAMILIES[name], size, block, seed)
                ways = [each for each in FAMILIES[name].same_rule if cache is None or each in cache]
                ours, theirs, missing = contenders(name, place, ways, block, DTYPES[dtype], references)
                left_out += missing
                for total in lengths:
                    prompt = prompt_of(place, total - answer, seed)
                    runs = in_turns(ours | theirs, prompt, answer, rounds, lambda: bar.advance(task))
                    figures += [
                        figures_of(FAMILIES[name], name, total, answer, each, runs) for each in [*theirs, *ours]
                    ]
        about = {"seed": seed, "dtype": dtype, "rounds": rounds, "parameters": parameters, "left_out": left_out}
        about |= {"block_length": block, "tokens_per_step": TOKENS_PER_STEP, "environment": environment()}
        about["loops"] = [asdict(each) for each in figures]
        finish(out, about, table(figures) + "".join(f"\n\nLeft out: {each}" for each in left_out))


def _check(dtype: str, size: str, rounds: int, names: Sequence[str], caches: Sequence[str]) -> None:
    known = [
        (dtype, DTYPES),
        (size, SIZES),
        *((name, FAMILIES) for name in names),
        *((each, list(Cache)) for each in caches),
    ]
    for value, among in known:
        if value not in among:
            raise ConfigError(f"{value!r} is unknown; known: {', '.join(among)}")
    if rounds < 0:
        raise ConfigError(f"rounds must not be negative, got {rounds}")


def _check_lengths(lengths: Sequence[int], answer: int, block: int) -> None:
    if block < TOKENS_PER_STEP or block % TOKENS_PER_STEP:
        raise ConfigError(f"block must be a multiple of {TOKENS_PER_STEP}, got {block}")
    for length in lengths:
        if not 0 < answer < length or answer % block or length % block:
            raise ConfigError(
                f"answer and length must be multiples of the block length {block}, got {answer}, {length}"
            )


@contextmanager
def _folder(given: Path | None) -> Iterator[Path]:
    if given is not None:
        yield given
        return
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write_checkpoint(folder: Path, family: Family, size: str, block: int, seed: int) -> tuple[Path, int]:
    """A checkpoint of random weights in the published layout, and how many they are.

    Logits of the special tokens are 0, far below the best ones: some loops would write the mask or go on behind eos.
    """
    folder.mkdir(parents=True, exist_ok=True)
    values = json.loads((CONFIGS / family.layout / "config.json").read_text())
    if size == "32M":
        values |= family.sizes
    if "block_size" in values:
        values["block_size"] = block
    (folder / "config.json").write_text(json.dumps(values, indent=2))
    opened, weights = open_folder(folder), {}
    generator = torch.Generator().manual_seed(seed)
    for name, shape in ((name, value.shape) for name, value in Denoiser(opened.config).state_dict().items()):
        source = opened.source(name)
        if not isinstance(source, Whole):
            raise ConfigError(f"{name} is put together of several tensors, which this script cannot draw")
        drawn = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            drawn = 0.1 * drawn + (0 if name.endswith("bias") else 1)
        else:
            drawn *= (HEAD_GAIN if name.startswith("lm_head") else 1) / math.sqrt(shape[-1])
        if name.startswith("lm_head"):
            drawn[_special_ids(values)] = 0
        weights[source.name] = drawn
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, sum(each.numel() for each in weights.values())


def _special_ids(values: Mapping[str, object]) -> list[int]:
    names = ("mask_token_id", "eos_token_id", "pad_token_id", "bos_token_id")
    return sorted({value for name in names if isinstance(value := values.get(name), int)})


def prompt_of(folder: Path, length: int, seed: int) -> list[int]:
    """Random tokens, none of them special."""
    values = json.loads((folder / "config.json").read_text())
    special, generator = set(_special_ids(values)), torch.Generator().manual_seed(seed)
    allowed = torch.tensor([each for each in range(values["vocab_size"]) if each not in special])
    return allowed[torch.randint(len(allowed), (length,), generator=generator)].tolist()


def contenders(
    name: str, folder: Path, ways: Sequence[Cache], block: int, dtype: torch.dtype, references: Path | None
) -> tuple[dict[str, Loop], dict[str, Loop], list[str]]:
    """The engine's ways, their rivals, and what was left out."""
    denoiser, spec = load_folder(folder, dtype)
    ours = {engine_name(cache): engine_loop(denoiser, spec, cache, block) for cache in ways}
    if references is None:
        return ours, {}, [f"{name}: its own loops, which need --references"]
    setting = Setting(
        folder=folder, dtype=dtype, block_length=block, tokens_per_step=TOKENS_PER_STEP, mask_id=spec.special.mask
    )
    found, left_out = rivals(name, setting, references)
    wanted = {FAMILIES[name].same_rule[cache] for cache in ways}
    return ours, {rival: loop for rival, loop in found.items() if rival in wanted}, left_out


def engine_name(cache: Cache) -> str:
    return f"engine, {cache}"


def engine_loop(denoiser: Denoiser, spec: DiffusionSpec, cache: Cache, block: int) -> Loop:
    """One request in an engine of its own, so that no answer finds the prompt of an earlier one in its pages."""

    def loop(prompt_ids: Sequence[int], count: int) -> Written:
        # Dream's loop knows no blocks; a cache that keeps what is outside of them needs some.
        length = count if spec.prediction_shift and cache is Cache.EXACT else block
        num_pages = -(-(len(prompt_ids) + count) // PAGE) + 1
        engine = Engine(denoiser, spec, EngineConfig(page_size=PAGE, num_pages=num_pages, max_running=1))
        params = SamplingParams(
            policy=policy_of(spec, length), temperature=0.0, max_tokens=count, block_length=length, cache=cache
        )
        start = time.perf_counter()
        ticket = engine.submit(Request(task=Continuation(prompt_ids=tuple(prompt_ids)), params=params))
        while not ticket.is_ended:
            engine.step()
        seconds = time.perf_counter() - start
        result, usage = ticket.result, ticket.usage
        if usage is None:
            raise EngineError("a request has ended without an account of what it took")
        return Written(
            token_ids=list(result.token_ids),
            steps=list(result.step_committed[0]),
            num_forwards=usage.num_forwards,
            num_stale_rows=usage.num_stale_rows // max(usage.num_stale_forwards, 1),
            seconds=seconds,
        )

    return loop


def policy_of(spec: DiffusionSpec, block: int) -> Policy:
    """The family's own rule at 4 tokens a step."""
    steps = block // TOKENS_PER_STEP
    return Timesteps(order=Order.ENTROPY, steps=steps) if spec.prediction_shift else FixedSteps(steps=steps)


def in_turns(
    loops: Mapping[str, Loop], prompt_ids: Sequence[int], count: int, rounds: int, advance: Callable[[], None]
) -> dict[str, list[Written]]:
    """What every loop wrote: once to warm up, then in an order that rotates, so that a busy machine slows all."""
    runs: dict[str, list[Written]] = {name: [] for name in loops}
    names = list(loops)
    for turn in range(rounds + 1):
        for number in range(len(names)):
            name = names[(turn + number) % len(names)]
            runs[name].append(loops[name](prompt_ids, count))
            advance()
    return runs


def figures_of(
    family: Family, name: str, length: int, answer: int, loop: str, runs: Mapping[str, Sequence[Written]]
) -> Figures:
    """Sum up one loop."""
    pairs = {engine_name(cache): rival for cache, rival in family.same_rule.items()}
    own, same = runs.get(family.own_loop), runs.get(pairs.get(loop, ""))
    written, seconds = runs[loop][0], _seconds(runs[loop])

    def times(others: Sequence[Written] | None) -> float | None:
        if others is None:
            return None
        return statistics.median(_seconds(others)) / statistics.median(seconds)

    equal = None if same is None else _equal(written.token_ids, same[0].token_ids)
    return Figures(
        family=name,
        length=length,
        answer=answer,
        loop=loop,
        tokens_per_second=answer / statistics.median(seconds),
        tpf=answer / written.num_forwards,
        num_forwards=written.num_forwards,
        num_stale_rows=written.num_stale_rows,
        times_own_loop=times(own),
        times_same_rule=times(same),
        same_tokens=None if equal is None else statistics.mean(equal),
        first_difference=None
        if equal is None
        else min((step for step, is_equal in zip(written.steps, equal, strict=True) if not is_equal), default=None),
        seconds=seconds,
    )


def _seconds(runs: Sequence[Written]) -> list[float]:
    """Of the rounds; the first run warmed up, and counts only where it is alone."""
    return [each.seconds for each in runs[1:] or runs]


def _equal(ours: Sequence[int], theirs: Sequence[int]) -> list[bool]:
    return [one == other for one, other in zip(ours, theirs, strict=True)]


def table(figures: Sequence[Figures]) -> str:
    """One row per loop."""
    header = (
        "family", "length", "answer", "loop", "tokens/s", "TPF", "NFE", "stale rows", "x its own loop", "x same rule",
        "same tokens",
    )  # fmt: skip
    rows = [
        (
            f.family,
            f.length,
            f.answer,
            f.loop,
            f"{f.tokens_per_second:.1f}",
            f"{f.tpf:.2f}",
            f.num_forwards,
            f.num_stale_rows or "",
            _times(f.times_own_loop),
            _times(f.times_same_rule),
            _agreement(f),
        )
        for f in figures
    ]
    return markdown_table(header, rows)


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _agreement(figures: Figures) -> str:
    if figures.same_tokens is None:
        return ""
    if figures.first_difference is None:
        return "all"
    return f"{figures.same_tokens:.0%}, from forward {figures.first_difference}"


if __name__ == "__main__":
    app()
