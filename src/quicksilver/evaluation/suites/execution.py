"""Answers that are run: sandboxes for suites, and holes judged by what the completed file does.

A verdict comes from the process that ran the answer, so an answer written to deceive can pass; see ``sandbox``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import tee

from quicksilver.errors import ConfigError
from quicksilver.evaluation.subject import Answer, Subject
from quicksilver.evaluation.suite import PASS, Control, Mark
from quicksilver.evaluation.suites.filling import FillSuite, InfillItem
from quicksilver.sandbox import Limits, Outcome, Program, Sandbox, Verdict

SHORT = Limits(wall_s=30.0, cpu_s=5.0)
"""For unit tests that take milliseconds. On a busy machine wall time passes faster than a program's own."""
MODULE = "candidate"
"""Name of a program's module: a main block is not part of an answer."""


class Running(StrEnum):
    """Where answers run."""

    FAST = "fast"
    STRICT = "strict"
    OFF = "off"
    """Nothing is run: left are figures of the text."""


def make_sandbox(running: Running, limits: Limits, *, accept_unsafe: bool) -> Sandbox:
    """A sandbox, not yet open.

    Raises:
        ConfigError: nothing is to be run.
        SandboxError: this machine has no safe level, and none that is less is accepted.
    """
    if running is Running.OFF:
        raise ConfigError("this suite says nothing of answers that are not run: sandbox is fast or strict")
    return Sandbox("strict" if running is Running.STRICT else "fast", limits, accept_unsafe)


def about_sandbox(sandbox: Sandbox) -> dict[str, object]:
    """What decides verdicts, for reports."""
    return {"sandbox": sandbox.level, "sandbox_mode": sandbox.mode, "limits": asdict(sandbox.limits)}


def verdicts(sandbox: Sandbox, programs: Iterable[Program]) -> Iterator[Verdict]:
    """Open the sandbox and run programs side by side; verdicts in their order."""
    with sandbox:
        yield from sandbox.run_many(programs)


def values_of(verdict: Verdict) -> dict[str, float]:
    """Figures of a verdict. Timeouts are counted because they alone depend on how busy the machine is."""
    return {PASS: float(verdict.is_passed), "timeout_rate": float(verdict.outcome is Outcome.TIMEOUT)}


def detail_of(verdict: Verdict) -> str:
    """Why it did not pass, for a person."""
    return "" if verdict.is_passed else f"{verdict.outcome}: {verdict.detail}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecutedFillSuite:
    """Holes whose completed files are run; the figures of their text stay beside."""

    fills: FillSuite
    sandbox: Sandbox
    program: Callable[[InfillItem, str], Program]
    """The program that passes if the hole's text is right."""
    wrong: Callable[[InfillItem], Mapping[str, Control]]
    """Answers beside the reference that show whether verdicts are right."""

    @property
    def name(self) -> str:
        return self.fills.name

    @property
    def headline(self) -> str:
        return PASS

    def about(self) -> Mapping[str, object]:
        return {**self.fills.about(), **about_sandbox(self.sandbox)}

    def items(self) -> tuple[InfillItem, ...]:
        return self.fills.items()

    def ask(self, subject: Subject, item: InfillItem, seed: int, temperature: float) -> Answer:
        return self.fills.ask(subject, item, seed, temperature)

    def judge(self, answered: Iterable[tuple[InfillItem, Answer]]) -> Iterator[Mark]:
        read, run = tee(answered)
        programs = (self.program(item, answer.texts[0]) for item, answer in run)
        for mark, verdict in zip(self.fills.judge(read), verdicts(self.sandbox, programs), strict=True):
            yield replace(mark, values={**values_of(verdict), **mark.values}, detail=detail_of(verdict))

    def controls(self, item: InfillItem) -> Mapping[str, Control]:
        return {"reference": Control(text=item.middle, passes=True), **self.wrong(item)}
