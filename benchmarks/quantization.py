r"""Quantized denoisers beside float32: milliseconds per forward, agreement of decisions, infill quality.

Examples:
  python benchmarks/quantization.py --model quicksilver-coder --items 200 --out runs/quantization.json
  python benchmarks/quantization.py --model quicksilver-coder --only int8_dynamic --only torch_int8_dynamic \
      --only torchao_int8_dynamic --items 50 --rounds 3 --threads 2 --out runs/int8.json

float32 is always measured: the others are judged by it. ``torch_int8_dynamic`` (one scale for all rows of a batch) and
``torchao_int8_dynamic`` are kernels that the library does not use on CPUs (docs/decisions/0006-quantization.md);
they, and int4_weight on a CPU without AVX-512 (a minute per hole), are measured only when named.

Decisions are compared on three canvases per hole: all of its tokens masked, half of them, a quarter, the others as in
the reference. The infill figures are of holes of given length, so that decisions and not lengths are compared. An
interrupted run goes on where it stopped when the same command is given again.
"""

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import (
    CONTEXT,
    Subject,
    Suite,
    finish,
    in_engine,
    load_parts,
    markdown_table,
    progress,
    reported_errors,
    verbatim,
)
from torch import Tensor, nn

from quicksilver.api import DecodingOptions, InfillLayout, Model
from quicksilver.api.context import crop_around_holes
from quicksilver.decoding.params import forbidden_tokens
from quicksilver.diffusion.spec import DiffusionSpec, Layout
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.running import figures as figures_of
from quicksilver.evaluation.running import run
from quicksilver.evaluation.suites.filling import InfillItem, Length
from quicksilver.models.attention import DenseAttention
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.quantization import DecisionAgreement, OpenCanvas, Scheme, compare, quantize, require_device
from quicksilver.quantization.convert import projections
from quicksilver.quantization.packed import pack_weight
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer

ROWS = (1, 4, 8, 16, 32, 64)
OPEN_SHARES = (1.0, 0.5, 0.25)
CALLS = 5
"""Forwards in a row per turn, the fastest of which counts: a decoding step finds the caches warm."""
REFERENCE = "float32"


