r"""Tokens per forward against quality: one line per policy and parameter, on the same holes.

Examples:
  python benchmarks/policies.py --model quicksilver-coder --items 200 --out runs/policies.json --plot runs/tpf.svg
  python benchmarks/policies.py --model runs/coder/final --suite fim-line --tokens data/corpus --layout psm \
      --only confidence_threshold --only entropy_bound --out runs/policies.json

An interrupted run goes on where it stopped when the same command is given again.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from common import (
    CONTEXT,
    Subject,
    Suite,
    default_layout,
    finish,
    in_engine,
    markdown_table,
    plain,
    progress,
    reported_errors,
    verbatim,
)

from quicksilver.api import InfillLayout
from quicksilver.decoding import (
    Cache,
    ConfidenceThreshold,
    DynamicFactor,
    EntropyBound,
    FixedCount,
    FixedSteps,
    Hierarchical,
    JointThreshold,
    Order,
    Policy,
    ReMDM,
)
from quicksilver.errors import ConfigError
from quicksilver.evaluation.bootstrap import Interval
from quicksilver.evaluation.provenance import environment
from quicksilver.evaluation.results import ResultLog
from quicksilver.evaluation.running import figures, run
from quicksilver.evaluation.subjects.engine import ExactPolicy
from quicksilver.evaluation.suites.filling import Length


@dataclass(frozen=True, slots=True)
class Setting:
    """A line of the table."""

    name: str
    parameter: str
    policy: Policy

    @property
    def slug(self) -> str:
        """Part of a file name."""
        return f"{self.name}-{self.parameter}".replace("/", "-").replace(" ", "-")


GRID = (
    *(
        Setting("confidence_threshold", f"{x}", ConfidenceThreshold(threshold=x))
        for x in (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    ),
    *(Setting("dynamic_factor", f"{x}", DynamicFactor(factor=x)) for x in (0.25, 0.5, 1.0, 2.0)),
    *(Setting("entropy_bound", f"{x}", EntropyBound(bound=x)) for x in (0.05, 0.1, 0.3, 1.0)),
    *(
        Setting("hierarchical", f"{low}/{x}", Hierarchical(low=low, threshold=x))
        for low, x in ((0.4, 0.8), (0.62, 0.92))
    ),
    *(Setting("fixed_steps", f"{x}", FixedSteps(steps=x)) for x in (1, 2, 4, 6, 8)),
    *(Setting("confidence_order", f"{x} a step", FixedCount(tokens_per_step=x)) for x in (1, 2, 4)),
    *(Setting("margin_order", f"{x} a step", FixedCount(order=Order.MARGIN, tokens_per_step=x)) for x in (1, 2)),
    *(Setting("random_order", f"{x} a step", FixedCount(order=Order.RANDOM, tokens_per_step=x)) for x in (1, 2)),
    *(Setting("joint_threshold", f"{x}", JointThreshold(threshold=x)) for x in (0.5, 0.7, 0.9)),
    *(Setting("remdm", f"{x} steps", ReMDM(steps=x)) for x in (8, 16)),
)
"""``renoise`` is left out: it needs a checkpoint trained on uniform noise."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    model: Annotated[str, typer.Option(help="Checkpoint folder or the name of a bundled model.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table and the single items.")],
    suite: Annotated[Suite, typer.Option(help="Which holes.")] = Suite.HUMANEVAL,
    tokens: Annotated[Path | None, typer.Option(help="Corpus folder, for fim-line.")] = None,
    items: Annotated[int, typer.Option(help="Random items, the same for every policy.")] = 200,
    length: Annotated[Length, typer.Option(help=Length.__doc__)] = Length.UNKNOWN,
    layout: Annotated[InfillLayout | None, typer.Option(help="Default: in_place where trained, else psm.")] = None,
    cache: Annotated[Cache, typer.Option(help="Of holes in place.")] = Cache.EXACT,
    only: Annotated[list[str] | None, typer.Option(help="Only this policy; may be repeated.")] = None,
    context: Annotated[int, typer.Option(help="Most tokens the model sees.")] = CONTEXT,
    seed: Annotated[int, typer.Option(help="Of the sample and the decoding.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    plot: Annotated[Path | None, typer.Option(help="Picture of TPF against exact match (.svg or .png).")] = None,
) -> None:
    """Measure and report."""
    with reported_errors():
        subject = Subject(
            model=model, suite=suite.value, tokens=tokens, items=items, context=context, seed=seed, device=device
        )
        grid, loaded, asked = _grid(only), subject.load(), subject.asked(length)
        chosen = layout or default_layout(loaded)
        about = subject.about() | {"layout": chosen.value, "length": length.value, "cache": cache.value}
        rows: list[tuple[Setting, dict[str, Interval]]] = []
        for setting in _settings_of(grid, loaded.spec.noise.edit_rate):
            log = ResultLog(out.with_suffix("") / f"{setting.slug}.jsonl", about | {"policy": repr(setting.policy)})
            side = in_engine(loaded, chosen, ExactPolicy(exact_policy=setting.policy, cache=cache))
            with progress() as bar:
                task = bar.add_task(f"{setting.name} {setting.parameter}", total=len(asked.items()), detail="")
                advance = partial(bar.advance, task)
                records = run(asked, side, asked.items(), seed=seed, log=log, on_record=lambda _, f=advance: f())
            rows.append((setting, figures(records)))
        found = [{"policy": s.name, "parameter": s.parameter, **plain(values)} for s, values in rows]
        finish(out, about | {"environment": environment(), "policies": found}, _table(about, rows))
        if plot is not None:
            from plots import plot_policies

            plot_policies(out, plot)


def _grid(only: list[str] | None) -> tuple[Setting, ...]:
    known = dict.fromkeys(setting.name for setting in GRID)
    for name in only or ():
        if name not in known:
            raise ConfigError(f"no policy {name!r} in the grid; there are: {', '.join(known)}")
    return tuple(setting for setting in GRID if not only or setting.name in only)


def _settings_of(grid: tuple[Setting, ...], edit_rate: float) -> list[Setting]:
    """The grid without policies that the checkpoint was not trained for; says so."""
    left = [setting for setting in grid if edit_rate or not isinstance(setting.policy, JointThreshold)]
    if len(left) < len(grid):
        typer.echo("joint_threshold is left out: the checkpoint never saw wrong tokens (edit_rate is 0)", err=True)
    return left


def _table(about: dict[str, object], rows: list[tuple[Setting, dict[str, Interval]]]) -> str:
    title = f"{about['model']} on {about['items']} items of {about['suite']}"
    title += f", layout {about['layout']}, cache {about['cache']}, length {about['length']}"
    header = ("policy", "parameter", "exact match [95 %]", "parse rate", "TPF [95 %]", "NFE per item", "tokens/s")
    cells = [
        (
            setting.name,
            setting.parameter,
            values["exact_match"],
            f"{values['parse_rate'].value:.3f}",
            values["tpf"],
            f"{values['nfe'].value:.2f}",
            f"{values['tokens_per_s'].value:.1f}",
        )
        for setting, values in rows
    ]
    return f"{title}\n\n" + markdown_table(header, cells)


if __name__ == "__main__":
    app()
