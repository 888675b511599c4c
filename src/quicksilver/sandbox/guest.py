"""What runs inside the sandbox: a server that forks one child for each program. Needs the standard library alone.

The host hands it three descriptors: a control socket, the settings, and this file's code, compiled. For each program
come five more: the job, standard input, output, error, and the report. The child takes limits and system call filter on
itself, closes everything else, and runs the program; the server tells how it ended. One program at a time.

The report's lines begin with a marker that the host drew for this program. It is gone from every descriptor before the
program starts, but it is in this process's memory: code that looks for it there can forge a verdict.
"""

import builtins
import ctypes
import gc
import importlib
import itertools
import marshal
import mmap
import os
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType, TracebackType

# typing's own name for it would cost every sandbox the import of typing.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

NUM_FILES = 5
"""Descriptors of a job: job, stdin, stdout, stderr, report."""
READY = b"ready"
ENDING = struct.Struct("=idd?")
"""What the server says when a program has ended: status of ``os.wait4``, seconds, processor seconds, is_clean."""
PROGRAM_FILE, CHECKS_FILE = "program.py", "checks.py"
MAX_DETAIL = 500
"""Characters of an error's text that are kept."""
_OPEN_FILES = 256
_STACK_BYTES = 8 << 20
_SWEPT_ENTRIES = 500
"""Files and folders that a program may leave behind without costing its sandbox; below Python's recursion limit."""
_BALLAST_BYTES = 1 << 20
"""Given back when a program fails, so that one that ran out of memory can still say so."""
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SECCOMP_MODE_FILTER = 2
# Numbers of system calls, the same on every architecture, and constants of linux/landlock.h.
_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_LANDLOCK_ASK_VERSION, _LANDLOCK_PATH_BENEATH = 1, 1
_LANDLOCK_RIGHTS = {1: 0x1FFF, 2: 0x2000, 3: 0x4000, 5: 0x8000}
"""Rights over files by the version that brought them: the first thirteen, refer, truncate, ioctl of devices."""
_LANDLOCK_READ = 0b1100
"""Read files, list folders."""
_LANDLOCK_FILE = 0xC007
"""Of these, the ones that a file can have: execute, write, read, truncate, ioctl."""

Report = Callable[[str, str], None]


class Opaque:
    """A value of a type that is not carried over: equal to nothing else."""

    def __init__(self, type_name: str, text: str) -> None:
        self.type_name, self.text = type_name, text

    def __repr__(self) -> str:
        return f"<{self.type_name}: {self.text}>"


def as_opaque(value: object) -> "dict[str, Any]":
    """The type's name and the beginning of the value's ``repr``."""
    return {"o": [type(value).__name__, repr(value)[:MAX_DETAIL]]}


