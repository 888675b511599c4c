"""Run a trusted command over text that nobody has read: a type checker, a test runner. Needs bubblewrap.

The command sees the system's programs and libraries and its own environment of Python, read only; its folder /tmp, in
memory, with the files it is given; processes of its own and no other's; no home, no network. It may start processes, as
test runners do: what bounds these is the time, at whose end all of them are killed.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from quicksilver.errors import SandboxError
from quicksilver.sandbox import filters
from quicksilver.sandbox.cages import bubblewrap, own_folder
from quicksilver.sandbox.memory_files import memory_file, read_memory_file
from quicksilver.sandbox.programs import Limits

COMMAND_LIMITS = Limits(wall_s=10, cpu_s=20, memory_mb=4096, output_bytes=16 << 20, files_mb=256)
"""Type checkers take memory and write caches; ``memory_mb`` is of each process."""
_LIMITED = 'ulimit -v "$1" && ulimit -t "$2" && ulimit -f "$3" || exit 125; shift 3; exec "$@"'
"""Limits are inherited; set in the child itself, since another thread of the host may hold locks when it forks."""
_FILE_UNIT = 512
"""Bytes, of ``ulimit -f``."""
_SYSTEM = tuple(
    path
    for path in map(
        Path, ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache", "/etc/alternatives")
    )
    if path.exists()
)


@dataclass(frozen=True, slots=True)
class CommandEnd:
    """How a command ended, and what it wrote."""

    status: int | None
    """Exit status, or 128 and the signal's number. None: it was killed at its wall limit."""
    out: str
    err: str


def find_program(name: str) -> str | None:
    """Where a program is, beside this Python first: it may run from an environment that is not on the path."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def run_command(
    command: Sequence[str], *, files: Mapping[str, str], stdin: str = "", limits: Limits = COMMAND_LIMITS
) -> CommandEnd:
    """Run it to its end.

    Args:
        command: program and arguments; no shell reads them. See ``find_program``.
        files: name to text, in its folder, /tmp.
        stdin: its standard input.
        limits: what it may use.

    Raises:
        SandboxError: the program is missing, or the sandbox did not start.
    """
    program = find_program(command[0])
    if program is None:
        raise SandboxError(f"there is no program {command[0]!r} to run in a sandbox")
    with contextlib.ExitStack() as opened:
        out, err, told = (opened.enter_context(memory_file()) for _ in range(3))
        sealed = opened.enter_context(memory_file(filters.compiled(may_fork=True))) if filters.is_available() else None
        given = {name: opened.enter_context(memory_file(_utf8(text))) for name, text in files.items()}
        line = _confined(Path(program), limits)
        for name, file in given.items():
            line += ["--file", str(file), f"/tmp/{name}"]
        line += ["--json-status-fd", str(told)]
        line += [] if sealed is None else ["--seccomp", str(sealed)]
        numbers = (limits.memory_mb << 10, int(limits.cpu_s), limits.output_bytes // _FILE_UNIT)
        line += ["--", "/bin/sh", "-c", _LIMITED, "sh", *map(str, numbers), program, *command[1:]]
        process = subprocess.Popen(
            line,
            stdin=opened.enter_context(memory_file(_utf8(stdin))),
            stdout=out,
            stderr=err,
            pass_fds=(told, *given.values(), *(() if sealed is None else (sealed,))),
            start_new_session=True,
        )
        is_late = not _ends(process, limits.wall_s)
        texts = [read_memory_file(file, limits.output_bytes).decode(errors="replace") for file in (out, err)]
        status = None if is_late else _status(read_memory_file(told, 4096), texts[1])
    return CommandEnd(status, *texts)


def require_commands() -> None:
    """Whether commands can be confined on this machine.

    Raises:
        SandboxError: they cannot; the message says what is missing.
    """
    if sys.platform != "linux":
        raise SandboxError(f"commands can be confined on Linux only, this is {sys.platform}")
    if not filters.is_available():
        raise SandboxError("pyseccomp with libseccomp is missing (pip install pyseccomp; Debian: libseccomp2)")
    run_command(("true",), files={})


def _confined(program: Path, limits: Limits) -> list[str]:
    own = {Path(prefix).resolve() for prefix in (sys.prefix, sys.base_prefix)}
    # A script lies in the bin folder of its environment, and may be a link into another one.
    own |= {path.parent.parent for path in (program, program.resolve())}
    further = sorted(path for path in own if not any(path.is_relative_to(each) for each in map(Path, ("/usr", "/bin"))))
    folders = dict.fromkeys([str(program.parent), str(Path(sys.executable).parent), "/usr/bin", "/bin"])
    environment = {"PATH": os.pathsep.join(folders), "LANG": "C.UTF-8"}
    return [*bubblewrap((*_SYSTEM, *further), environment), "--proc", "/proc", *own_folder(limits.files_mb)]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogatepass")


def _ends(process: "subprocess.Popen[bytes]", wall_s: float) -> bool:
    """Whether it did by itself; nothing of it is left afterwards."""
    try:
        process.wait(wall_s)
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    return True


def _status(told: bytes, err: str) -> int:
    """Of the command, as bubblewrap tells it; without that it was not the command that failed."""
    for line in told.splitlines():
        if (status := json.loads(line).get("exit-code")) is not None:
            return status
    raise SandboxError(f"a sandbox did not start: {err.strip() or 'bubblewrap does not say why'}")
