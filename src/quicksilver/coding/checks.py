"""Checks of a filled file: what is wrong with it, and where. No model takes part.

A check is a function of the text and of the places that were written; what it finds outside these places is a problem
only if the file as a whole fails by it. ``api.checking`` has the written tokens around a problem written anew.
"""

import ast
import json
import os
import re
import shlex
import signal
import subprocess
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from quicksilver.errors import CheckError, ConfigError
from quicksilver.sandbox import COMMAND_LIMITS, CommandEnd, find_program, run_command

RUFF_RULES = "E9,F63,F7,F82"
"""What is an error whatever the style: comparisons and statements that cannot be meant, names that are not defined."""
TIMEOUT_S = 60.0
_MESSAGE_CHARS = 500

Span = tuple[int, int]
"""Half-open, in characters of the text."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that a check objects to."""

    message: str
    span: Span | None
    """Where; None: the check does not say."""


@dataclass(frozen=True, slots=True)
class PythonCheck:
    """Whether a text is Python that compiles, and, where ruff is installed, whether what was written passes its errors.

    A file that does not parse fails wherever its error is shown: that is seldom where it was made. Ruff's findings
    count only where they touch what was written: the rest of the file is the caller's.
    """

    name: str = "python"

    @property
    def parts(self) -> tuple[str, ...]:
        """What is checked here, in words."""
        return ("parse", "compile") if find_program("ruff") is None else ("parse", "compile", f"ruff {RUFF_RULES}")

    def __call__(self, text: str, written: Sequence[Span]) -> Sequence[Problem]:
        error = _syntax_error(text)
        if error is not None:
            return [error]
        ruff = find_program("ruff")
        found = [] if ruff is None else _lint(ruff, text)
        return [each for each in found if each.span is not None and any(_touches(each.span, at) for at in written)]


def _touches(span: Span, other: Span) -> bool:
    return span[0] < other[1] and other[0] < span[1]


def _syntax_error(text: str) -> Problem | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes and the like are valid syntax
            compile(ast.parse(text), "<filled>", "exec", dont_inherit=True)
    except SyntaxError as error:
        return Problem(error.msg, _error_span(text, error))
    except (ValueError, RecursionError, MemoryError) as error:  # a null byte; nesting too deep
        return Problem(str(error) or type(error).__name__, None)
    return None


def _error_span(text: str, error: SyntaxError) -> Span | None:
    """The parser counts lines and columns from 1, says 0 or less where it knows no end, and may point behind a line."""
    if error.lineno is None or error.lineno < 1:
        return None
    starts = line_starts(text)
    start = _offset(starts, error.lineno, error.offset or 1, len(text))
    stop = _offset(starts, error.end_lineno or 0, error.end_offset or 0, len(text)) if error.end_lineno else 0
    return start, max(stop, min(start + 1, len(text)), start)


def line_starts(text: str) -> list[int]:
    """Where each line begins as Python's parser counts them: form feeds and the like end none."""
    return [0, *(match.end() for match in re.finditer(r"\r\n|\r|\n", text))]


def _offset(starts: Sequence[int], line: int, column: int, length: int) -> int:
    """Of a line and a column, both from 1; a line behind the last is the end."""
    return length if line > len(starts) else min(starts[max(line, 1) - 1] + max(column, 1) - 1, length)


def _lint(ruff: str, text: str) -> Iterator[Problem]:
    command = [ruff, "check", "--isolated", "--no-cache", "--quiet", "--select", RUFF_RULES]
    command += ["--output-format", "json", "--stdin-filename", "filled.py", "-"]
    ended = _run(command, text, TIMEOUT_S)
    if ended.status not in (0, 1):
        reason = f"took longer than {TIMEOUT_S:g} s" if ended.status is None else ended.err.strip()[:_MESSAGE_CHARS]
        raise CheckError(f"ruff failed: {reason}")
    starts = line_starts(text)
    for finding in json.loads(ended.out):
        # Without a rule's code it is syntax, which the parser of this Python has judged.
        if re.fullmatch(r"[EF]\d+", finding["code"] or ""):
            first, last = (
                _offset(starts, place["row"], place["column"], len(text))
                for place in (finding["location"], finding["end_location"])
            )
            yield Problem(f"{finding['code']} {finding['message']}", (first, last))


