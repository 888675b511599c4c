"""Block by block generation after a prompt, and prefix-suffix-middle infill by the same means.

The block grid of the prompt starts at its first token. The grid of the response starts anew at the first response
token, so that the prompt's last block may be short; or it goes on, and the prompt's last tokens stand in the response's
first block (``DiffusionSpec.has_absolute_grid``). A later block sees all earlier ones. Where the checkpoint was trained
with causal context, every committed token is a block of its own.

A checkpoint that knows full attention alone sees all of the response from the beginning: ``max_tokens`` masks stand
behind the prompt, and its blocks say no more than what is written first (LLaDA, Nie et al. 2025, arXiv:2502.09992,
section 2.4; a single block: Dream, Ye et al. 2025, arXiv:2508.15487).
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from quicksilver.decoding.autoregressive import generate_autoregressive
from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.grid import open_end, shared_with_prompt
from quicksilver.decoding.ledger import commits
from quicksilver.decoding.params import (
    DEFAULT_MAX_TOKENS,
    SamplingParams,
    kept_tokens,
    require_no_stale_rows,
)
from quicksilver.decoding.policies import SelfSpeculative
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.decoding.regions import ConstrainedResponse, Region
from quicksilver.decoding.sampler import BlockProgress, ReferenceRun
from quicksilver.diffusion.spec import DiffusionSpec, Objective
from quicksilver.errors import ConfigError

Look = Callable[..., Float[Tensor, "N V"]]
"""One forward of a canvas; the logits of the positions ``is_open``."""


def generate(
    logits_fn: CanvasLogits, spec: DiffusionSpec, prompt_ids: Sequence[int], params: SamplingParams
) -> Iterator[Event]:
    """Continue a prompt until eos, a stop, ``max_tokens`` or ``max_nfe``; the last event is Done.

    Positions after the first eos or stop id of a block are void, even where they were written first: the block is
    finished when every position up to it is; ``ends`` says when eos is sure. Then the stop rule is asked, and takes
    precedence. ``max_tokens`` may cut inside the last block, whose remaining masks stay as context. Where ends are
    free no position is void before its block is full. A policy that starts from noise denoises every block as a whole,
    also where it is cut afterwards.

    Under full attention ``cache`` may be given; all rows are computed at the first forward of every block.

    Raises:
        ConfigError: the checkpoint is autoregressive, or cannot do what the policy does; or a stop id is a special
            token; or ``cache`` is given where blocks are final.
    """
    if spec.objective is Objective.AUTOREGRESSIVE:
        raise ConfigError("an autoregressive checkpoint has no blocks to denoise; use generate_autoregressive")
    if isinstance(params.policy, SelfSpeculative):
        raise ConfigError("policy self_speculative is a mode of the engine, which the reference lacks")
    if spec.continues_in_place:
        return _generate_in_place(ReferenceRun(logits_fn, spec, params), prompt_ids)
    require_no_stale_rows(params)
    return _generate(ReferenceRun(logits_fn, spec, params), prompt_ids)


def infill_psm(
    logits_fn: CanvasLogits,
    spec: DiffusionSpec,
    prefix_ids: Sequence[int],
    suffix_ids: Sequence[int],
    params: SamplingParams,
) -> Iterator[Event]:
    """Fill the one hole between prefix and suffix by generating the middle after both, until eos or a stop.

    Works for block-causal and for autoregressive checkpoints. Source: Bavarian et al. 2022, arXiv:2207.14255.

    Raises:
        ConfigError: the checkpoint has no fill-in-the-middle tokens, or as ``generate``.
    """
    prompt_ids = psm_prompt(spec, prefix_ids, suffix_ids)
    continue_prompt = generate_autoregressive if spec.objective is Objective.AUTOREGRESSIVE else generate
    return continue_prompt(logits_fn, spec, prompt_ids, params)


def psm_prompt(spec: DiffusionSpec, prefix_ids: Sequence[int], suffix_ids: Sequence[int]) -> tuple[int, ...]:
    """The prompt whose continuation is the middle: [fim_prefix] prefix [fim_suffix] suffix [fim_middle]."""
    special = spec.special
    if special.fim_prefix is None or special.fim_suffix is None or special.fim_middle is None:
        raise ConfigError("this checkpoint has no fill-in-the-middle tokens")
    return (special.fim_prefix, *prefix_ids, special.fim_suffix, *suffix_ids, special.fim_middle)


def _generate(run: ReferenceRun, prompt_ids: Sequence[int]) -> Iterator[Event]:
    block_length = run.params.block_length or run.spec.block_length
    limit = len(prompt_ids) + (run.params.max_tokens or DEFAULT_MAX_TOKENS)
    canvas = Canvas.of_prompt(prompt_ids)
    block_ids = torch.arange(len(canvas)) // block_length
    response = run.constrained_response(limit - len(prompt_ids))
    reason, end = None, limit
    shared = shared_with_prompt(run.spec, len(prompt_ids), block_length)
    while reason is None:
        start, added = len(canvas), block_length - shared
        stop = min(start + added, limit)
        canvas = Canvas.join([canvas, Canvas.of_masks(added, mask_id=run.spec.special.mask, hole=0)])
        block_ids = _append_block(run.spec, block_ids, added, is_begun=shared > 0)
        yield Resize(hole=0, start=start - len(prompt_ids), added=added)
        # Noise is denoised in whole blocks, also where they are cut afterwards.
        open_stop = len(canvas) if run.policy.starts_from_noise else stop
        place = _Block(first=start - shared, start=start, stop=open_stop, response=response)
        look, window = partial(run.look, block_ids=block_ids), slice(start, len(canvas))
        canvas = yield from _denoise_block(run, canvas, place, look, window=window)
        reason, end = _ending(run, canvas, len(prompt_ids), start, stop, limit)
        _take(response, canvas, start, stop, reason)
        shared = 0
    yield from _finish(run, canvas, len(prompt_ids), reason, end)


def _generate_in_place(run: ReferenceRun, prompt_ids: Sequence[int]) -> Iterator[Event]:
    """The same where all masks of the response are there from the beginning."""
    block_length = run.params.block_length or run.spec.block_length
    num_tokens = run.params.max_tokens or DEFAULT_MAX_TOKENS
    masks = Canvas.of_masks(num_tokens, mask_id=run.spec.special.mask, hole=0)
    canvas = Canvas.join([Canvas.of_prompt(prompt_ids), masks])
    yield Resize(hole=0, start=0, added=num_tokens)
    response = run.constrained_response(num_tokens)
    reason, end, stop = None, len(canvas), len(prompt_ids)
    while reason is None:
        start, stop = stop, min(stop + block_length, len(canvas))
        place = _Block(first=start, start=start, stop=stop, response=response)
        run.drop_kept_rows()
        look = partial(run.look_in_place, is_written=within(len(canvas), start, stop))
        canvas = yield from _denoise_block(run, canvas, place, look, window=slice(0, len(canvas)))
        reason, end = _ending(run, canvas, len(prompt_ids), start, stop, len(canvas))
        _take(response, canvas, start, stop, reason)
    yield from _finish(run, canvas, len(prompt_ids), reason, end)


def _take(
    response: ConstrainedResponse | None, canvas: Canvas, start: int, stop: int, reason: FinishReason | None
) -> None:
    if response is not None and reason is None:
        response.take(canvas.token_ids[start:stop].tolist())


def _finish(run: ReferenceRun, canvas: Canvas, num_prompt: int, reason: FinishReason, end: int) -> Iterator[Event]:
    if end < len(canvas):
        yield Resize(hole=0, start=end - num_prompt, added=end - len(canvas))
    yield run.ledger.done(canvas.take(torch.arange(end)), 1, reason)


def within(length: int, start: int, stop: int) -> Bool[Tensor, " L"]:
    """True at the positions of a block."""
    position = torch.arange(length)
    return (position >= start) & (position < stop)


def _ending(
    run: ReferenceRun, canvas: Canvas, num_prompt: int, start: int, stop: int, limit: int
) -> tuple[FinishReason | None, int]:
    """Why the response ends with the block [start, stop), and its length with the prompt; None: it goes on."""
    found = _first_end(run, canvas, start, stop)
    end = stop if found is None else found
    reason = None
    kept = kept_tokens(run.params.stop, canvas.token_ids[num_prompt:end].tolist())
    if kept is not None:
        reason, end = FinishReason.STOP, num_prompt + kept
    elif found is not None:
        is_eos = int(canvas.token_ids[found]) == run.spec.special.eos
        reason = FinishReason.EOS if is_eos else FinishReason.STOP
    elif stop >= limit:
        reason = FinishReason.LENGTH
    return FinishReason.MAX_NFE if run.is_cut or (reason is None and run.is_spent) else reason, end


def _append_block(
    spec: DiffusionSpec, block_ids: Int[Tensor, " P"], added: int, *, is_begun: bool
) -> Int[Tensor, " L"]:
    """Block numbers of the canvas with one more block; what is committed stays as it was trained to be seen.

    The new positions belong to the last block there is if that ``is_begun``.
    """
    if spec.has_causal_context:
        block_ids = torch.arange(len(block_ids))
    next_id = int(block_ids[-1]) + (not is_begun) if len(block_ids) else 0
    return torch.cat([block_ids, torch.full((added,), next_id)])


@dataclass(frozen=True, kw_only=True, slots=True)
class _Block:
    """The block being denoised."""

    first: int
    """Its first position, which may be the prompt's."""
    start: int
    """Its first position of the response."""
    stop: int
    """Positions from here on are void."""
    response: ConstrainedResponse | None
    """The constraint; None: there is none."""

    def regions(self, run: ReferenceRun, canvas: Canvas, is_open: Bool[Tensor, " L"]) -> tuple[Region, ...]:
        """What the constraint says of the coming step, whose forward has run."""
        if self.response is None:
            return ()
        here = slice(self.start, self.stop)
        end = _first_end(run, canvas, self.start, self.stop) if run.holds_ends else None
        return self.response.regions(
            canvas.token_ids[here].tolist(),
            canvas.state[here].tolist(),
            is_open[here].nonzero()[:, 0].tolist(),
            end=None if end is None else end - self.start,
            is_last=run.is_spent,
        )


