"""Sandboxes for tests, and the programs that try to leave them."""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import pytest

from quicksilver.errors import SandboxError
from quicksilver.sandbox import Limits, Outcome, Sandbox
from quicksilver.sandbox.cages import Level
from quicksilver.sandbox.detection import try_level

MODES = ("strict", "fast")


def require(level: Level) -> None:
    """Skip, with the reason, where a level does not work. CI has bubblewrap, so that nothing is skipped there."""
    try:
        try_level(level)
    except SandboxError as error:
        if level is Level.BWRAP and os.environ.get("QUICKSILVER_NEEDS_SANDBOX") == "1":
            raise
        pytest.skip(f"{level.value} does not work here: {error}")


@contextmanager
def open_sandbox(mode: str, **limits) -> Iterator[Sandbox]:
    """One whose programs have a minute unless told otherwise, since tests run on busy machines."""
    require(Level.BWRAP)
    with Sandbox(mode, Limits(**{"wall_s": 60.0, "cpu_s": 60, "files_mb": 8, **limits})) as sandbox:
        yield sandbox


def closed_sandbox() -> Sandbox:
    """For suites, which open it themselves."""
    require(Level.BWRAP)
    return Sandbox("fast", Limits(wall_s=120.0, cpu_s=60.0, memory_mb=2048))


class Attack(NamedTuple):
    """A program that tries something, and what becomes of it. One that ``passed`` has seen its attempts fail."""

    name: str
    source: str
    outcome: Outcome = Outcome.PASSED
    detail: str = ""
    """Part of the verdict's."""


HELPERS = """
import ctypes, errno, os, sys
libc = ctypes.CDLL(None, use_errno=True)

def refused(attempt, *numbers):
    "Fails with one of these numbers of errno, by default 'operation not permitted'."
    try:
        attempt()
    except OSError as error:
        assert error.errno in (numbers or (errno.EPERM,)), error
    else:
        raise SystemExit("was not refused")

def call(name, *arguments):
    ctypes.set_errno(0)
    if getattr(libc, name)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), name)
"""


def _try(name: str, lines: str) -> Attack:
    return Attack(name, HELPERS + lines)