def encode(value: object, other: "Callable[[object], dict[str, Any]]" = as_opaque) -> object:  # noqa: C901  # one if a type
    """A value as JSON that keeps what JSON does not: tuples from lists, keys that are no strings, sets, bytes.

    Subclasses become their base class, so that nobody's ``__eq__`` comes along. ``other`` encodes what has no form.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        # Written in decimal, long ones are refused by Python and short ones take time quadratic in their digits.
        return int(value) if value.bit_length() <= 64 else {"i": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, list):
        return [encode(each, other) for each in value]
    if isinstance(value, tuple):
        return {"t": [encode(each, other) for each in value]}
    if isinstance(value, dict):
        return {"d": [[encode(key, other), encode(each, other)] for key, each in value.items()]}
    if isinstance(value, frozenset):
        return {"f": [encode(each, other) for each in value]}
    if isinstance(value, set):
        return {"s": [encode(each, other) for each in value]}
    if isinstance(value, bytes):
        return {"b": value.hex()}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    return other(value)


def decode(value: object) -> object:
    """The value that was encoded.

    Raises:
        ValueError, TypeError, RecursionError: it was not written by ``encode``.
    """
    if isinstance(value, list):
        return [decode(each) for each in value]
    if not isinstance(value, dict):
        return value
    ((tag, content),) = value.items()
    if tag not in _DECODERS:
        raise ValueError(f"no value has the tag {tag!r}")
    return _DECODERS[tag](content)


_DECODERS: "dict[str, Callable[[Any], object]]" = {
    "i": lambda text: int(text, 16),
    "t": lambda items: tuple(map(decode, items)),
    "d": lambda items: {decode(key): decode(each) for key, each in items},
    "f": lambda items: frozenset(map(decode, items)),
    "s": lambda items: set(map(decode, items)),
    "b": bytes.fromhex,
    "c": lambda parts: complex(*parts),
    "o": lambda parts: Opaque(*map(str, parts)),
}


def serve(control: socket.socket, settings: "dict[str, Any]") -> None:
    """Run the programs that are sent, one after the other, until the host hangs up."""
    for name in settings["imports"]:
        importlib.import_module(name)
    # Otherwise every child sets up the compiler anew, which takes it longer than all else it does.
    compile("", "", "exec")
    # Collections in a child would copy every page with an object of the server's.
    gc.freeze()
    control.send(READY)
    while True:
        message, files, _, _ = socket.recv_fds(control, 16, NUM_FILES)
        if not message:
            return
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            _run_child(files, settings)
        for each in files:
            os.close(each)
        _, status, usage = os.wait4(child, 0)
        seconds, cpu_s = time.monotonic() - start, usage.ru_utime + usage.ru_stime
        control.send(ENDING.pack(status, seconds, cpu_s, _is_swept(settings["folder"])))


def _is_swept(folder: str) -> bool:
    """Whether nothing is left of what the program wrote; if not, this sandbox is not used again."""
    try:
        os.chmod(folder, 0o700)
        return _remove_entries(folder, _SWEPT_ENTRIES) >= 0
    except OSError:
        return False


def _remove_entries(folder: str, budget: int) -> int:
    """Empty a folder, giving up after ``budget`` entries; what is left of the budget, below 0 if it was too small."""
    with os.scandir(folder) as entries:
        found = list(itertools.islice(entries, budget + 1))
    for entry in found:
        budget -= 1
        if budget < 0:
            break
        if entry.is_dir(follow_symlinks=False):
            budget = _remove_entries(entry.path, budget)
            if budget >= 0:
                os.rmdir(entry.path)
        else:
            os.unlink(entry.path)
    return budget


def _run_child(files: Sequence[int], settings: "dict[str, Any]") -> "NoReturn":
    """Become the program. What goes wrong before it starts is reported as ``broken``."""
    leave = os._exit
    job_file, *standard, report_file = files
    job = _read(job_file)
    marker = job.pop("marker")
    report = _reporter(report_file, marker)
    try:
        for target, each in enumerate(standard):
            os.dup2(each, target)
        os.dup2(report_file, 3)
        os.closerange(4, 1 << 20)
        report = _reporter(3, marker)
        _confine(job["limits"], settings)
        folder = settings["folder"]
        _write_files(folder, job)
        sys.path[:] = [folder, *sys.path, *settings["paths"]]
        sys.argv = [f"{folder}/{PROGRAM_FILE}"]
    except BaseException as error:  # noqa: BLE001  # whatever it is, the host has to know and raises it
        report("broken", f"{type(error).__name__}: {error}")
        leave(1)
    _run_program(job, folder, report)
    leave(0)


def _read(file: int) -> "dict[str, Any]":
    with open(file, "rb") as stream:
        return marshal.load(stream)


def _reporter(file: int, marker: str) -> Report:
    """Writes lines to the report, with nothing a program could have replaced."""
    write, prefix = os.write, marker.encode()

    def report(kind: str, text: str) -> None:
        line = f" {kind} {text}".encode("utf-8", "backslashreplace").replace(b"\n", b" ")
        rest = prefix + line + b"\n"
        while rest:
            rest = rest[write(file, rest) :]

    return report


class _FilterProgram(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p))


def _confine(limits: dict[str, int], settings: "dict[str, Any]") -> None:
    """Limits and filter of this process; none of them can be taken back."""
    wanted = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_FSIZE: limits["output_bytes"],
        resource.RLIMIT_NOFILE: _OPEN_FILES,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    for which, most in wanted.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))
    # At the first the program is told by SIGXCPU, which it may ignore; at the second it is killed.
    resource.setrlimit(resource.RLIMIT_CPU, (limits["cpu_s"], limits["cpu_s"] + 1))
    # Python ignores this signal; with it, a program that writes without end ends at the limit.
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if settings["landlock"] is not None:
        _allow_files(settings["landlock"], settings["folder"])
    if settings["filter"]:
        _install_filter(settings["filter"])


def _allow_files(readable: Sequence[str], folder: str) -> None:
    """Let the kernel refuse every file but the readable ones and those below ``folder``: landlock(7)."""
    version = _landlock(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_ASK_VERSION)
    known = sum(rights for since, rights in _LANDLOCK_RIGHTS.items() if since <= version)
    attributes = _bytes_of("Q", known)
    rules = _landlock(_LANDLOCK_CREATE_RULESET, ctypes.addressof(attributes), len(attributes), 0)
    for path in (*readable, folder):
        rights = known if path == folder else _LANDLOCK_READ
        file = os.open(path, os.O_PATH)
        if not os.path.isdir(path):
            rights &= _LANDLOCK_FILE
        rule = _bytes_of("=Qi", rights, file)
        _landlock(_LANDLOCK_ADD_RULE, rules, _LANDLOCK_PATH_BENEATH, ctypes.addressof(rule), 0)
        os.close(file)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _landlock(_LANDLOCK_RESTRICT_SELF, rules, 0)
    os.close(rules)


def _bytes_of(layout: str, *values: int) -> "ctypes.Array[ctypes.c_char]":
    packed = struct.pack(layout, *values)
    return ctypes.create_string_buffer(packed, len(packed))


def _landlock(call: int, *arguments: int) -> int:
    result = _LIBC.syscall(ctypes.c_long(call), *map(ctypes.c_ulong, arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"landlock: {os.strerror(code)}")
    return result


def _install_filter(instructions: bytes) -> None:
    """Let the kernel judge this process's system calls by a compiled filter from now on."""
    held = ctypes.create_string_buffer(instructions, len(instructions))
    # An instruction has 8 bytes.
    program = _FilterProgram(len(instructions) // 8, ctypes.cast(held, ctypes.c_void_p))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(program))


_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]


