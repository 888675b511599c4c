"""Run untrusted Python: one program, or many at a time."""

import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar

from quicksilver.errors import ConfigError, InputError, SandboxError
from quicksilver.sandbox.detection import detect
from quicksilver.sandbox.guest import encode
from quicksilver.sandbox.hosting import Ending, Guest
from quicksilver.sandbox.judging import answers_of, verdict_on
from quicksilver.sandbox.programs import Answer, Call, Limits, Outcome, Program, Verdict

Mode = Literal["strict", "fast"]
Item = TypeVar("Item")
Result = TypeVar("Result")
_AHEAD = 4
"""Programs for each worker that are taken from their iterator before the first one's verdict is."""
_PRELOADED = ("collections", "functools", "heapq", "itertools", "json", "math", "operator", "re", "string", "typing")
"""Modules that solutions of programming tasks import, and that have no state for programs to share (``random`` has)."""


class Sandbox:
    """Where programs run that nobody has read. A context manager; its methods may be called from several threads.

    Mode ``strict`` makes a sandbox for every program. Mode ``fast`` keeps sandboxes and forks in them, one program
    after the other; a program that leaves more behind than a few files costs the sandbox. Both give the same verdicts.

    ``run`` judges a program by what its own process says, so a program written to deceive can pass: it can look for
    the verdict's marker in its memory, or define an ``__eq__`` that is always true. That is how everybody's evaluations
    work, and enough where nothing learns from the verdict. For rewards use ``call``: the program gets arguments and
    gives back values, and what is expected never enters the sandbox.
    """

    def __init__(self, mode: Mode = "strict", limits: Limits | None = None, accept_unsafe: bool = False) -> None:
        """Find out what this machine can do.

        Args:
            mode: ``strict`` or ``fast``.
            limits: of every program; by default those of ``Limits``.
            accept_unsafe: take a level without namespaces if this machine has no better one.

        Raises:
            SandboxError: there is no level that is safe, or none that works.
        """
        if mode not in ("strict", "fast"):
            raise ConfigError(f"mode must be strict or fast, got {mode!r}")
        self.mode, self.limits = mode, limits or Limits()
        self._level, reasons = detect()
        if not (self._level.is_safe or accept_unsafe):
            raise SandboxError(
                f"the strongest sandbox that works here is {self._level.value!r}, not safe enough for untrusted code; "
                f"what stronger ones lack: {reasons}. To run it all the same, pass accept_unsafe=True (--accept-unsafe)"
            )
        self._lock = threading.Lock()
        self._idle: list[Guest] = []
        self._num_leased = self._most_leased = 0
        self._spawner: ThreadPoolExecutor | None = None

    @property
    def level(self) -> str:
        """What stands between a program and this machine; belongs beside every result."""
        return self._level.value

    def __enter__(self) -> Self:
        self._spawner = ThreadPoolExecutor(1, thread_name_prefix="sandbox")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
            spawner, self._spawner = self._spawner, None
        for guest in idle:
            guest.close()
        if spawner is not None:
            spawner.shutdown()

    def run(self, program: Program) -> Verdict:
        """Run one program.

        Raises:
            SandboxError: the sandbox broke; that is no verdict.
        """
        if (problem := _unwritable(program)) is not None:
            return Verdict(outcome=Outcome.REFUSED, detail=problem)
        marker = secrets.token_hex(16)
        ending = self._end_of(program, {"marker": marker, "function": None, "calls": ()})
        return verdict_on(ending, marker, self.limits)

    def run_many(self, programs: Iterable[Program], workers: int | None = None) -> Iterator[Verdict]:
        """Run programs side by side; verdicts come in the programs' order, as soon as they are there.

        Args:
            programs: taken as they are needed, a few for each worker ahead.
            workers: programs at a time; None: one for each processor.
        """
        return _in_threads(self.run, programs, workers)

    def call(self, source: str, function: str, arguments: Sequence[Sequence[Any]]) -> list[Answer]:
        """Call a function of a program, once for each list of arguments, in one process.

        What the values should be is compared here, by the caller, out of the program's reach.

        Args:
            source: run first, as a module named ``candidate``.
            function: a name that it defines.
            arguments: of numbers, strings, bytes, None, lists, tuples, dicts and sets.

        Raises:
            InputError: an argument is of another type.
            SandboxError: the sandbox broke; that is no answer.
        """
        program = Program(source, name="candidate")
        calls = [encode(list(each), _not_an_argument) for each in arguments]
        if (problem := _unwritable(program)) is not None:
            return [Answer(outcome=Outcome.REFUSED, detail=problem)] * len(calls)
        marker = secrets.token_hex(16)
        ending = self._end_of(program, {"marker": marker, "function": function, "calls": calls})
        return answers_of(ending, marker, self.limits, len(calls))

    def call_many(self, calls: Iterable[Call], workers: int | None = None) -> Iterator[list[Answer]]:
        """``call`` side by side, as ``run_many`` does for ``run``."""
        return _in_threads(lambda each: self.call(*each), calls, workers)

    def _end_of(self, program: Program, task: Mapping[str, Any]) -> Ending:
        guest = self._lease(tuple(program.readable))
        try:
            return guest.run(program, task, self.limits)
        finally:
            self._give_back(guest)

    def _lease(self, readable: tuple[Path, ...]) -> Guest:
        """A guest that sees these folders: one that waits, or a new one."""
        with self._lock:
            spawner = self._spawner
            if spawner is None:
                raise SandboxError("this sandbox is not open; use it in a with statement")
            self._num_leased += 1
            self._most_leased = max(self._most_leased, self._num_leased)
            for index, guest in enumerate(self._idle):
                # One that something else on this machine has killed is closed when it is in nobody's way.
                if guest.readable == readable and guest.is_usable:
                    return self._idle.pop(index)
        try:
            imports = _PRELOADED if self.mode == "fast" else ()
            files_mb = self.limits.files_mb
            return Guest.start(self._level, spawner, readable=readable, files_mb=files_mb, imports=imports)
        except BaseException:
            with self._lock:
                self._num_leased -= 1
            raise

    def _give_back(self, guest: Guest) -> None:
        """Keep it if it is as good as new, but never more of them than were needed at a time."""
        surplus = [guest]
        with self._lock:
            self._num_leased -= 1
            if self.mode == "fast" and guest.is_usable and self._spawner is not None:
                self._idle.append(guest)
                surplus = self._idle[: -self._most_leased]
                del self._idle[: -self._most_leased]
        for each in surplus:
            each.close()


def _unwritable(program: Program) -> str | None:
    """Why the program's text is none; language models write lone surrogates."""
    try:
        "".join((program.source, program.checks, program.stdin, *program.files, *program.files.values())).encode()
    except UnicodeEncodeError as error:
        return f"the program's text is not Unicode: {error.reason} at {error.start}"
    return None


def _not_an_argument(value: object) -> NoReturn:
    raise InputError(
        f"arguments are numbers, text, bytes, None and containers of these; {value!r} is {type(value).__name__}"
    )


def _in_threads(run: Callable[[Item], Result], items: Iterable[Item], workers: int | None) -> Iterator[Result]:
    """Results in the items' order; when their reader stops early, what has not begun never does."""
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    if workers < 1:
        raise ConfigError(f"workers must be above 0, got {workers}")
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for item in items:
            waiting.append(pool.submit(run, item))
            if len(waiting) >= _AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