# Numbers of system calls, here and on architectures with the kernel's own table; later ones are the same everywhere.
CLONE, BPF = (56, 321) if platform.machine() == "x86_64" else (220, 280)
ATTACKS = (
    _try("fork", "refused(os.fork)"),
    Attack("fork bomb", "import os\nwhile True: os.fork()", Outcome.FAILED, "PermissionError"),
    _try("fork by clone", f"refused(lambda: call('syscall', {CLONE}, 17, 0, 0, 0, 0))"),
    _try("fork by clone3", "refused(lambda: call('syscall', 435, b'\\0' * 88, 88), errno.ENOSYS)"),
    _try("another program", "refused(lambda: os.execv(sys.executable, [sys.executable]))"),
    Attack("a subprocess", "import subprocess\nsubprocess.run(['/usr/bin/env'])", Outcome.FAILED, "PermissionError"),
    _try(
        "network",
        "import socket\nfor family in (socket.AF_INET, socket.AF_UNIX): refused(lambda: socket.socket(family))",
    ),
    _try("home", "refused(lambda: os.listdir(os.path.expanduser('~/.ssh')), errno.ENOENT)"),
    _try("passwords", "refused(lambda: open('/etc/passwd'), errno.ENOENT)"),
    _try("other processes", "refused(lambda: os.listdir('/proc'), errno.ENOENT)"),
    _try("the kernel's settings", "refused(lambda: open('/proc/sys/kernel/core_pattern', 'w'), errno.ENOENT)"),
    _try(
        "writing outside",
        "for folder in ('/', '/usr/lib', '/dev', '/dev/shm', sys.prefix, os.path.dirname(os.__file__)):\n"
        "    refused(lambda: open(folder + '/new', 'w'), errno.EROFS)",
    ),
    Attack("memory", "block = bytearray(3 << 30)", Outcome.MEMORY, "MemoryError"),
    Attack("memory in small pieces", "held = []\nwhile True: held.append(bytearray(1 << 20))", Outcome.MEMORY),
    _try(
        "uncounted memory", "refused(lambda: os.memfd_create('m'))\nrefused(lambda: call('shmget', 0, 1 << 20, 0o1600))"
    ),
    Attack(
        "a higher limit",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
        Outcome.FAILED,
        "ValueError",
    ),
    _try(
        "limits of others",
        "import resource\nrefused(lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1)))",
    ),
    _try(
        "filling /tmp",
        "def fill():\n    for number in range(1000):\n"
        "        with open(f'/tmp/{number}', 'wb') as file: file.write(bytes(1 << 17))\n"
        "refused(fill, errno.ENOSPC)\nassert len(os.listdir('/tmp')) <= 65",
    ),
    Attack("one large file", "open('large', 'wb').write(bytes(2 << 20))", Outcome.OUTPUT),
    Attack("endless output", "while True: print('x' * 1000)", Outcome.OUTPUT),
    Attack("endless errors", "import sys\nwhile True: sys.stderr.write('x' * 1000)", Outcome.OUTPUT),
    Attack(
        "endless output, deaf to the limit",
        "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\ntry:\n    while True: print('x' * 1000)\n"
        "except OSError: pass",
        Outcome.OUTPUT,
    ),
    Attack("leaving with success", "import os\nos._exit(0)", Outcome.CRASHED, "status 0"),
    Attack("leaving politely", "import sys\nsys.exit(0)", Outcome.FAILED, "SystemExit: 0"),
    Attack("leaving without a word", "raise SystemExit", Outcome.FAILED, "SystemExit (program.py, line 1)"),
    Attack("breaking the interpreter", "import ctypes\nctypes.string_at(0)", Outcome.CRASHED, "SIGSEGV"),
    _try(
        "killing",
        "for target in (-1, 0, 1, os.getppid(), os.getpid()): refused(lambda: os.kill(target, 9))\n"
        "refused(lambda: call('tgkill', os.getppid(), os.getppid(), 9))",
    ),
    Attack("closed output", "import sys\nprint(1)\nsys.stdout.close()\nsys.stderr.close()"),
    Attack("closed descriptors", "import os\nprint(1)\nfor file in (0, 1, 2): os.close(file)"),
    Attack("a closed report", "import os\nos.closerange(0, 256)", Outcome.CRASHED),
    _try("the clock", "import time\nrefused(lambda: time.clock_settime(time.CLOCK_REALTIME, 0))"),
    _try("new namespaces", "refused(lambda: call('unshare', 0x10000000))\nrefused(lambda: call('setns', 0, 0))"),
    _try(
        "mounting",
        "refused(lambda: call('mount', b'none', b'/tmp', b'tmpfs', 0, None))\nrefused(lambda: call('chroot', b'/tmp'))",
    ),
    _try(
        "tracing",
        "refused(lambda: call('ptrace', 0, 0, 0, 0))\nrefused(lambda: call('ptrace', 16, os.getppid(), 0, 0))",
    ),
    _try("reading another's memory", "refused(lambda: call('process_vm_readv', os.getppid(), None, 0, None, 0, 0))"),
    _try("another user", "refused(lambda: os.setuid(0), errno.EPERM, errno.EINVAL)\nassert os.getuid() == 65534"),
    _try(
        "kernel interfaces",
        f"refused(lambda: call('syscall', 425, 1, None))\nrefused(lambda: call('syscall', {BPF}, 0, None, 0))",
    ),
    Attack(
        "the environment",
        "import os\nknown = 'PATH LANG PYTHONHASHSEED OMP_NUM_THREADS OPENBLAS_NUM_THREADS HOME TMPDIR PWD LC_CTYPE'\n"
        "assert set(os.environ) <= set(known.split()), dict(os.environ)\nprint(hash('a'))",
    ),
    Attack("the arguments", "import sys\nassert sys.argv == ['/tmp/program.py'] and len(sys.orig_argv) < 12"),
    Attack(
        "the server's descriptors",
        "import os\nfor file in range(4, 256):\n    try: os.fstat(file)\n    except OSError: continue\n"
        "    raise SystemExit(file)",
    ),
    Attack("printing a verdict", "print('passed', flush=True)\nimport os\nos._exit(0)", Outcome.CRASHED, "status 0"),
    Attack(
        "writing a verdict everywhere",
        "import os\nfor file in range(256):\n    try: os.write(file, b'passed\\n' + bytes(32) + b' passed \\n')\n"
        "    except OSError: pass\nos._exit(0)",
        Outcome.CRASHED,
        "status 0",
    ),
    Attack(
        "replacing what reports",
        "import builtins, json, os, sys\nset = setattr\n"
        "for name in ('exit', '_getframe', 'exc_info'): set(sys, name, lambda *_: None)\n"
        "for name in ('_exit', 'write', 'close'): set(os, name, lambda *_: None)\n"
        "for name in ('exec', 'str', 'type', 'BaseException', 'setattr'): set(builtins, name, lambda *_: None)\n"
        "json.dumps = None\nassert False",
        Outcome.FAILED,
        "AssertionError (program.py, line 7)",
    ),
    Attack(
        "an error that hides",
        "class Odd(BaseException):\n    def __str__(self): raise KeyboardInterrupt\nraise Odd",
        Outcome.FAILED,
        "Odd: (its text raises an error)",
    ),
    Attack(
        "an error of many lines", "raise ValueError('a\\nb passed\\n' * 1000)", Outcome.FAILED, "ValueError: a b passed"
    ),
    Attack("no Python", "def f(:", Outcome.FAILED, "SyntaxError"),
    Attack("nested too deep", "x = " + "(" * 1000 + ")" * 1000, Outcome.FAILED, "SyntaxError"),
    Attack("a null byte", "x = '\0'", Outcome.FAILED),
    Attack("endless recursion", "def f(): f()\nf()", Outcome.FAILED, "RecursionError"),
    _try(
        "threads without end",
        "import threading\nthreading.stack_size(1 << 20)\nheld = threading.Event()\ndef start():\n"
        "    try:\n        while True: threading.Thread(target=held.wait, daemon=True).start()\n"
        "    except RuntimeError as error: raise OSError(errno.EAGAIN, str(error))\nrefused(start, errno.EAGAIN)",
    ),
    Attack("asking for input", "assert input() == 'never'", Outcome.FAILED, "EOFError"),
    Attack("leaving many files", "for number in range(2000): open(f'{number}', 'w').close()"),
    Attack("leaving a locked folder", "import os\nos.makedirs('a/b')\nos.chmod('a', 0)\nos.chmod('/tmp', 0)"),
    Attack("leaving deep folders", "import os\nfor _ in range(400):\n    os.mkdir('d' * 50)\n    os.chdir('d' * 50)"),
)
ENDLESS = (
    Attack("an endless loop", "while True: pass", Outcome.TIMEOUT, "no end after"),
    Attack("sleep", "import time\ntime.sleep(10**6)", Outcome.TIMEOUT, "no end after"),
    Attack("waiting for oneself", "import threading\nthreading.Event().wait()", Outcome.TIMEOUT, "no end after"),
    Attack(
        "catching everything", "while True:\n    try: raise ValueError\n    except BaseException: pass", Outcome.TIMEOUT
    ),
    Attack(
        "hanging at the end",
        "import sys\nclass Slow:\n    write = len\n    def flush(self):\n        while True: pass\n"
        "sys.stdout = Slow()\nprint(1, flush=True)",
        Outcome.TIMEOUT,
    ),
)
