"""From how a program's process ended to a verdict. A process's exit status never means that the program passed."""

import json
import os
import signal
from collections.abc import Iterator

from quicksilver.errors import SandboxError
from quicksilver.sandbox.guest import decode
from quicksilver.sandbox.hosting import Ending
from quicksilver.sandbox.programs import Answer, Limits, Outcome, Verdict

_REPORTED = {"passed": Outcome.PASSED, "failed": Outcome.FAILED, "memory": Outcome.MEMORY}


def verdict_on(ending: Ending, marker: str, limits: Limits) -> Verdict:
    """The verdict.

    Raises:
        SandboxError: the program was not started, which says nothing about it.
    """
    outcome, detail = _outcome(ending, marker, limits)
    return Verdict(
        outcome=outcome,
        detail=detail,
        stdout=ending.stdout.decode(errors="replace"),
        stderr=ending.stderr.decode(errors="replace"),
        seconds=ending.seconds,
    )


def _outcome(ending: Ending, marker: str, limits: Limits) -> tuple[Outcome, str]:
    if ending.is_late:
        return Outcome.TIMEOUT, f"no end after {limits.wall_s:g} s"
    if ending.status is None:
        return Outcome.CRASHED, "the whole sandbox ended before the program did"
    cause = os.WTERMSIG(ending.status) if os.WIFSIGNALED(ending.status) else None
    is_too_long = max(len(ending.stdout), len(ending.stderr)) >= limits.output_bytes
    if cause == signal.SIGXFSZ or is_too_long:
        return Outcome.OUTPUT, f"more than {limits.output_bytes} bytes of output or in one file"
    if cause == signal.SIGXCPU or (cause == signal.SIGKILL and ending.cpu_s >= limits.cpu_s):
        return Outcome.TIMEOUT, f"no end after {limits.cpu_s:g} s of processor time"
    for kind, text in _lines(ending, marker):
        if kind in _REPORTED:
            return _REPORTED[kind], text
        if kind == "broken":
            raise SandboxError(f"a sandbox could not prepare its program: {text}")
    if cause is not None:
        return Outcome.CRASHED, f"killed by {signal.Signals(cause).name}"
    return Outcome.CRASHED, f"left the interpreter with status {os.WEXITSTATUS(ending.status)} before its end"


def answers_of(ending: Ending, marker: str, limits: Limits, count: int) -> list[Answer]:
    """One answer for each call; those that were not reached end as the program did."""
    outcome, detail = _outcome(ending, marker, limits)
    if outcome is Outcome.PASSED:
        outcome, detail = Outcome.CRASHED, "no answer was written"
    answers = [Answer(outcome=outcome, detail=detail)] * count
    for kind, text in _lines(ending, marker):
        index, _, content = text.partition(" ")
        if kind in ("value", "raised") and index.isdecimal() and int(index) < count:
            answers[int(index)] = (
                _answer(content) if kind == "value" else Answer(outcome=Outcome.FAILED, detail=content)
            )
    return answers


def _answer(content: str) -> Answer:
    """Written by the program's process, so nothing about its form is sure."""
    try:
        return Answer(outcome=Outcome.PASSED, value=decode(json.loads(content)))
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        return Answer(outcome=Outcome.FAILED, detail=f"the answer cannot be read: {type(error).__name__}")


def _lines(ending: Ending, marker: str) -> Iterator[tuple[str, str]]:
    """Kind and text of the report's lines; one without its end was cut off."""
    for line in ending.report.decode(errors="replace").split("\n")[:-1]:
        if line.startswith(f"{marker} "):
            kind, _, text = line.removeprefix(f"{marker} ").partition(" ")
            yield kind, text
