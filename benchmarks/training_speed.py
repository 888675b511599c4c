r"""Training speed against a plain ``transformers`` loop: same model, objective, micro-batches, optimizers and machine.

Examples:
  python benchmarks/training_speed.py --tokens data/corpus --out runs/training_speed.json
  python benchmarks/training_speed.py --tokens data/corpus --recipe coder:coder_4m --repeats 7 --threads 2 \
      --precision bf16 --out runs/training_speed.json

The plain loop is ``Qwen3ForCausalLM`` with SDPA under the dense mask of the whole row, logits at all positions of the
half that is predicted (both, if the recipe also trains next tokens), and cross-entropy: what one writes without knowing
which tiles are masked and which rows carry loss. All take turns, step by step, in one process; the order changes with
every repetition and ratios are taken within a repetition. Before anything is timed, loss and gradient norm must agree.
Not counted on either side: building batches (stated beside), the weight average, logging.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
import typer
from common import finish, markdown_table, progress, reported_errors, verbatim
from torch import Tensor, nn

from quicksilver.checkpoints.layouts import write_layout
from quicksilver.diffusion.spec import Objective
from quicksilver.errors import ConfigError, TrainingError
from quicksilver.evaluation.provenance import environment
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.batch import MicroBatch, cross_entropy_sums
from quicksilver.training.hardware import matmul_peak, resolve_precision
from quicksilver.training.optimizers import build_optimizers
from quicksilver.training.recipe import Precision, Recipe, load_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
PLAIN = "plain transformers"
_TOLERANCE = 1e-3
"""Relative, of loss and gradient norm in float32: sums of a million terms in another order."""

LossFn = Callable[[MicroBatch], Tensor]


class Contender:
    """A model, its loss and its optimizers."""

    def __init__(self, name: str, precision: Precision, model: nn.Module, loss: LossFn, recipe: Recipe) -> None:
        self.name, self.precision = name, precision
        self._model, self._loss, self._recipe = model.train(), loss, recipe
        self._optimizers = build_optimizers(model, recipe.optimizer)  # parameter names are the same in both models
        self._device = next(model.parameters()).device

    def step(self, batches: Sequence[MicroBatch]) -> tuple[float, float]:
        """One optimizer step; returns loss and gradient norm."""
        num_targets = sum(batch.num_targets for batch in batches)
        total = 0.0
        is_bf16 = self.precision is Precision.BF16
        for batch in batches:
            with torch.autocast(self._device.type, torch.bfloat16) if is_bf16 else nullcontext():
                loss = self._loss(batch)
            (loss / num_targets).backward()
            total += float(loss.detach()) / num_targets
        norm = nn.utils.clip_grad_norm_(self._model.parameters(), self._recipe.optimizer.max_grad_norm)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return total, float(norm)


def start_weights(config: DenoiserConfig, seed: int) -> dict[str, Tensor]:
    """Weights in which every matrix matters: ``initialise`` starts as the identity and would hide a wrong mask."""
    denoiser = Denoiser(config)
    denoiser.initialise(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return denoiser.state_dict()


def ours(recipe: Recipe, weights: dict[str, Tensor], precision: Precision, device: str, is_compiled: bool) -> Contender:
    """This repository's model and loss."""
    denoiser = Denoiser(recipe.model)
    denoiser.load_state_dict(weights)
    denoiser = denoiser.to(device)
    if is_compiled:
        denoiser.compile_parts()
    name = "quicksilver, compiled" if is_compiled else "quicksilver"
    return Contender(name, precision, denoiser, lambda batch: cross_entropy_sums(denoiser, batch).loss, recipe)


