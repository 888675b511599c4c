"""Which level works on this machine: found by trying, since what a kernel or a container forbids is nowhere written."""

import functools
import sys
from concurrent.futures import ThreadPoolExecutor

from quicksilver.errors import SandboxError
from quicksilver.sandbox.cages import Level
from quicksilver.sandbox.hosting import Guest
from quicksilver.sandbox.judging import verdict_on
from quicksilver.sandbox.programs import Limits, Program

# What no level that claims to confine may let through.
_PROBE = """
import os, socket
outside = os.path.join(os.path.dirname(os.getcwd()), "quicksilver-probe")
for attempt in (os.fork, socket.socket, lambda: open("/etc/passwd"), lambda: open(outside, "w")):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("a sandbox that confines nothing")
"""


@functools.cache
def detect() -> tuple[Level, str]:
    """The strongest level that works here, and why the stronger ones do not.

    Raises:
        SandboxError: none does.
    """
    if sys.platform != "linux":
        raise SandboxError(f"untrusted code can be run on Linux only, this is {sys.platform}")
    reasons = []
    for level in Level:
        try:
            try_level(level)
        except SandboxError as error:
            reasons.append(f"{level.value} ({error})")
        else:
            return level, ", ".join(reasons)
    raise SandboxError(f"untrusted code cannot be run here: {', '.join(reasons)}")


def try_level(level: Level) -> None:
    """Start a guest and see whether it is confined.

    Raises:
        SandboxError: it does not start, or is not.
    """
    limits = Limits()
    program = Program("" if level is Level.RLIMITS else _PROBE)
    with ThreadPoolExecutor(1) as spawner:
        guest = Guest.start(level, spawner, readable=(), files_mb=limits.files_mb)
        try:
            ending = guest.run(program, {"marker": "probe", "function": None, "calls": ()}, limits)
        finally:
            guest.close()
    verdict = verdict_on(ending, "probe", limits)
    if not verdict.is_passed:
        raise SandboxError(f"a trial ended with {verdict.outcome.value}: {verdict.detail}")
