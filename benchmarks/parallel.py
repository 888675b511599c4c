r"""A model over several processes against one process that holds all of it, in turns.

Random weights, written to a folder that every process reads its part of; Qwen3's layout, 100M parameters unless said
otherwise. Rank 0 measures both: the others wait while it runs alone. Every forward is a denoising step of ``--batch``
requests with one block each, behind a prompt that is cached. On a busy machine two processes get more of its cores than
one: there rank 0's processor time, in which waiting does not count, says more than what the clock says.

Example:
  OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 benchmarks/parallel.py --batch 1 --batch 16
"""

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import torch
import torch.distributed as dist
import typer
from common import markdown_table, reported_errors, verbatim

from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.decoding import FixedSteps, SamplingParams
from quicksilver.diffusion.spec import DiffusionSpec, Objective, SpecialIds
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.network import follow
from quicksilver.engine.request import Continuation, Request
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.models.ranks import Ranks

PROMPT, BLOCK = 32, 16
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@app.command(help=verbatim(__doc__))
def main(
    batch: Annotated[list[int], typer.Option(help="Requests at once; may be given several times.")] = [1, 16],  # noqa: B006  # typer reads it
    rounds: Annotated[int, typer.Option(help="Turns of each side.")] = 7,
    forwards: Annotated[int, typer.Option(help="Denoising steps of a turn.")] = 4,
    width: Annotated[int, typer.Option(help="Model width; heads are 64 wide.")] = 768,
    layers: int = 12,
    ffn: int = 2048,
    vocabulary: int = 32_000,
) -> None:
    torch.set_num_threads(1)
    config = DenoiserConfig(
        vocab_size=vocabulary,
        num_layers=layers,
        model_width=width,
        num_heads=width // 64,
        num_kv_heads=max(width // 192, 1),
        head_width=64,
        ffn_width=ffn,
    )
    with reported_errors(), Ranks.join("cpu") as ranks, _folder(ranks, config) as folder:
        part, spec = load_folder(folder, torch.float32, ranks=ranks)
        ranks.meet()
        if not ranks.leads:
            if isinstance(part, ParallelDenoiser):
                follow(part)
            return
        whole, _ = load_folder(folder, torch.float32)
        rows = [_compare(whole, part, spec, size, rounds, forwards) for size in batch]
        typer.echo(
            f"{config.num_parameters / 1e6:.0f}M parameters, {ranks.size} processes, load {os.getloadavg()[0]:.1f}"
        )
        sides = ("one", f"rank 0 of {ranks.size}")
        clock, processor = ([f"{side}, {unit}" for side in sides] for unit in ("ms", "processor ms"))
        typer.echo(markdown_table(["batch", *clock, "ratio", "of turns", *processor, "ratio", "of turns"], rows))


@contextmanager
def _folder(ranks: Ranks, config: DenoiserConfig) -> Iterator[Path]:
    """A checkpoint with random weights, which rank 0 writes and all see."""
    with tempfile.TemporaryDirectory() as made:
        where: list[object] = [made]
        if ranks.leads:
            torch.manual_seed(0)
            denoiser = Denoiser(config)
            for name, parameter in denoiser.named_parameters():
                torch.nn.init.constant_(parameter, 1.0) if "norm" in name else torch.nn.init.normal_(
                    parameter, std=0.02
                )
            spec = DiffusionSpec(
                objective=Objective.MASK,
                special=SpecialIds(eos=0, mask=1),
                block_length=BLOCK,
                trained_block_lengths=(BLOCK,),
                has_causal_context=True,
            )
            save_folder(Path(made), denoiser, spec, dtype=torch.float32)
        dist.broadcast_object_list(where, src=0)
        yield Path(str(where[0]))


def _compare(whole: Denoiser, part: Denoiser, spec: DiffusionSpec, batch: int, rounds: int, forwards: int) -> list[str]:
    """Medians over turns: milliseconds of a forward on both sides and their ratio, by clock and by processor."""
    limits = EngineConfig(row_budget=max(256, batch * BLOCK), num_pages=batch * (PROMPT + BLOCK) // 32 + batch)
    engines = [Engine(denoiser, spec, limits) for denoiser in (whole, part)]
    for engine in engines:
        _turn(engine, batch, 1)
    found = [[_turn(engine, batch, forwards) for engine in engines] for _ in range(rounds)]
    row = [str(batch)]
    for kind in (0, 1):
        pairs = [(one[kind], two[kind]) for one, two in found]
        ratios = sorted(one / two for one, two in pairs)
        row += [f"{statistics.median(each):.1f}" for each in zip(*pairs, strict=True)]
        row += [f"{statistics.median(ratios):.2f}", f"{ratios[0]:.2f} to {ratios[-1]:.2f}"]
    return row


def _turn(engine: Engine, batch: int, forwards: int) -> tuple[float, float]:
    """Milliseconds of a denoising forward, by the clock and of this process's processor; prompts are read before."""
    policy = FixedSteps(steps=BLOCK)
    for number in range(batch):
        ids = tuple(2 + (number * 31 + at * 7) % 1000 for at in range(PROMPT))
        params = SamplingParams(seed=number, temperature=0.0, max_tokens=BLOCK, block_length=BLOCK, policy=policy)
        engine.submit(Request(task=Continuation(prompt_ids=ids), params=params))
    tickets = engine.step()
    while len(tickets) < batch or engine.num_rows > batch * BLOCK:
        tickets = engine.step()
    start, spent = time.perf_counter(), time.process_time()
    for _ in range(forwards):
        engine.step()
    seconds, worked = time.perf_counter() - start, time.process_time() - spent
    while engine.num_requests:
        for ticket in tickets:
            engine.abort(ticket)
    return 1000 * seconds / forwards, 1000 * worked / forwards


if __name__ == "__main__":
    app()
