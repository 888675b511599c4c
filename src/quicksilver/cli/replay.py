"""`quicksilver replay`: repeat a recorded request and check every forward."""

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from quicksilver.cli import options
from quicksilver.cli.files import write_text
from quicksilver.cli.terminal import spinner

if TYPE_CHECKING:
    from quicksilver.engine.replay import Report

EXAMPLES = """quicksilver infill draft.py --trace draft.jsonl
quicksilver replay draft.jsonl
quicksilver replay draft.jsonl --model my-coder/ --device cpu --json"""


def command(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What infill or generate wrote with --trace.")],
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME|FOLDER", help="Where the same weights are. [default: where the trace had them]"),
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="P", help="Most by which a confidence may differ; tokens must agree exactly.")
    ] = 1e-3,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: requests, forwards that agree, the first difference.")
    ] = False,
    device: options.Device = None,
) -> int:
    """Repeat what a trace holds and compare every forward: which token went where, and how sure the model was.

    Exit status 0 if all forwards agree and 1 at the first one that differs.
    """
    with spinner("loading …"):
        from quicksilver.api import load
        from quicksilver.api.stopping import TextStop
        from quicksilver.engine import replay

        recorded = replay.load(trace)
        loaded = load(recorded.model if model is None else model, device=device)
    with spinner("decoding …"):
        build_stop = partial(TextStop, loaded.tokenizer)
        report = replay.replay(loaded.engine, recorded, build_stop=build_stop, tolerance=tolerance)
    write_text(_to_json(report) if as_json else _say(report), None)
    return 0 if report.difference is None else 1


def _say(report: "Report") -> str:
    if report.difference is not None:
        return f"{report.difference}\n"
    return (
        f"all {report.num_frames} forwards agree (requests: {report.num_runs}), confidences within "
        f"{report.confidence_error:.1e}\n"
    )


def _to_json(report: "Report") -> str:
    difference = report.difference
    figures = {
        "num_requests": report.num_runs,
        "num_forwards_that_agree": report.num_frames,
        "confidence_error": report.confidence_error,
        "difference": None
        if difference is None
        else {
            "request": difference.run,
            "forward": difference.step,
            "expected": difference.expected,
            "found": difference.found,
        },
    }
    return json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