def plain(recipe: Recipe, weights: dict[str, Tensor], precision: Precision, device: str) -> Contender:
    """The straightforward loop."""
    try:
        from transformers import AutoModelForCausalLM, Qwen3Config
    except ImportError as error:
        raise ConfigError("the plain loop needs transformers: pip install 'quicksilver-lm[hf]'") from error
    keys = write_layout(recipe.model).items()
    values = {key: value for key, value in keys if key not in ("architectures", "model_type")}
    model = AutoModelForCausalLM.from_config(Qwen3Config.from_dict(values), attn_implementation="sdpa")
    model.load_state_dict(weights, strict=False)  # the tied head is listed twice there
    model = model.to(device)

    def loss(batch: MicroBatch) -> Tensor:
        num_rows, length = batch.token_ids.shape
        columns = batch.target_rows % length
        is_pair = bool(batch.topology.is_noisy.any())
        # Half of a pair is context, unless its next tokens are trained too.
        stop = length // 2 if is_pair and int(columns.max()) < length // 2 else length
        labels = batch.token_ids.new_full((num_rows * length,), -100)
        weights = torch.zeros(num_rows * length, device=labels.device)
        labels[batch.target_rows], weights[batch.target_rows] = batch.labels, batch.weights
        hidden = model.model(
            input_ids=batch.token_ids,
            position_ids=batch.positions,
            attention_mask=batch.topology.dense_mask()[:, None],
            use_cache=False,
        ).last_hidden_state
        logits = model.lm_head(hidden[:, :stop]).float()
        wanted = labels.view(num_rows, length)[:, :stop]
        nats = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100, reduction="none")
        return (nats * weights.view(num_rows, length)[:, :stop].flatten()).sum()

    return Contender(PLAIN, precision, model, loss, recipe)


@dataclass(frozen=True, slots=True)
class Timing:
    """Medians over repetitions."""

    name: str
    precision: str
    seconds_per_step: float
    target_tokens_per_s: float
    """Tokens that may carry loss, as the trainer reports; not the rows of both halves."""
    positions_per_s: float
    share_of_peak: float
    """Operations the objective needs, over time and over the measured matrix-product peak of the same precision."""
    ratio: float
    """Median, over repetitions, of the plain loop's time over this one's at the same precision."""
    ratio_low: float
    ratio_high: float


def needed_flops(config: DenoiserConfig, batches: Sequence[MicroBatch]) -> float:
    """Matrix products of the objective: every position in the body, targets alone in the head; attention left out."""
    head = config.vocab_size * config.model_width
    return sum(6.0 * (config.num_active_parameters * b.num_tokens + head * len(b.target_rows)) for b in batches)


def check_equal(contenders: Sequence[Contender], batches: Sequence[MicroBatch]) -> list[dict[str, object]]:
    """One step of each from the same weights; it also warms everything up.

    Raises:
        TrainingError: float32 contenders disagree on loss or gradient norm.
    """
    found = []
    for contender in contenders:
        loss, norm = contender.step(batches)
        found.append({"name": contender.name, "precision": contender.precision, "loss": loss, "grad_norm": norm})
    exact = [row for row in found if row["precision"] is Precision.FLOAT32]
    for key in ("loss", "grad_norm"):
        values = [float(str(row[key])) for row in exact]
        if values and max(values) - min(values) > _TOLERANCE * max(values):
            raise TrainingError(f"the contenders do not train the same: {key} is {values}")
    return found


def measure(
    contenders: Sequence[Contender], steps: Sequence[Sequence[MicroBatch]], advance: Callable[[], None]
) -> list[list[float]]:
    """Seconds of every contender at every step."""
    seconds: list[list[float]] = [[] for _ in contenders]
    for repetition, batches in enumerate(steps):
        for turn in range(len(contenders)):
            index = (turn + repetition) % len(contenders)
            start = time.perf_counter()
            contenders[index].step(batches)  # ends with a float, so a GPU has finished
            seconds[index].append(time.perf_counter() - start)
            advance()
    return seconds


def sum_up(
    contenders: Sequence[Contender],
    seconds: Sequence[Sequence[float]],
    steps: Sequence[Sequence[MicroBatch]],
    config: DenoiserConfig,
    peaks: dict[Precision, float],
) -> list[Timing]:
    """Medians and ratios."""
    base = {c.precision: times for c, times in zip(contenders, seconds, strict=True) if c.name == PLAIN}
    num_targets = [sum(batch.num_targets for batch in batches) for batches in steps]
    num_positions = [sum(batch.num_tokens for batch in batches) for batches in steps]
    flops = [needed_flops(config, batches) for batches in steps]
    timings = []
    for contender, times in zip(contenders, seconds, strict=True):
        per_second = [
            statistics.median(a / b for a, b in zip(x, times, strict=True)) for x in (num_targets, num_positions, flops)
        ]
        ratios = sorted(a / b for a, b in zip(base[contender.precision], times, strict=True))
        timings.append(
            Timing(
                name=contender.name,
                precision=contender.precision.value,
                seconds_per_step=statistics.median(times),
                target_tokens_per_s=per_second[0],
                positions_per_s=per_second[1],
                share_of_peak=per_second[2] / peaks[contender.precision],
                ratio=statistics.median(ratios),
                ratio_low=ratios[0],
                ratio_high=ratios[-1],
            )
        )
    return timings