class PerTensorLinear(nn.Module):
    """What torch's ``quantize_dynamic`` put in: 8-bit weights per output, 7-bit activations with one scale in all."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        self._packed = pack_weight(weight, weight.abs().amax(dim=1) / 127)
        self._bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        out = torch.ops.quantized.linear_dynamic(x, self._packed, True)
        return out if self._bias is None else out + self._bias


def per_tensor(denoiser: Denoiser) -> Denoiser:
    other = copy.deepcopy(denoiser)
    for name, linear in projections(other).items():
        other.set_submodule(name, PerTensorLinear(linear))
    return other


def by_torchao(denoiser: Denoiser) -> Denoiser:
    try:
        from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_
    except ImportError as error:
        raise ConfigError("torchao_int8_dynamic needs torchao: pip install 'quicksilver-lm[quant]'") from error
    other = copy.deepcopy(denoiser)
    wanted = set(projections(other))
    config = Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
    quantize_(other, config, filter_fn=lambda module, name: name in wanted)
    return other


VARIANTS: dict[str, Callable[[Denoiser], Denoiser]] = {
    REFERENCE: lambda denoiser: denoiser,
    "bf16": lambda denoiser: copy.deepcopy(denoiser).to(torch.bfloat16),
    **{scheme.value: lambda denoiser, s=scheme: quantize(denoiser, s) for scheme in Scheme},
    "torch_int8_dynamic": per_tensor,
    "torchao_int8_dynamic": by_torchao,
}
REJECTED = ("torch_int8_dynamic", "torchao_int8_dynamic")


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one variant."""

    variant: str
    dtype: str
    """Of embeddings, norms and head."""
    ms_per_forward: dict[int, float]
    """By rows: a forward over so many tokens that all see each other, its head included; median over rounds."""
    agreement: DecisionAgreement
    same_text: float
    """Share of holes filled with float32's text, to the letter."""
    infill: dict[str, Interval]


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder or the name of a bundled model; trained in place.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table and the single items.")],
    suite: Annotated[Suite, typer.Option(help="Which holes.")] = Suite.HUMANEVAL,
    tokens: Annotated[Path | None, typer.Option(help="Corpus folder, for fim-line.")] = None,
    items: Annotated[int, typer.Option(help="Random holes, the same for every variant.")] = 200,
    rounds: Annotated[int, typer.Option(help="How often each forward is timed.")] = 9,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(VARIANTS)}; may be repeated.")] = None,
    context: Annotated[int, typer.Option(help="Most tokens the model sees.")] = CONTEXT,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's.")] = None,
    seed: Annotated[int, typer.Option(help="Of the sample, the canvases and the decoding.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure and report."""
    with reported_errors():
        if rounds < 1:
            raise ConfigError(f"rounds must be at least 1, got {rounds}")
        if threads is not None:
            torch.set_num_threads(threads)
        subject = Subject(
            model=model, suite=suite.value, tokens=tokens, items=items, context=context, seed=seed, device=device
        )
        reference, spec, tokenizer = load_parts(model, device)
        if Layout.IN_PLACE not in spec.layouts:
            raise ConfigError(
                f"{model} was not trained to fill holes in place; decisions are compared on such canvases"
            )
        asked = subject.asked(Length.GIVEN)
        holes = asked.items()
        reference.config = replace(reference.config, max_length=min(context, reference.config.max_length))
        denoisers = {name: VARIANTS[name](reference) for name in names_of(only, torch.device(device))}
        canvases = open_canvases(holes, spec, tokenizer, reference.config.max_length, seed)
        about = subject.about() | {"dtype": "per variant", "rounds": rounds, "threshold": spec.decoding.threshold}
        with progress() as bar:
            task = bar.add_task("timing", total=rounds, detail="")
            timed = time_forwards(denoisers, rounds, lambda: bar.advance(task))
            task = bar.add_task("infill", total=len(holes) * len(denoisers), detail="")
            figures: list[Figures] = []
            texts: dict[str, list[str]] = {}
            for name, denoiser in denoisers.items():
                bar.update(task, detail=name)
                loaded = Model(denoiser, spec, tokenizer, name=name)
                log = ResultLog(out.with_suffix("") / f"{name}.jsonl", about | {"variant": name})
                side = in_engine(loaded, InfillLayout.IN_PLACE, DecodingOptions())
                records = run(asked, side, holes, seed=seed, log=log, on_record=lambda _: bar.advance(task))
                texts[name] = [record.answer.texts[0] for record in records]
                figures.append(
                    Figures(
                        variant=name,
                        dtype=str(denoiser.model.embed_tokens.weight.dtype).removeprefix("torch."),
                        ms_per_forward=timed[name],
                        agreement=agreement_of(reference, denoiser, canvases, spec, tokenizer),
                        same_text=sum(map(str.__eq__, texts[name], texts[REFERENCE])) / len(holes),
                        infill=figures_of(records),
                    )
                )
        report = about | {"environment": environment(), "variants": [_plain(each) for each in figures]}
        finish(out, report, _table(about, figures))


def names_of(only: Sequence[str] | None, device: torch.device) -> list[str]:
    """The variants to measure, float32 first. Says which are left out because the device cannot run them.

    Raises:
        ConfigError: one that was named is unknown, or the device cannot run it.
    """
    for name in only or ():
        if name not in VARIANTS:
            raise ConfigError(f"no variant {name!r}; there are: {', '.join(VARIANTS)}")
        if name in list(Scheme):
            require_device(Scheme(name), device)
    if only:
        return list(dict.fromkeys([REFERENCE, *only]))
    names = [name for name in VARIANTS if name not in REJECTED]
    for scheme in Scheme:
        try:
            require_device(scheme, device)
        except ConfigError as error:
            typer.echo(f"{scheme} is left out: {error}", err=True)
            names.remove(scheme.value)
    has_avx512 = "AVX512" in torch.backends.cpu.get_cpu_capability()
    if Scheme.INT4_WEIGHT in names and not has_avx512:
        typer.echo("int4_weight is left out: without AVX-512 it takes a minute per hole; name it to have it", err=True)
        names.remove(Scheme.INT4_WEIGHT.value)
    return names


def open_canvases(
    holes: Sequence[InfillItem], spec: DiffusionSpec, tokenizer: Tokenizer, max_length: int, seed: int
) -> list[OpenCanvas]:
    """Every hole at its reference's length, with ``OPEN_SHARES`` of it masked (at least one token)."""
    generator = torch.Generator().manual_seed(seed)
    start = [] if spec.special.canvas is None else [spec.special.canvas]
    canvases = []
    for hole in holes:
        before, middle, after = (tuple(ids) for ids in tokenizer.encode_batch([hole.prefix, hole.middle, hole.suffix]))
        middle = middle[: max_length // 2]
        budget = max_length - len(start) - len(middle)
        before, after = crop_around_holes([before, after], budget, tokenizer.newline_id)
        ids = torch.tensor([*start, *before, *middle, *after])
        order = torch.randperm(len(middle), generator=generator) + len(start) + len(before)
        for share in OPEN_SHARES:
            is_open = torch.zeros(len(ids), dtype=torch.bool)
            is_open[order[: max(round(share * len(middle)), 1)]] = True
            canvases.append(
                OpenCanvas(
                    token_ids=ids.masked_fill(is_open, spec.special.mask),
                    block_ids=torch.zeros_like(ids),
                    is_open=is_open,
                )
            )
    return canvases


def agreement_of(
    reference: Denoiser,
    other: Denoiser,
    canvases: Sequence[OpenCanvas],
    spec: DiffusionSpec,
    tokenizer: Tokenizer,
) -> DecisionAgreement:
    """At the checkpoint's own threshold, over the tokens that a hole of known length may hold."""
    vocab_size = reference.config.vocab_size
    reserved = [*range(len(SPECIAL_TOKENS)), *range(tokenizer.vocab_size, vocab_size)]
    return compare(
        reference,
        other,
        canvases,
        threshold=spec.decoding.threshold,
        is_forbidden=forbidden_tokens(vocab_size, reserved),
        prediction_shift=spec.prediction_shift,
    )


def time_forwards(
    denoisers: dict[str, Denoiser], rounds: int, advance: Callable[[], None]
) -> dict[str, dict[int, float]]:
    """Milliseconds by variant and rows; the variants take turns within every round."""
    seconds: dict[str, dict[int, list[float]]] = {name: {rows: [] for rows in ROWS} for name in denoisers}
    for number in range(rounds):
        names = list(denoisers)
        for rows in ROWS:
            for turn in range(len(names)):
                name = names[(turn + number) % len(names)]
                seconds[name][rows].append(min(_seconds(denoisers[name], rows) for _ in range(CALLS)))
        advance()
    return {
        name: {rows: 1000 * statistics.median(found) for rows, found in by_rows.items()}
        for name, by_rows in seconds.items()
    }


@torch.inference_mode()
def _seconds(denoiser: Denoiser, rows: int) -> float:
    device = denoiser.model.embed_tokens.weight.device
    positions = torch.arange(rows, device=device)[None]
    token_ids = positions % denoiser.config.vocab_size
    attention = DenseAttention(Topology.block_causal(torch.zeros_like(positions)))
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    denoiser.logits(denoiser(token_ids, positions, attention))
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _plain(figures: Figures) -> dict[str, object]:
    agreement = figures.agreement
    shares = {"same_argmax": agreement.same_argmax, "jaccard": agreement.jaccard, "mean_kl": agreement.mean_kl}
    plain: dict[str, object] = asdict(figures)
    return plain | {"agreement": asdict(agreement) | shares}


def _table(about: dict[str, object], figures: Sequence[Figures]) -> str:
    header = (
        "variant",
        "rest in",
        *(f"ms, {rows} rows" for rows in ROWS),
        "same best token",
        "decisions: reference / own / both",
        "Jaccard",
        "KL, nats",
        "same text",
        "exact match [95 %]",
        "TPF [95 %]",
    )
    cells = [
        (
            each.variant,
            each.dtype,
            *(f"{each.ms_per_forward[rows]:.2f}" for rows in ROWS),
            f"{each.agreement.same_argmax:.4f}",
            f"{each.agreement.num_reference} / {each.agreement.num_other} / {each.agreement.num_both}",
            f"{each.agreement.jaccard:.4f}",
            f"{each.agreement.mean_kl:.5f}",
            f"{each.same_text:.3f}",
            each.infill["exact_match"],
            each.infill["tpf"],
        )
        for each in figures
    ]
    title = f"{about['model']} on {about['items']} holes of {about['suite']}, in place, length given, batch 1"
    title += f"; {figures[0].agreement.num_open} open positions at threshold {about['threshold']}, {about['device']}"
    return f"{title}\n\n" + markdown_table(header, cells)


if __name__ == "__main__":
    app()
