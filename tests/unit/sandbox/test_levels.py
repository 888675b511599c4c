"""Which sandbox works here, and what the weaker ones hold back."""

import subprocess
import sys

import pytest

import quicksilver.sandbox.detection as detection
import quicksilver.sandbox.sandbox as sandbox_module
from quicksilver.errors import SandboxError
from quicksilver.sandbox import Limits, Outcome, Program, Sandbox, filters
from quicksilver.sandbox.cages import Level
from tests.sandboxes import HELPERS, open_sandbox, require

LIMITS = Limits(wall_s=60.0, cpu_s=60)


@pytest.fixture
def only(monkeypatch):
    """Pretends that a level is the strongest that works."""

    def pretend(level: Level) -> None:
        require(level)
        monkeypatch.setattr(sandbox_module, "detect", lambda: (level, "bubblewrap is missing"))

    return pretend


def test_the_level_is_told():
    with open_sandbox("fast") as sandbox:
        assert sandbox.level == "bwrap+seccomp"


@pytest.mark.parametrize("level", [Level.LANDLOCK, Level.RLIMITS])
def test_weaker_levels_are_taken_only_when_asked_for(only, level):
    only(level)
    with pytest.raises(SandboxError, match=r"'(landlock|rlimits).*bubblewrap is missing.*accept_unsafe=True"):
        Sandbox("fast")
    for mode in ("strict", "fast"):
        with Sandbox(mode, LIMITS, accept_unsafe=True) as sandbox:
            assert sandbox.level == level.value
            verdict = sandbox.run(
                Program("open('x', 'w').write('1')\nimport beside\nprint(open('x').read())", {"beside.py": ""})
            )
            assert (verdict.outcome, verdict.stdout) == (Outcome.PASSED, "1\n"), verdict
            assert sandbox.run(Program("import os\nassert os.listdir() == ['program.py']")).outcome is Outcome.PASSED
            assert sandbox.run(Program("x = bytearray(3 << 30)")).outcome is Outcome.MEMORY
            assert sandbox.run(Program("while True: print('x' * 1000)")).outcome is Outcome.OUTPUT
            assert sandbox.run(Program("import os\nos._exit(0)")).outcome is Outcome.CRASHED


def test_landlock_keeps_files_and_processes_apart(only, tmp_path):
    only(Level.LANDLOCK)
    secret, library = tmp_path / "secret", tmp_path / "library"
    library.mkdir()
    (library / "lent.py").write_text("", encoding="utf-8")
    secret.write_text("secret", encoding="utf-8")
    source = f"""{HELPERS}
import signal, socket, lent
secret, library = {str(secret)!r}, {str(library)!r}
for attempt in (
    lambda: open(secret), lambda: open(secret, "a"), lambda: os.unlink(secret), lambda: os.truncate(secret, 0),
    lambda: os.link(secret, "here"), lambda: open(library + "/new", "w"), lambda: open("/proc/self/mem"),
    lambda: os.listdir("/"), lambda: open("/etc/passwd"),
):
    refused(attempt, errno.EACCES, errno.EXDEV)
for attempt in (os.fork, socket.socket, lambda: os.kill(os.getppid(), signal.SIGKILL)):
    refused(attempt)
"""
    with Sandbox("strict", LIMITS, accept_unsafe=True) as sandbox:
        verdict = sandbox.run(Program(source, readable=(library,)))
        assert verdict.outcome is Outcome.PASSED, verdict
    assert secret.read_text(encoding="utf-8") == "secret"


def test_the_strongest_level_is_found_and_the_others_excused(monkeypatch):
    def only_rlimits(level: Level) -> None:
        if level is not Level.RLIMITS:
            raise SandboxError(f"no {level.name.lower()}")

    monkeypatch.setattr(detection, "try_level", only_rlimits)
    level, reasons = detection.detect.__wrapped__()
    assert level is Level.RLIMITS
    assert "no bwrap" in reasons
    assert "no landlock" in reasons
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SandboxError, match="darwin"):
        detection.detect.__wrapped__()


def test_a_level_without_its_parts_says_which(monkeypatch):
    require(Level.RLIMITS)
    monkeypatch.setattr(filters, "is_available", lambda: False)
    with pytest.raises(SandboxError, match="pyseccomp"):
        detection.try_level(Level.LANDLOCK)
    monkeypatch.undo()
    if filters.is_available():
        monkeypatch.setenv("PATH", "")
        with pytest.raises(SandboxError, match="bubblewrap"):
            detection.try_level(Level.BWRAP)


def test_a_sandbox_that_confines_nothing_is_not_taken(monkeypatch):
    """A trial, not a version number, says whether a level works."""
    require(Level.LANDLOCK)
    monkeypatch.setattr(filters, "compiled", lambda *, may_fork: b"")
    with pytest.raises(SandboxError, match="confines nothing"):
        detection.try_level(Level.LANDLOCK)


def test_torch_is_not_needed():
    code = "import sys, quicksilver.sandbox; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
