r"""How holes of unknown length find it: one line per ``length_margin``, on lines of code of the validation split.

Validation, not the public test: what is chosen here goes into the checkpoint's decoding defaults.

Example:
  python benchmarks/lengths.py --model quicksilver-coder --tokens data/corpus --items 80 --out runs/lengths.json
"""

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from common import (
    default_layout,
    finish,
    in_engine,
    load_model,
    markdown_table,
    plain,
    progress,
    reported_errors,
    verbatim,
)

from quicksilver.api import DecodingOptions, Model
from quicksilver.cli.held_out import open_split
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem, Length
from quicksilver.evaluation.suites.fim import LineKind, sample_lines

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
        length = Length.ONE_LINE if one_line else Length.UNKNOWN
        suite = FillSuite(name="validation-lines", holes=tuple(lines), length=length, has_whole_lines=True)
        found: dict[float, dict[str, Interval]] = {}
        with progress() as bar:
            task = bar.add_task("lengths", total=len(margins) * len(lines), detail="")
            for each in margins:
                subject = in_engine(with_margin(loaded, each), default_layout(loaded), DecodingOptions())
                records = run(suite, subject, suite.items(), seed=seed, on_record=lambda _: bar.advance(task))
                found[each] = figures(records)
        report = {str(each): plain(values) for each, values in found.items()}
        about = {"model": model, "items": items, "seed": seed, "one_line": one_line, "split": "validation"}
        about["environment"] = environment()
        finish(out, about | {"margins": report}, table(found))


def code_lines(tokens: Path, count: int, seed: int) -> list[InfillItem]:
    """``count`` lines of code; lines of strings and comments are drawn too and left out."""
    drawn = sample_lines(open_split(tokens, "validation").sources(), 4 * count, seed)
    return [item for item in drawn if item.kind is LineKind.CODE][:count]


def with_margin(model: Model, margin: float) -> Model:
    """The model with another ``length_margin``."""
    spec = replace(model.spec, decoding=replace(model.spec.decoding, length_margin=margin))
    return Model(model.engine.denoiser, spec, model.tokenizer, name=model.name)


def table(found: dict[float, dict[str, Interval]]) -> str:
    """One row per margin."""
    names = ("exact_match", "parse_rate", "length_error", "absolute_length_error", "nfe", "tpf")
    rows = [(each, *(values[name] for name in names)) for each, values in found.items()]
    header = ("length_margin", "exact match", "parse rate", "length error", "absolute", "NFE", "TPF")
    return markdown_table(header, rows)


if __name__ == "__main__":
    app()