app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__), no_args_is_help=True)
def main(
    tokens: Annotated[Path, typer.Option(help="Corpus folder written by `quicksilver corpus build`.")],
    out: Annotated[Path, typer.Option(help="JSON report; beside it a Markdown table.")],
    recipe: Annotated[str, typer.Option(help="Recipe as for `quicksilver train`.")] = "coder:coder_4m",
    objective: Annotated[Objective, typer.Option(help="mask or ar.")] = Objective.MASK,
    precision: Annotated[list[Precision] | None, typer.Option(help="Default: float32 and bf16.")] = None,
    repeats: Annotated[int, typer.Option(help="Timed steps of each.")] = 5,
    compiled: Annotated[bool, typer.Option(help="Also time our layers compiled.")] = True,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: torch's.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights and batches.")] = 0,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measure and report."""
    with reported_errors():
        if repeats < 1:
            raise ConfigError(f"repeats must be at least 1, got {repeats}")
        if threads is not None:
            torch.set_num_threads(threads)
        where = torch.device(device)
        chosen = load_recipe(recipe, RECIPES)(tokens, objective)
        precisions = [resolve_precision(each, where) for each in precision or (Precision.FLOAT32, Precision.BF16)]
        steps, build_seconds = _batches(chosen, repeats + 1, seed, where)
        weights = start_weights(chosen.model, seed)
        contenders = [
            contender
            for each in dict.fromkeys(precisions)
            for contender in (
                plain(chosen, weights, each, device),
                ours(chosen, weights, each, device, is_compiled=False),
                *((ours(chosen, weights, each, device, is_compiled=True),) if compiled else ()),
            )
        ]
        peaks = {each: matmul_peak(each, where) for each in dict.fromkeys(precisions)}
        with progress() as bar:
            task = bar.add_task("training steps", total=repeats * len(contenders), detail="checking and compiling")
            agreement = check_equal(contenders, steps[0])
            bar.update(task, detail="")
            seconds = measure(contenders, steps[1:], lambda: bar.advance(task))
        # The better of two measurements, before and after: a machine that was busy at one of them flatters nobody.
        peaks = {each: max(peak, matmul_peak(each, where)) for each, peak in peaks.items()}
        timings = sum_up(contenders, seconds, steps[1:], chosen.model, peaks)
        about = {"recipe": recipe, "objective": objective.value, "parameters": chosen.model.num_parameters}
        about |= {"repeats": repeats, "seed": seed, "device": device, "build_seconds_per_step": build_seconds}
        about |= {"native_precision": resolve_precision(Precision.AUTO, where).value}
        about |= {"matmul_peak_flops": {each.value: peak for each, peak in peaks.items()}, "first_step": agreement}
        report = about | {"environment": environment(), "timings": [asdict(t) for t in timings], "seconds": seconds}
        finish(out, report, _table(about, timings))


def _batches(recipe: Recipe, count: int, seed: int, device: torch.device) -> tuple[list[list[MicroBatch]], float]:
    """Micro-batches of the run's first steps, and the median seconds it takes to build those of one step."""
    task = recipe.task.build(recipe.spec, recipe.schedule, seed)
    steps, seconds = [], []
    for step in range(count):
        start = time.perf_counter()
        steps.append([batch.to(device) for batch in task.micro_batches(step, 0, 1)])
        seconds.append(time.perf_counter() - start)
    return steps, statistics.median(seconds)


def _table(about: dict[str, object], timings: Sequence[Timing]) -> str:
    header = (
        "loop",
        "precision",
        "s/step",
        "target tokens/s",
        "positions/s",
        "share of peak",
        "times plain [min, max]",
    )
    rows = [
        (
            t.name,
            t.precision,
            f"{t.seconds_per_step:.3f}",
            f"{t.target_tokens_per_s:,.0f}",
            f"{t.positions_per_s:,.0f}",
            f"{t.share_of_peak:.1%}",
            f"{t.ratio:.2f} [{t.ratio_low:.2f}, {t.ratio_high:.2f}]",
        )
        for t in timings
    ]
    title = f"{about['recipe']}, objective {about['objective']}, {about['device']}; native precision here: "
    return f"{title}{about['native_precision']}\n\n" + markdown_table(header, rows)


if __name__ == "__main__":
    app()
