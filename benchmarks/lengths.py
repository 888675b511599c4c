r"""How holes of unknown length find it: one line per ``length_margin``, on lines of code of the validation split.

Validation, not the public test: what is chosen here goes into the checkpoint's decoding defaults.

Example:
  python benchmarks/lengths.py --model quicksilver-coder --tokens data/corpus --items 80 --out runs/lengths.json
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from common import default_layout, finish, load_model, markdown_table, progress, reported_errors, verbatim

from quicksilver.api import DecodingOptions, Model
from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.evaluation.infill import InfillSummary, ModelFiller, run_suite, summarise
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.suites import InfillItem, LineKind, sample_lines
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.corpus.token_file import TokenFile

MARGINS = (0.0, 0.25, 0.5, 0.75, 1.0)
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder or the name of a bundled model.")],
    tokens: Annotated[Path, typer.Option(help="Corpus folder.")],
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    items: Annotated[int, typer.Option(help="Lines of code.")] = 80,
    margin: Annotated[list[float] | None, typer.Option(help="Values to try; default: 0 to 1 in quarters.")] = None,
    one_line: Annotated[bool, typer.Option("--one-line", help="End every hole at its first line end.")] = False,
    seed: Annotated[int, typer.Option(help="Of the lines.")] = 0,
) -> None:
    """Measure and report."""
    with reported_errors():
        loaded = load_model(model, "cpu")
        lines = code_lines(tokens, items, seed)
        margins = margin or list(MARGINS)
        summaries: dict[float, InfillSummary] = {}
        with progress() as bar:
            task = bar.add_task("lengths", total=len(margins) * len(lines), detail="")
            for each in margins:
                filler = ModelFiller(
                    model=with_margin(loaded, each),
                    layout=default_layout(loaded),
                    options=DecodingOptions(seed=seed),
                    is_one_line=one_line,
                )
                summaries[each] = summarise(
                    run_suite(filler, lines, is_length_given=False, on_item=lambda _: bar.advance(task))
                )
        report = {str(each): summary.to_dict() for each, summary in summaries.items()}
        about = {"model": model, "items": items, "seed": seed, "one_line": one_line, "split": "validation"}
        about["environment"] = environment()
        finish(out, about | {"margins": report}, table(summaries))


def code_lines(tokens: Path, count: int, seed: int) -> list[InfillItem]:
    """``count`` lines of code; lines of strings and comments are drawn too and left out."""
    tokenizer = Tokenizer.load(tokens / TOKENIZER_FILE)
    drawn = sample_lines(TokenFile.open(tokens, "validation"), tokenizer.decode, 4 * count, seed)
    return [item for item in drawn if item.kind is LineKind.CODE][:count]


def with_margin(model: Model, margin: float) -> Model:
    """The model with another ``length_margin``."""
    spec = replace(model.spec, decoding=replace(model.spec.decoding, length_margin=margin))
    return Model(model.engine.denoiser, spec, model.tokenizer, name=model.name)


def table(summaries: dict[float, InfillSummary]) -> str:
    """One row per margin."""
    rows = [
        (each, s.exact_match, s.parse_rate, s.length_error, s.absolute_length_error, s.nfe, s.tpf)
        for each, s in summaries.items()
    ]
    header = ("length_margin", "exact match", "parse rate", "length error", "absolute", "NFE", "TPF")
    return markdown_table(header, rows)


if __name__ == "__main__":
    app()
