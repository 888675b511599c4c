r"""Quality of one checkpoint: single-line infill (exact match, parse rate) or bits per byte.

Examples:
  python benchmarks/quality.py --model quicksilver-coder --suite humaneval-single-line --out runs/humaneval.json
  python benchmarks/quality.py --model quicksilver-coder --suite humaneval-single-line --length given --out runs/g.json
  python benchmarks/quality.py --model quicksilver-coder --suite humaneval-single-line --length one-line \
      --out runs/one-line.json
  python benchmarks/quality.py --model runs/coder/final --suite public-lines --tokens data/corpus --layout psm \
      --threshold 0.8 --out runs/lines.json
  python benchmarks/quality.py --model quicksilver-coder --suite bits-per-byte --tokens data/corpus --items 400 \
      --block-length 8 --block-length 16 --out runs/bits.json

An interrupted infill run goes on where it stopped when the same command is given again.
"""

import lzma
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from common import (
    CONTEXT,
    SPLIT,
    Length,
    Subject,
    Suite,
    default_layout,
    finish,
    load_parts,
    markdown_table,
    progress,
    reported_errors,
    verbatim,
)

from quicksilver.api import DecodingOptions, InfillLayout
from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.decoding import Cache
from quicksilver.errors import ConfigError
from quicksilver.evaluation import likelihood
from quicksilver.evaluation.infill import InfillSummary, ItemResult, ModelFiller, run_suite, summarise
from quicksilver.evaluation.likelihood import LikelihoodConfig, LikelihoodSummary, Reading
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.suites import subsample
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.corpus.token_file import TokenFile


