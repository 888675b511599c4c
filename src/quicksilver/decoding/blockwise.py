"""Block by block generation after a prompt, and prefix-suffix-middle infill by the same means.

The block grid of the prompt starts at its first token, so its last block may be short; the grid of the response starts
anew at the first response token. A later block sees all earlier ones. Where the checkpoint was trained with causal
context, every committed token is a block of its own.
"""

from collections.abc import Generator, Iterator, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from quicksilver.decoding.autoregressive import generate_autoregressive
from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.events import Event, FinishReason, Resize
from quicksilver.decoding.ledger import commits
from quicksilver.decoding.params import (
    DEFAULT_MAX_TOKENS,
    SamplingParams,
    forbidden_tokens,
    kept_tokens,
    never_in_block,
    require_no_stale_rows,
)
from quicksilver.decoding.policies import SelfSpeculative
from quicksilver.decoding.protocol import CanvasLogits
from quicksilver.decoding.sampler import BlockProgress, ReferenceRun
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError


def generate(
    logits_fn: CanvasLogits, spec: DiffusionSpec, prompt_ids: Sequence[int], params: SamplingParams
) -> Iterator[Event]:
    """Continue a prompt until eos, a stop, ``max_tokens`` or ``max_nfe``; the last event is Done.

    Positions after the first eos or stop id of a block are void, even where they were written first: the block is
    finished when every position up to it is; ``ends`` says when eos is sure. Then the stop rule is asked, and takes
    precedence. ``max_tokens`` may cut inside the last block, whose remaining masks stay as context. A policy that
    starts from noise denoises every block as a whole, and it is cut when it is settled.

    Raises:
        ConfigError: the checkpoint is autoregressive or not block-causal, or cannot do what the policy does; or
            a stop id is a special token; or ``cache`` is given.
    """
    if spec.objective is Objective.AUTOREGRESSIVE:
        raise ConfigError("an autoregressive checkpoint has no blocks to denoise; use generate_autoregressive")
    if isinstance(params.policy, SelfSpeculative):
        raise ConfigError("policy self_speculative is a mode of the engine, which the reference lacks")
    if Layout.BLOCK_CAUSAL not in spec.layouts:
        raise ConfigError("this checkpoint was not trained block by block and cannot continue a prompt")
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
    reason, end = None, limit
    while reason is None:
        start = len(canvas)
        masks = Canvas.of_masks(block_length, mask_id=run.spec.special.mask, hole=0)
        canvas = Canvas.join([canvas, masks])
        block_ids = _append_block(run.spec, block_ids, block_length)
        yield Resize(hole=0, start=start - len(prompt_ids), added=block_length)
        canvas = yield from _denoise_block(run, canvas, block_ids, start, min(start + block_length, limit))
        reason, end = _ending(run, canvas, len(prompt_ids), start, limit)
    if end < len(canvas):
        yield Resize(hole=0, start=end - len(prompt_ids), added=end - len(canvas))
    yield run.ledger.done(canvas.take(torch.arange(end)), 1, reason)


def _ending(
    run: ReferenceRun, canvas: Canvas, num_prompt: int, start: int, limit: int
) -> tuple[FinishReason | None, int]:
    """Why the response ends with the block from ``start``, and its length with the prompt; None: it goes on."""
    found = _first_end(run, canvas, start, limit)
    end = min(len(canvas), limit) if found is None else found
    reason = None
    kept = kept_tokens(run.params.stop, canvas.token_ids[num_prompt:end].tolist())
    if kept is not None:
        reason, end = FinishReason.STOP, num_prompt + kept
    elif found is not None:
        is_eos = int(canvas.token_ids[found]) == run.spec.special.eos
        reason = FinishReason.EOS if is_eos else FinishReason.STOP
    elif len(canvas) >= limit:
        reason = FinishReason.LENGTH
    return FinishReason.MAX_NFE if run.is_cut or (reason is None and run.is_spent) else reason, end


def _append_block(spec: DiffusionSpec, block_ids: Int[Tensor, " P"], block_length: int) -> Int[Tensor, " L"]:
    """Block numbers of the canvas with one more block; what is committed stays as it was trained to be seen."""
    if spec.has_causal_context:
        block_ids = torch.arange(len(block_ids))
    next_id = int(block_ids[-1]) + 1 if len(block_ids) else 0
    return torch.cat([block_ids, torch.full((block_length,), next_id)])


def _denoise_block(
    run: ReferenceRun, canvas: Canvas, block_ids: Int[Tensor, " L"], start: int, stop: int
) -> Generator[Event, None, Canvas]:
    """Denoise the last block, from ``start``; positions from ``stop`` on are void. Returns the canvas."""
    positions = torch.arange(len(canvas))
    block = BlockProgress(max_steps=run.policy.max_steps(stop - start))
    is_finished = False
    while not is_finished:
        canvas = run.fill_noise(canvas, positions, block.step)
        is_forced = run.is_last_chance(block)
        is_open = _open_positions(run, canvas, start, stop)
        logits = run.look(canvas, block_ids, is_open, block.predicted)
        step = run.step(
            canvas,
            logits,
            block,
            window=slice(start, len(canvas)),
            is_open=is_open,
            positions=positions,
            is_forbidden=_forbidden(run, logits.shape[1]),
            is_forced=is_forced,
        )
        canvas, events = run.apply(canvas, step)
        yield from events
        is_finished = run.is_finished(canvas, _open_positions(run, canvas, start, stop), step, block) or is_forced
        if is_finished and run.policy.revises:
            is_kept = _before_end(run, canvas, start, stop)
            yield from commits(canvas, canvas.is_draft & is_kept)
            canvas = canvas.finalize(is_kept)
        yield run.ledger.frame(canvas)
    return canvas


def _forbidden(run: ReferenceRun, vocab_size: int) -> Bool[Tensor, "1 V"]:
    run.params.check_vocabulary(vocab_size)
    return forbidden_tokens(vocab_size, never_in_block(run.spec, run.params))[None]


def _first_end(run: ReferenceRun, canvas: Canvas, start: int, stop: int) -> int | None:
    """Position of the first written eos or stop id in [start, stop)."""
    is_end = torch.isin(canvas.token_ids, torch.tensor(sorted(run.end_ids))) & ~canvas.is_masked
    found = is_end[start:stop].nonzero()
    return start + int(found[0, 0]) if found.shape[0] else None


def _open_positions(run: ReferenceRun, canvas: Canvas, start: int, stop: int) -> Bool[Tensor, " L"]:
    """Masks and drafts of the block that are not void; none is where the policy denoises blocks as a whole."""
    is_whole = run.policy.starts_from_noise
    inside = torch.arange(len(canvas)) >= start if is_whole else _before_end(run, canvas, start, stop)
    return (canvas.is_masked | canvas.is_draft) & inside


def _before_end(run: ReferenceRun, canvas: Canvas, start: int, stop: int) -> Bool[Tensor, " L"]:
    """The positions of the block up to its end, which is among them."""
    found = _first_end(run, canvas, start, stop)
    position = torch.arange(len(canvas))
    return (position >= start) & (position < (stop if found is None else found + 1))
