"""Record what an engine decides, and check that it decides the same again.

A request's tokens depend on weights, task, parameters and seed alone, and on the lengths of its blocks where those
followed load, which the trace holds. So it can be repeated frame by frame on another machine. Tokens must agree
exactly. Confidences may differ by a tolerance: another order of sums moves them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import zip_longest

import torch

from quicksilver.decoding.events import FinishReason, Result, TraceEntry
from quicksilver.decoding.params import StopRule
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.engine import Engine, Ticket
from quicksilver.engine.request import Request
from quicksilver.engine.trace_file import Trace, TracedRun, load, save, traced_run
from quicksilver.errors import ConfigError, InputError
from quicksilver.models.denoiser import Denoiser

__all__ = ["Difference", "Report", "Trace", "TracedRun", "fingerprint", "load", "record", "recording", "replay", "save"]

TOLERANCE = 1e-3
"""Of a confidence, absolute. Another order of sums moves them far less in float32, and more in bfloat16."""
_SAMPLED = 2**16
_COMPARED = ("nfe", "holes", "step_committed", "num_edits", "num_stale_forwards", "num_stale_rows", "finish_reason")
"""Of a result, beside its trace."""

StopBuilder = Callable[[tuple[str, ...]], StopRule]
"""Makes a stop rule of strings, for example with ``api.stopping.TextStop``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """The first thing that a replay did otherwise."""

    run: int
    """Which of the trace's requests, from 1."""
    step: int | None
    """Forward, from 1; None: no single one."""
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"request {self.run}" + ("" if self.step is None else f", forward {self.step}")
        return f"{where}: the trace has {self.expected}, the replay {self.found}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a replay found."""

    num_runs: int
    """Requests that were run, the one that differs included."""
    num_frames: int
    """Forwards of the trace that agree, up to the first difference."""
    difference: Difference | None
    """None: every frame agrees."""
    confidence_error: float
    """Greatest among the frames that agree."""


