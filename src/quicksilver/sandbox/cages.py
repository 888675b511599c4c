"""How a guest is kept from the rest of the machine, level by level.

``bwrap+seccomp``: namespaces of its own for users, processes, mounts, network and IPC, by bubblewrap. The guest sees
the interpreter and the system's libraries, read only, and an empty /tmp in memory. There is no /proc, so nothing of
another process can be read or written.

``landlock+seccomp in-process``: the kernel refuses every file but those and one empty folder, and the filter all other
processes and all network. Names and sizes of files can still be asked for, and what is written goes to the disk, where
only each file has a limit.

``rlimits only``: memory, processor time and file size are limited, no more. A program may do whatever the user may.
"""

import contextlib
import functools
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from quicksilver.errors import SandboxError
from quicksilver.sandbox import filters
from quicksilver.sandbox.memory_files import memory_file

_SERVER = """
import builtins, marshal, sys
own = {"__name__": "__main__", "__builtins__": dict(vars(builtins))}
exec(marshal.load(open(int(sys.argv[3]), "rb")), own)
"""
"""Starts the server among builtins of its own, which no program can replace."""
_NOBODY = "65534"
_ENVIRONMENT = {
    "PATH": "/usr/bin",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    # Every thread takes address space for stack and arena, so a pool of one per core would not fit the limit.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}


class Level(StrEnum):
    """What stands between a program and the machine, strongest first."""

    BWRAP = "bwrap+seccomp"
    LANDLOCK = "landlock+seccomp in-process"
    RLIMITS = "rlimits only"

    @property
    def is_safe(self) -> bool:
        """Whether programs have namespaces of their own; weaker levels are taken only by who asks for them."""
        return self is Level.BWRAP


@dataclass(frozen=True, kw_only=True, slots=True)
class Cage:
    """What a guest is started with."""

    command: Sequence[str]
    """To be followed by the numbers of three descriptors: control socket, settings, the server's code."""
    environment: dict[str, str]
    settings: dict[str, Any]
    """For the guest's ``main``."""
    files: Sequence[int]
    """Descriptors that the command names."""


@contextlib.contextmanager
def cage(level: Level, readable: Sequence[Path], files_mb: int, folder: str | None) -> Iterator[Cage]:
    """Everything to start one guest with; descriptors are closed afterwards.

    Args:
        level: how it is kept.
        readable: folders for its module search path.
        files_mb: size of its /tmp, where it has its own.
        folder: an empty folder of this machine for its programs; None where it has a /tmp of its own.

    Raises:
        SandboxError: the level cannot work here.
    """
    if level is not Level.RLIMITS and not filters.is_available():
        raise SandboxError("pyseccomp with libseccomp is missing (pip install pyseccomp; Debian: libseccomp2)")
    if folder is None:
        with memory_file(filters.compiled(may_fork=True)) as filter_file:
            yield _bubblewrap(readable, files_mb, filter_file)
        return
    landlock = None
    if level is Level.LANDLOCK:
        landlock = [*map(str, (*_interpreter(), *_LIBRARIES, *readable)), "/dev/null", "/dev/urandom"]
    yield Cage(
        command=_python(),
        environment=_ENVIRONMENT | {"HOME": folder, "TMPDIR": folder},
        settings={
            "folder": folder,
            "paths": [*map(str, readable)],
            "filter": filters.compiled(may_fork=False) if level is Level.LANDLOCK else b"",
            "landlock": landlock,
        },
        files=(),
    )


def _bubblewrap(readable: Sequence[Path], files_mb: int, filter_file: int) -> Cage:
    command = bubblewrap((*_interpreter(), *_LIBRARIES), _ENVIRONMENT)
    paths = [f"/readable/{index}" for index in range(len(readable))]
    for path, inside in zip(readable, paths, strict=True):
        command += ["--ro-bind", str(path.resolve()), inside]
    command += [*own_folder(files_mb), "--seccomp", str(filter_file), "--", *_python()]
    settings = {"folder": "/tmp", "paths": paths, "filter": filters.compiled(may_fork=False), "landlock": None}
    return Cage(command=command, environment={}, settings=settings, files=(filter_file,))


def bubblewrap(visible: Iterable[Path], environment: Mapping[str, str]) -> list[str]:
    """The beginning of a command line: namespaces of its own, and of this machine's files what is visible, read only.

    Raises:
        SandboxError: bubblewrap is missing.
    """
    program = shutil.which("bwrap")
    if program is None:
        raise SandboxError("bubblewrap is missing (Debian: apt-get install bubblewrap)")
    command = [program, "--unshare-all", "--unshare-user", "--uid", _NOBODY, "--gid", _NOBODY, "--hostname", "sandbox"]
    command += ["--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv"]
    for name, value in ({**environment, "HOME": "/tmp", "TMPDIR": "/tmp"}).items():
        command += ["--setenv", name, value]
    for path in visible:
        if path.is_symlink():
            command += ["--symlink", os.readlink(path), str(path)]
        else:
            command += ["--ro-bind", str(path), str(path)]
    return [*command, "--dev", "/dev"]


def own_folder(files_mb: int) -> list[str]:
    """The end of what bubblewrap mounts: an empty /tmp in memory, where the command starts."""
    # Without the last two, bubblewrap's own file systems for / and /dev would be writable and without a limit.
    mounted = ["--size", str(files_mb << 20), "--tmpfs", "/tmp", "--remount-ro", "/dev", "--remount-ro", "/"]
    return [*mounted, "--chdir", "/tmp"]


def _python() -> list[str]:
    # -I would ignore PYTHONHASHSEED; the rest of what it does comes by -s, -P and an environment that is ours.
    return [str(_executable()), "-s", "-P", "-S", "-B", "-c", _SERVER]


@functools.cache
def _executable() -> Path:
    """The interpreter itself: a virtual environment's own does not start without the environment."""
    return Path(getattr(sys, "_base_executable", None) or sys.executable).resolve()


@functools.cache
def _interpreter() -> tuple[Path, ...]:
    """Folders and files that Python needs to start, apart from the system's libraries."""
    prefixes = {Path(prefix).resolve() for prefix in (sys.base_prefix, sys.base_exec_prefix)}
    if not any(_executable().is_relative_to(prefix) for prefix in prefixes):
        prefixes.add(_executable())
    return tuple(sorted(prefixes))


_LIBRARIES = tuple(
    path
    for path in map(Path, ("/usr/lib", "/usr/lib32", "/usr/lib64", "/lib", "/lib32", "/lib64", "/etc/ld.so.cache"))
    if path.exists()
)
"""Of the system; the loader's cache says where others of them lie."""
