"""Commands over text that nobody has read: how they end, and what they cannot reach."""

import sys
from pathlib import Path

import pytest

from quicksilver.errors import SandboxError
from quicksilver.sandbox import Limits, require_commands, run_command
from quicksilver.sandbox.cages import Level
from tests.sandboxes import require

LIMITS = Limits(wall_s=60, cpu_s=60, memory_mb=1024, output_bytes=1 << 20, files_mb=8)
PYTHON = Path(sys.executable).name


@pytest.fixture(autouse=True)
def _works():
    require(Level.BWRAP)


def run(source: str, *, limits: Limits = LIMITS, **files: str):
    return run_command((PYTHON, "-c", source), files=files, limits=limits)


def test_a_command_ends_as_it_would_outside():
    ended = run_command(("sh", "-c", "cat; cat given; echo bad >&2; exit 3"), files={"given": "é"}, stdin="in ")
    assert (ended.status, ended.out, ended.err) == (3, "in é", "bad\n")


def test_tools_of_this_environment_are_there():
    ended = run_command(("ruff", "check", "--isolated", "--select", "F821", "x.py"), files={"x.py": "print(y)\n"})
    assert ended.status == 1
    assert "F821" in ended.out


def test_it_may_start_processes_but_reaches_nothing_of_the_machine(tmp_path):
    (tmp_path / "secret").write_text("here")
    source = f"""
import os, pathlib, socket, subprocess
assert subprocess.run(["true"]).returncode == 0
assert not os.path.exists({str(tmp_path)!r}) and os.listdir("/tmp") == []
assert not pathlib.Path.home().joinpath(".ssh").exists() and not os.path.exists("/etc/passwd")
assert len([name for name in os.listdir("/proc") if name.isdecimal()]) < 8
for attempt in (lambda: socket.socket(), lambda: open("/usr/new", "w"), lambda: open("/new", "w")):
    try:
        attempt()
    except OSError:
        continue
    raise SystemExit("not refused")
assert "SECRET" not in os.environ
"""
    ended = run(source)
    assert (ended.status, ended.err) == (0, "")


def test_limits():
    assert "MemoryError" in run("bytearray(2 << 30)").err
    assert run("print('x' * (2 << 20))").status != 0
    assert run("open('/tmp/a', 'wb').write(bytes(2 << 20))").status != 0
    late = run_command(("sh", "-c", "sleep 60 & sleep 60"), files={}, limits=Limits(wall_s=0.3))
    assert late.status is None


def test_what_cannot_be_run_is_no_verdict(monkeypatch, tmp_path):
    require_commands()
    with pytest.raises(SandboxError, match="no program 'no-such-tool'"):
        run_command(("no-such-tool",), files={})
    (tmp_path / "true").write_text("#!/bin/sh\n")
    (tmp_path / "true").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SandboxError, match="bubblewrap is missing"):
        run_command(("true",), files={})