def fingerprint(denoiser: Denoiser, spec: DiffusionSpec) -> str:
    """Tells models apart: a hash over spec, architecture, number formats and up to 65,536 numbers of every tensor.

    Cheap for large models; a change of few single numbers may go unseen. Weights that a quantized layer has packed
    count by the layer's kind only.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(f"{json.dumps(spec.to_dict(), sort_keys=True)}{denoiser.config}".encode())
    for name, module in denoiser.named_modules():
        digest.update(f"{name}:{type(module).__name__};".encode())
    for name, tensor in denoiser.state_dict().items():
        digest.update(f"{name}:{type(tensor).__name__}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        if type(tensor) is torch.Tensor:
            flat = tensor.detach().flatten()
            sample = flat[:: max(1, -(-flat.numel() // _SAMPLED))].contiguous()
            digest.update(sample.view(torch.uint8).cpu().numpy().tobytes())
    return digest.hexdigest()


@contextmanager
def recording(engine: Engine) -> Iterator[list[TracedRun]]:
    """Collects every request that comes to its end meanwhile, in the order of their ends.

    Raises:
        ConfigError: on leaving, if one of them cannot be stored, see ``trace_file.traced_run``.
    """
    runs: list[TracedRun] = []
    with _endings(engine) as ended:
        yield runs
    runs += [_traced(ticket) for ticket in ended]


@contextmanager
def _endings(engine: Engine) -> Iterator[list[Ticket]]:
    """Collects the tickets that come to a result meanwhile."""
    ended: list[Ticket] = []

    def listen(ticket: Ticket) -> None:
        if ticket.sequence.done is not None and ticket.error is None:
            ended.append(ticket)

    engine.on_end.append(listen)
    try:
        yield ended
    finally:
        engine.on_end.remove(listen)


def _traced(ticket: Ticket) -> TracedRun:
    """With the blocks that load made shorter, without which it could not be repeated."""
    sequence = ticket.sequence
    return traced_run(replace(sequence.request, block_lengths=sequence.shortened_blocks), ticket.result)


def record(engine: Engine, requests: Iterable[Request], *, model: str) -> Trace:
    """Run requests and return their trace, in their order.

    Raises:
        ConfigError: one of them cannot be stored.
        Exception: whatever ended a request.
    """
    with _endings(engine) as ended:
        engine.run(requests)
    # Ids rise in the order of submission.
    runs = tuple(_traced(ticket) for ticket in sorted(ended, key=lambda each: each.job_id))
    return Trace(model=model, fingerprint=fingerprint(engine.denoiser, engine.spec), runs=runs)


def replay(
    engine: Engine, trace: Trace, *, build_stop: StopBuilder | None = None, tolerance: float = TOLERANCE
) -> Report:
    """Run a trace's requests again, one by one, up to the first difference.

    A request that its deadline cut is repeated with ``max_nfe`` at the forward of the cut.

    Args:
        engine: with the model of the trace, in the same number format.
        trace: what was recorded.
        build_stop: makes the stop rules of requests that have stop strings.
        tolerance: most by which a confidence may differ.

    Raises:
        ConfigError: a request has stop strings and there is no ``build_stop``; or it does not fit the engine.
        InputError: the model is another.
    """
    if not tolerance >= 0:
        raise ConfigError(f"tolerance must not be negative, got {tolerance}")
    own = fingerprint(engine.denoiser, engine.spec)
    if own != trace.fingerprint:
        raise InputError(
            f"the trace is of model {trace.fingerprint} ({trace.model}), this one is {own}: give the same weights, in "
            f"the same number format and with the same config.json"
        )
    num_frames, confidence_error = 0, 0.0
    for number, run in enumerate(trace.runs, 1):
        (found,) = engine.run([_again(run, build_stop)])
        difference, error = _compare(number, run, found, tolerance)
        confidence_error = max(confidence_error, error)
        if difference is not None:
            agreed = run.result.nfe if difference.step is None else difference.step - 1
            return Report(
                num_runs=number,
                num_frames=num_frames + agreed,
                difference=difference,
                confidence_error=confidence_error,
            )
        num_frames += run.result.nfe
    return Report(num_runs=len(trace.runs), num_frames=num_frames, difference=None, confidence_error=confidence_error)


def _again(run: TracedRun, build_stop: StopBuilder | None) -> Request:
    params = run.request.params
    if run.stop:
        if build_stop is None:
            raise ConfigError(f"the trace has stop strings {run.stop}; give build_stop to make a rule of them")
        params = replace(params, stop=build_stop(run.stop))
    if run.result.finish_reason is FinishReason.DEADLINE:
        params = replace(params, max_nfe=run.result.nfe)
    return replace(run.request, params=params, deadline_ms=None, may_follow_load=False)


def _compare(number: int, run: TracedRun, found: Result, tolerance: float) -> tuple[Difference | None, float]:
    """The first difference, and the greatest of confidences before it."""
    greatest = 0.0
    for expected, entry in zip_longest(run.result.trace, found.trace):
        error = abs(expected.confidence - entry.confidence) if expected and entry else 0.0
        if expected is None or entry is None or not (_place(expected) == _place(entry) and error <= tolerance):
            step = min(each.step for each in (expected, entry) if each is not None)
            return Difference(run=number, step=step, expected=_say(expected), found=_say(entry)), greatest
        greatest = max(greatest, error)
    wanted = run.result
    if wanted.finish_reason is FinishReason.DEADLINE:
        wanted = replace(wanted, finish_reason=FinishReason.MAX_NFE)
    for name in _COMPARED:
        if getattr(wanted, name) != getattr(found, name):
            one, other = (f"{name} {getattr(each, name)}" for each in (wanted, found))
            return Difference(run=number, step=None, expected=one, found=other), greatest
    return None, greatest


def _place(entry: TraceEntry) -> tuple[int, int, int, int]:
    return entry.step, entry.hole, entry.position, entry.token_id


def _say(entry: TraceEntry | None) -> str:
    if entry is None:
        return "nothing more"
    return (
        f"token {entry.token_id} at position {entry.position} (hole {entry.hole}, forward {entry.step}, "
        f"confidence {entry.confidence:.6f})"
    )
