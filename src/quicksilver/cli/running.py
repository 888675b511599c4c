"""Running a request for a person: follow the stream, report what it took."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from quicksilver.api import (
    Check,
    Completion,
    Done,
    GenerateRequest,
    InfillRequest,
    Model,
    Problem,
    Repairs,
    Snapshot,
)
from quicksilver.cli.checking import Watched, outcome
from quicksilver.cli.terminal import spinner
from quicksilver.cli.watch import HoleView
from quicksilver.engine.replay import Trace, fingerprint, recording, save
from quicksilver.errors import InputError


def follow(model: Model, request: GenerateRequest | InfillRequest, *, is_watched: bool) -> Completion:
    """The completion of a request, with its progress on stderr."""
    events = model.stream(request)
    if is_watched:
        texts = (request.prompt, "") if isinstance(request, GenerateRequest) else request.texts
        with HoleView(Console(stderr=True), texts, is_kept=not sys.stdout.isatty()) as view:
            return view.follow(events)
    with spinner("decoding …") as status:
        for event in events:
            if isinstance(event, Snapshot):
                status.update(f"decoding … forward {event.nfe}")
            elif isinstance(event, Done):
                return event.completion
    raise InputError("the stream ended without a result")


def follow_checked(model: Model, request: InfillRequest, check: Check, rounds: int | None) -> Completion:
    """The completion of a request with a check in the loop, with its progress on stderr."""
    with spinner("decoding …") as status:
        watched = Watched(check, lambda problems: status.update(_repairing(problems)))
        return model.run_checked(request, watched, Repairs() if rounds is None else Repairs(rounds=rounds))


def _repairing(problems: Sequence[Problem]) -> str:
    return f"repairing: {escape(problems[0].message)} …" if problems else "it passes"


@contextmanager
def traced(model: Model, name: str, output: Path | None) -> Iterator[None]:
    """Write what the engine decides meanwhile to a trace file, if one is asked for."""
    if output is None:
        yield
        return
    with recording(model.engine) as runs:
        yield
    own = fingerprint(model.engine.denoiser, model.spec)
    save(output, Trace(model=name, fingerprint=own, runs=tuple(runs)))


def print_cost(completion: Completion, *, is_verbose: bool) -> None:
    """One line on stderr, if that is a terminal or it is asked for."""
    if is_verbose or sys.stderr.isatty():
        sys.stderr.write(cost_line(completion) + "\n")


def cost_line(completion: Completion) -> str:
    """Tokens, forwards, speed and how to repeat it."""
    return (
        f"{completion.num_tokens} tokens · NFE {completion.nfe} · TPF {completion.tpf:.2f} · "
        f"{completion.tokens_per_s:.0f} tokens/s · {completion.seconds:.2f} s · "
        f"{completion.finish_reason} · seed {completion.seed}"
    )


def to_json(model: Model, completion: Completion) -> str:
    """The completion for programs."""
    holes = [
        {
            "text": hole.text,
            "tokens": [{"text": t.text, "confidence": round(t.confidence, 6), "step": t.step} for t in hole.tokens],
        }
        for hole in completion.holes
    ]
    report = {
        "model": model.name,
        "text": completion.text,
        "holes": holes,
        "num_tokens": completion.num_tokens,
        "nfe": completion.nfe,
        "tpf": round(completion.tpf, 4),
        "tokens_per_s": round(completion.tokens_per_s, 2),
        "seconds": round(completion.seconds, 4),
        "num_edits": completion.num_edits,
        "num_stale_forwards": completion.num_stale_forwards,
        "num_stale_rows": completion.num_stale_rows,
        "finish_reason": str(completion.finish_reason),
        "seed": completion.seed,
    }
    if completion.check is not None:
        report["check"] = outcome(completion.check)
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"