@dataclass(frozen=True, slots=True)
class CommandCheck:
    """A command that fails if the text is wrong. Lines of its output that name the file and a line number say where.

    Unless it is confined it runs on this machine as it is, and so does what a test runner takes from the text.
    """

    command: tuple[str, ...]
    """Program and arguments; ``{}`` becomes the name of a temporary file that holds the text. Without it the text comes
    by standard input."""
    name: str = "command"
    suffix: str = ".py"
    """Of the file's name."""
    timeout_s: float = TIMEOUT_S
    is_confined: bool = False
    """Run in a sandbox, where there is nothing but installed programs and the file; see ``sandbox.commands``."""

    def __post_init__(self) -> None:
        if not self.command:
            raise ConfigError("a check's command must not be empty")

    @classmethod
    def of(
        cls,
        line: str,
        *,
        name: str = "command",
        suffix: str = ".py",
        timeout_s: float = TIMEOUT_S,
        is_confined: bool = False,
    ) -> "CommandCheck":
        """From a line with quotes as a shell has them; no shell runs it.

        Raises:
            ConfigError: the line is empty, or a quote is not closed.
        """
        try:
            command = tuple(shlex.split(line))
        except ValueError as error:
            raise ConfigError(f"a check's command {line!r} cannot be read: {error}") from error
        return cls(command, name=name, suffix=suffix, timeout_s=timeout_s, is_confined=is_confined)

    @property
    def parts(self) -> tuple[str, ...]:
        return (shlex.join(self.command),)

    def __call__(self, text: str, written: Sequence[Span]) -> Sequence[Problem]:
        path, ended = self._confined(text) if self.is_confined else self._here(text)
        if ended.status is None:
            return [Problem(f"{self.name} took longer than {self.timeout_s:g} s", None)]
        if ended.status == 0:
            return []
        told = ended.out + ended.err
        return list(_located(told, path, text)) or [Problem(_shortened(told, ended.status), None)]

    def _here(self, text: str) -> tuple[Path, CommandEnd]:
        with tempfile.TemporaryDirectory(prefix="quicksilver-check-") as folder:
            path = Path(folder) / f"filled{self.suffix}"
            path.write_text(text, encoding="utf-8", newline="")
            command = self._command(path)
            return path, _run(command, text if command == self.command else None, self.timeout_s)

    def _confined(self, text: str) -> tuple[Path, CommandEnd]:
        path = Path("/tmp") / f"filled{self.suffix}"
        command = self._command(path)
        stdin = text if command == self.command else ""
        limits = replace(COMMAND_LIMITS, wall_s=self.timeout_s)
        return path, run_command(command, files={path.name: text}, stdin=stdin, limits=limits)

    def _command(self, path: Path) -> tuple[str, ...]:
        return tuple(part.replace("{}", str(path)) for part in self.command)


def _run(command: Sequence[str], text: str | None, timeout_s: float) -> CommandEnd:
    """On this machine as it is. One that takes too long is ended with all that it started.

    Raises:
        CheckError: the command cannot be run.
    """
    try:
        process = subprocess.Popen(
            [find_program(command[0]) or command[0], *command[1:]],
            stdin=subprocess.DEVNULL if text is None else subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        raise CheckError(f"the check's command {shlex.join(command)} cannot be run: {error}") from error
    with process:
        try:
            out, err = process.communicate(text, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return CommandEnd(None, "", "")
        finally:
            # What it left behind holds the pipes open.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return CommandEnd(process.returncode, out, err)


def _located(told: str, path: Path, text: str) -> Iterator[Problem]:
    """``file:12:5: message`` as most tools write it, ``File "file", line 12`` as Python does: then the whole line."""
    name = rf"(?:{re.escape(str(path))}|{re.escape(path.name)}|<stdin>|<unknown>)"
    place = re.compile(rf'{name}(?:"?, line |[:(])(?P<line>\d+)(?:[:,](?P<column>\d+))?')
    starts = [*line_starts(text), len(text)]
    lines = list(pairwise(starts))
    for line in told.splitlines():
        found = place.search(line)
        if found is not None and 1 <= int(found["line"]) <= len(lines):
            start, stop = lines[int(found["line"]) - 1]
            if found["column"]:
                start = min(start + int(found["column"]) - 1, max(stop - 1, start))
                stop = min(start + 1, stop)
            yield Problem(line.strip().replace(str(path), path.name)[:_MESSAGE_CHARS], (start, stop))


def _shortened(told: str, status: int) -> str:
    last = [line for line in told.splitlines() if line.strip()][-1:]
    return f"status {status}" + (f": {last[0].strip()[:_MESSAGE_CHARS]}" if last else "")