def _denoise_block(
    run: ReferenceRun, canvas: Canvas, place: _Block, look: Look, window: slice
) -> Generator[Event, None, Canvas]:
    """Denoise a block of the window that the policy sees. Returns the canvas."""
    positions = torch.arange(len(canvas))
    block = BlockProgress(max_steps=run.policy.max_steps(place.stop - place.start))
    is_finished = False
    while not is_finished:
        canvas = run.fill_noise(canvas, positions, block.step)
        is_forced = run.is_last_chance(block)
        is_open = _open_positions(run, canvas, place)
        if not is_forced:
            is_open &= _in_first_sub_block(run, canvas, is_open, place)
        logits = look(canvas, is_open=is_open, predicted=block.predicted)
        is_forbidden, is_withheld = run.is_unwritten(logits.shape[1], run.written_special)
        step = run.step(
            canvas,
            logits,
            block,
            window=window,
            is_open=is_open,
            positions=positions,
            is_forbidden=is_forbidden[None],
            is_withheld=is_withheld[None] if bool(is_withheld.any()) else None,
            is_forced=is_forced,
            regions=place.regions(run, canvas, is_open),
        )
        canvas, events = run.apply(canvas, step)
        yield from events
        still_open = _open_positions(run, canvas, place)
        is_finished = run.is_finished(canvas, still_open, step, block) or is_forced
        if is_finished and run.policy.revises:
            yield from commits(canvas, canvas.is_draft & still_open)
            canvas = canvas.finalize(still_open)
        yield run.ledger.frame(canvas)
    return canvas


def _first_end(run: ReferenceRun, canvas: Canvas, start: int, stop: int) -> int | None:
    """Position of the first written eos or stop id in [start, stop)."""
    is_end = torch.isin(canvas.token_ids, torch.tensor(sorted(run.end_ids))) & ~canvas.is_masked
    found = is_end[start:stop].nonzero()
    return start + int(found[0, 0]) if found.shape[0] else None


def _open_positions(run: ReferenceRun, canvas: Canvas, place: _Block) -> Bool[Tensor, " L"]:
    """Masks and drafts of the block that are not void."""
    found = _first_end(run, canvas, place.start, place.stop) if run.holds_ends else None
    end = place.stop if found is None else found + 1
    return (canvas.is_masked | canvas.is_draft) & within(len(canvas), place.start, end)


def _in_first_sub_block(
    run: ReferenceRun, canvas: Canvas, is_open: Bool[Tensor, " L"], place: _Block
) -> Bool[Tensor, " L"]:
    """What is not behind the sub-block of the first open mask."""
    masks = (is_open & canvas.is_masked).nonzero()[:, 0].tolist()
    end = open_end(run.spec.decoding, masks[0] - place.first) if masks else None
    return within(len(canvas), 0, len(canvas) if end is None else place.first + end)