class Task(StrEnum):
    """What ``--suite`` takes."""

    HUMANEVAL = Suite.HUMANEVAL.value
    PUBLIC_LINES = Suite.PUBLIC_LINES.value
    BITS_PER_BYTE = "bits-per-byte"


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder or the name of a bundled model.")],
    suite: Annotated[Task, typer.Option(help="What to measure.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table and the single items.")],
    tokens: Annotated[Path | None, typer.Option(help="Corpus folder; not needed for HumanEval.")] = None,
    items: Annotated[int | None, typer.Option(help="Random items or windows; default: all tasks, 1000 lines.")] = None,
    length: Annotated[Length, typer.Option(help=Length.__doc__)] = Length.UNKNOWN,
    layout: Annotated[InfillLayout | None, typer.Option(help="Default: in_place where trained, else psm.")] = None,
    policy: Annotated[str | None, typer.Option(help="Default: the checkpoint's.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Confidence from which a token is written.")] = None,
    steps: Annotated[int | None, typer.Option(help="Forwards per block, for policies that count.")] = None,
    cache: Annotated[Cache, typer.Option(help="Of holes in place.")] = Cache.EXACT,
    block_length: Annotated[list[int] | None, typer.Option(help="Bits per byte may take several.")] = None,
    samples: Annotated[int, typer.Option(help="Random masks per window, for the bound.")] = 4,
    batch_size: Annotated[int, typer.Option(help="Windows per forward, for bits per byte.")] = 8,
    context: Annotated[int, typer.Option(help="Most tokens the model sees.")] = CONTEXT,
    seed: Annotated[int, typer.Option(help="Of the sample, the masks and the decoding.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure and report."""
    with reported_errors():
        subject = Subject(
            model=model, suite=suite.value, tokens=tokens, items=items, context=context, seed=seed, device=device
        )
        if suite is Task.BITS_PER_BYTE:
            configs = [
                LikelihoodConfig(block_length=each, num_samples=samples, batch_size=batch_size, seed=seed)
                for each in block_length or [16]
            ]
            _bits_per_byte(subject, configs, out)
            return
        if block_length is not None and len(block_length) > 1:
            raise ConfigError("an infill suite takes one --block-length")
        one_length = block_length[0] if block_length else None
        options = DecodingOptions(
            policy=policy, threshold=threshold, steps=steps, block_length=one_length, cache=cache, seed=seed
        )
        _infill(subject, length, layout, options, out)


def _infill(subject: Subject, length: Length, layout: InfillLayout | None, options: DecodingOptions, out: Path) -> None:
    model, items = subject.load(), subject.holes()
    layout = layout or default_layout(model)
    about = subject.about() | {"layout": layout.value, "length": length.value, "options": asdict(options)}
    about["policy"] = repr(options.resolve_policy(model.spec))
    log = ResultLog(out.with_suffix(".items.jsonl"), about)
    filler = ModelFiller(model=model, layout=layout, options=options, is_one_line=length is Length.ONE_LINE)
    num_exact = 0
    with progress() as bar:
        task = bar.add_task(subject.suite, total=len(items), detail="")

        def on_item(result: ItemResult) -> None:
            nonlocal num_exact
            num_exact += result.is_exact
            bar.advance(task)
            bar.update(task, detail=f"exact {num_exact / bar.tasks[task].completed:.1%}")

        results = run_suite(filler, items, is_length_given=length is Length.GIVEN, log=log, on_item=on_item)
    summary = summarise(results)
    finish(out, about | {"environment": environment(), "summary": summary.to_dict()}, _infill_table(about, summary))


def _infill_table(about: dict[str, object], summary: InfillSummary) -> str:
    rows = [
        ("items", summary.num_items),
        ("exact match", summary.exact_match),
        *(
            (f"exact match, {kind} ({summary.items_by_kind[kind]})", v)
            for kind, v in summary.exact_match_by_kind.items()
        ),
        ("parse rate", summary.parse_rate),
        ("hole length error, tokens", summary.length_error),
        ("absolute length error", summary.absolute_length_error),
        ("NFE per item", summary.nfe),
        ("TPF", summary.tpf),
        ("tokens/s", summary.tokens_per_s),
    ]
    title = f"{about['model']} on {about['suite']}, layout {about['layout']}, length {about['length']}"
    return f"{title}, {about['policy']}\n\n" + markdown_table(("figure", "value [95 % interval]"), rows)


def _bits_per_byte(subject: Subject, configs: list[LikelihoodConfig], out: Path) -> None:
    tokens = subject.corpus()
    denoiser, spec, tokenizer = load_parts(subject.model, subject.device)
    if Tokenizer.load(tokens / TOKENIZER_FILE).fingerprint != tokenizer.fingerprint:
        raise ConfigError(f"{tokens} was written with another tokenizer than that of {subject.model}")
    documents = TokenFile.open(tokens, SPLIT)
    sizes = np.array([len(tokenizer.token_bytes(index)) for index in range(tokenizer.vocab_size)])
    windows = subsample(likelihood.cut_windows(documents, sizes, subject.context), subject.items, subject.seed)
    summaries = []
    for reading in likelihood.readings(spec):
        for config in configs[:1] if reading is Reading.EXACT else configs:
            with progress() as bar:
                total = likelihood.num_forwards(windows, reading, config)
                blocks = "" if reading is Reading.EXACT else f", blocks of {config.block_length}"
                advance = partial(bar.advance, bar.add_task(f"{reading.value}{blocks}", total=total, detail=""))
                nats = likelihood.window_nats(denoiser, spec, windows, reading, config, advance)
            summaries.append(likelihood.summarise(nats, windows, documents, reading, config))
    xz = compressed_bits_per_byte(documents, tokenizer)
    about = subject.about() | {"samples": configs[0].num_samples}
    report = about | {"environment": environment(), "readings": [asdict(summary) for summary in summaries], "xz": xz}
    finish(out, report, _bits_table(about, summaries, xz))


def compressed_bits_per_byte(documents: TokenFile, tokenizer: Tokenizer) -> dict[str, float]:
    """Bits per byte of ``xz -9e`` over all files, and over those of each package; it sees all files, not one window."""
    packages: dict[str, list[bytes]] = {}
    for index in range(documents.num_docs):
        text = tokenizer.decode(documents.document(index).tolist()).encode()
        packages.setdefault(documents.doc_name(index).split("/", 1)[0], []).append(text)
    whole = {"all": [text for texts in packages.values() for text in texts], **packages}
    return {name: _xz(b"".join(texts)) for name, texts in whole.items()}


def _xz(data: bytes) -> float:
    return 8 * len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)) / len(data)


def _bits_table(about: dict[str, object], summaries: list[LikelihoodSummary], xz: dict[str, float]) -> str:
    rows: list[tuple[object, ...]] = [
        (
            summary.reading.value,
            summary.block_length,
            summary.bits_per_byte,
            "unknown" if summary.sampling_error is None else f"{summary.sampling_error:.4f}",
            f"{summary.bits_per_byte_by_package.get('networkx', float('nan')):.3f}",
            summary.num_bytes,
        )
        for summary in summaries
    ]
    rows.append(("xz -9e, all files", "", f"{xz['all']:.3f}", "", f"{xz.get('networkx', float('nan')):.3f}", ""))
    header = ("reading", "block length", "bits/byte [95 %, over files]", "sampling error", "networkx", "bytes scored")
    return f"{about['model']}, split {SPLIT}, windows of {about['context']} tokens\n\n" + markdown_table(header, rows)


if __name__ == "__main__":
    app()
