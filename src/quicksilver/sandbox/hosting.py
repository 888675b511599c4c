"""The host's side of one guest: start it, hand it a program, read what came of it, end it."""

import functools
import marshal
import math
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from quicksilver.errors import SandboxError
from quicksilver.sandbox import guest
from quicksilver.sandbox.cages import Level, cage
from quicksilver.sandbox.memory_files import memory_file, read_memory_file
from quicksilver.sandbox.programs import Limits, Program

_START_S = 60.0
"""After which a guest that has not answered will not, however busy the machine is."""
_END_S = 10.0
"""For the kernel to clear away what was killed."""
_MESSAGE_BYTES = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """How a program's process ended, and what it left."""

    status: int | None
    """As ``os.wait4`` gives it. None: nobody could say, since the whole sandbox ended."""
    is_late: bool
    """Killed at the wall limit."""
    seconds: float
    cpu_s: float
    stdout: bytes
    stderr: bytes
    report: bytes


@functools.cache
def _server_code() -> bytes:
    """Compiled once here rather than in every sandbox."""
    path = Path(guest.__file__)
    return marshal.dumps(compile(path.read_bytes(), path.name, "exec"))


class Guest:
    """A sandbox with a server in it, which runs one program at a time."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, readable: Sequence[Path], folder: str | None
    ) -> None:
        self._process, self._control, self._folder = process, control, folder
        self.readable = tuple(readable)
        self._is_clean, self._is_closed = True, False

    @classmethod
    def start(
        cls, level: Level, spawner: Executor, *, readable: Sequence[Path], files_mb: int, imports: Sequence[str] = ()
    ) -> Self:
        """Start a sandbox and wait for its server.

        Args:
            level: how it is kept.
            spawner: whose one thread lives as long as the guest: the kernel kills the guest when that thread ends.
            readable: folders on its module search path.
            files_mb: size of its /tmp in MiB.
            imports: modules that the server imports, so that no program need.

        Raises:
            SandboxError: the guest did not start; the message has what bubblewrap or Python said.
        """
        folder = None if level is Level.BWRAP else tempfile.mkdtemp(prefix="quicksilver-")
        control, guest_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        started = None
        try:
            with (
                guest_end,
                memory_file() as diagnostics,
                cage(level, readable, files_mb, folder) as made,
                memory_file(marshal.dumps(made.settings | {"imports": tuple(imports)})) as settings,
                memory_file(_server_code()) as code,
            ):
                process = spawner.submit(
                    subprocess.Popen,
                    [*made.command, *map(str, (guest_end.fileno(), settings, code))],
                    env=made.environment,
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=diagnostics,
                    pass_fds=(guest_end.fileno(), settings, code, *made.files),
                    start_new_session=True,
                ).result()
                started = cls(process, control, readable, folder)
                # Otherwise the end of the guest would not be the end of the conversation.
                guest_end.close()
                started._wait_until_ready(diagnostics)
                return started
        except BaseException:
            if started is not None:
                started.close()
            elif folder is not None:
                os.rmdir(folder)
            control.close()
            raise

    @property
    def is_usable(self) -> bool:
        """Whether it may run another program: it lives, and nothing of the last one is left in it."""
        return self._is_clean and self._process.poll() is None

    def _wait_until_ready(self, diagnostics: int) -> None:
        self._control.settimeout(_START_S)
        try:
            answer = self._control.recv(_MESSAGE_BYTES)
        except TimeoutError:
            answer = b""
        if answer != guest.READY:
            said = read_memory_file(diagnostics, _MESSAGE_BYTES).decode(errors="replace").strip()
            raise SandboxError(f"a sandbox did not start: {said or f'no answer after {_START_S:g} s'}")

    def run(self, program: Program, task: Mapping[str, Any], limits: Limits) -> Ending:
        """Run a program to its end, or to the end of its time.

        Args:
            program: its texts can be written as UTF-8.
            task: the report's ``marker``; the ``function`` to call or None, and the encoded ``calls``.
            limits: what it may use.
        """
        job = {"source": program.source, "checks": program.checks, "name": program.name, "files": dict(program.files)}
        job["limits"] = {
            "memory_bytes": limits.memory_mb << 20,
            "cpu_s": math.ceil(limits.cpu_s),
            "output_bytes": limits.output_bytes,
        }
        with (
            memory_file(marshal.dumps(job | dict(task))) as job_file,
            memory_file(program.stdin.encode()) as stdin_file,
            memory_file() as stdout,
            memory_file() as stderr,
            memory_file() as report,
        ):
            start = time.monotonic()
            message, is_late = self._converse((job_file, stdin_file, stdout, stderr, report), limits.wall_s)
            status, seconds, cpu_s, self._is_clean = (
                guest.ENDING.unpack(message) if message else (None, time.monotonic() - start, 0.0, False)
            )
            if not self._is_clean:
                # Before its files are read: it may still be writing them.
                self.close()
            return Ending(
                status=status,
                is_late=is_late,
                seconds=seconds,
                cpu_s=cpu_s,
                stdout=read_memory_file(stdout, limits.output_bytes),
                stderr=read_memory_file(stderr, limits.output_bytes),
                report=read_memory_file(report, limits.output_bytes),
            )

    def _converse(self, files: Sequence[int], wall_s: float) -> tuple[bytes, bool]:
        """The server's answer, empty if there is none, and whether that is because the time is over."""
        self._control.settimeout(wall_s)
        try:
            socket.send_fds(self._control, [b"job"], files)
            return self._control.recv(_MESSAGE_BYTES), False
        except TimeoutError:
            return b"", True
        except ConnectionError:
            return b"", False
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End everything in the sandbox, and wait until it has ended. Closing twice is no mistake."""
        if not self._is_closed:
            self._is_closed = True
            # Once it has been waited for, its number may be another's.
            if self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            self._wait_for_the_end()
            self._control.close()
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_for_the_end(self) -> None:
        """Bubblewrap's outer process is gone before those inside; the server holds its end of the socket."""
        self._control.settimeout(_END_S)
        try:
            while self._control.recv(_MESSAGE_BYTES):
                pass
        except ConnectionError:
            return
        except TimeoutError as error:
            raise SandboxError(f"a sandbox that was killed is still there after {_END_S:g} s") from error