def _prctl(option: int, first: int, second: int = 0) -> None:
    if _LIBC.prctl(option, first, second, 0, 0) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"prctl({option}): {os.strerror(code)}")


def _write_files(folder: str, job: "dict[str, Any]") -> None:
    os.chdir(folder)
    texts = {**job["files"], PROGRAM_FILE: job["source"]}
    if job["checks"]:
        texts[CHECKS_FILE] = job["checks"]
    for name, text in texts.items():
        if "/" in name:
            os.makedirs(os.path.dirname(name), exist_ok=True)
        with open(name, "w", encoding="utf-8", newline="") as stream:
            stream.write(text)


def _run_program(job: "dict[str, Any]", folder: str, report: Report) -> None:
    """Source, then checks or calls. ``passed`` is reported only at the end of all of them."""
    module = ModuleType(job["name"])
    sys.modules[job["name"]] = module
    module.__file__ = f"{folder}/{PROGRAM_FILE}"
    found, flushed = vars(module), (sys.stdout, sys.stderr)
    found["__builtins__"] = builtins
    ballast = mmap.mmap(-1, _BALLAST_BYTES)
    originals = dict(vars(builtins))
    try:
        exec(compile(job["source"], module.__file__, "exec"), found)
        if job["checks"]:
            # What checks call is what it always was, whatever the source put in its place.
            builtins.__dict__.update(originals)
            exec(compile(job["checks"], f"{folder}/{CHECKS_FILE}", "exec"), found)
        if job["function"]:
            _answer(found, job["function"], job["calls"], report)
    except BaseException as error:  # noqa: BLE001  # a program may raise anything, SystemExit too
        ballast.close()
        verdict = "memory" if isinstance(error, MemoryError) else "failed", _describe(error, folder)
    else:
        verdict = "passed", ""
    for stream in flushed:
        # Closed or broken by the program: its own output is lost, no more.
        try:  # noqa: SIM105  # contextlib is slow to import
            stream.flush()
        except BaseException:  # noqa: BLE001
            pass
    report(*verdict)


def _answer(found: "dict[str, Any]", name: str, calls: "Sequence[Any]", report: Report) -> None:
    """Each call's value or error as soon as it is there, so that what a later call does costs no earlier answer."""
    if name not in found:
        raise NameError(f"the program defines no {name!r}")
    import json

    function = found[name]
    for index, arguments in enumerate(calls):
        try:
            report("value", f"{index} {json.dumps(encode(function(*map(decode, arguments))))}")
        except BaseException as error:  # noqa: BLE001  # as above
            report("raised", f"{index} {_describe(error, '')}")


def _describe(error: BaseException, folder: str) -> str:
    """Type, text, and the last line of the program's own that it went through."""
    name = type(error).__name__
    try:
        text = str(error)[:MAX_DETAIL]
    except BaseException:  # noqa: BLE001  # the program's own __str__
        text = "(its text raises an error)"
    place = _place(error.__traceback__, folder)
    return f"{name}{': ' if text else ''}{text}{f' ({place})' if place else ''}"


def _place(traceback: TracebackType | None, folder: str) -> str:
    place = ""
    while traceback is not None:
        file = traceback.tb_frame.f_code.co_filename
        if file in (f"{folder}/{PROGRAM_FILE}", f"{folder}/{CHECKS_FILE}"):
            place = f"{os.path.basename(file)}, line {traceback.tb_lineno}"
        traceback = traceback.tb_next
    return place


def main() -> None:
    """Serve the host on the descriptors that the command line names."""
    control_file, settings_file = map(int, sys.argv[1:3])
    settings = _read(settings_file)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    serve(socket.socket(fileno=control_file), settings)


if __name__ == "__main__":
    main()
