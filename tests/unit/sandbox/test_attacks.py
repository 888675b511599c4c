"""What untrusted code tries, in both modes: nothing gets out, and the next program notices nothing."""

import functools

import pytest

from quicksilver.sandbox import Outcome, Program, Verdict
from tests.sandboxes import ATTACKS, ENDLESS, MODES, Attack, open_sandbox

# Finds the sandbox as if it were new.
AFTERWARDS = Program("import os\nassert os.listdir('/tmp') == ['program.py'] and os.getcwd() == '/tmp'")
OUTPUT_BYTES = 1 << 18


@functools.cache
def verdicts(mode: str) -> dict[str, tuple[Verdict, Verdict]]:
    """By attack: its own verdict, and that of the program after it."""
    programs = [program for attack in ATTACKS for program in (Program(attack.source), AFTERWARDS)]
    with open_sandbox(mode, output_bytes=OUTPUT_BYTES) as sandbox:
        found = list(sandbox.run_many(programs, workers=1))
    return {attack.name: (found[2 * i], found[2 * i + 1]) for i, attack in enumerate(ATTACKS)}


def check(attack: Attack, verdict: Verdict) -> None:
    assert (verdict.outcome, attack.detail in verdict.detail) == (attack.outcome, True), verdict


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
@pytest.mark.parametrize("mode", MODES)
def test_attacks_come_to_nothing(mode, attack):
    verdict, afterwards = verdicts(mode)[attack.name]
    check(attack, verdict)
    assert max(len(verdict.stdout), len(verdict.stderr)) <= OUTPUT_BYTES
    assert afterwards.outcome is Outcome.PASSED, afterwards


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_modes_agree_to_the_letter(attack):
    strict, fast = (verdicts(mode)[attack.name][0] for mode in MODES)
    assert (strict.outcome, strict.detail) == (fast.outcome, fast.detail)
    assert (strict.stdout, strict.stderr) == (fast.stdout, fast.stderr)


@pytest.mark.parametrize("mode", MODES)
def test_what_does_not_end_is_ended(mode):
    with open_sandbox(mode, wall_s=0.5) as sandbox:
        found = sandbox.run_many([Program(attack.source) for attack in ENDLESS], workers=2)
        for attack, verdict in zip(ENDLESS, found, strict=True):
            check(attack, verdict)


@pytest.mark.parametrize("mode", MODES)
def test_processor_time_of_all_threads_is_limited(mode):
    with open_sandbox(mode, cpu_s=1) as sandbox:
        loop = Program("import hashlib\nwhile True: hashlib.sha256(bytes(1 << 16))")
        verdict = sandbox.run(loop)
        assert (verdict.outcome, verdict.detail) == (Outcome.TIMEOUT, "no end after 1 s of processor time")
        deaf = Program("import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass")
        assert sandbox.run(deaf).outcome is Outcome.TIMEOUT


def test_a_sibling_neither_sees_nor_ends_another():
    """Two at a time: one waits for the other's file, which never comes, the other tries to kill everything."""
    waits = (
        "import os, time\nfor _ in range(20):\n    assert os.listdir('/tmp') == ['program.py']\n    time.sleep(0.02)"
    )
    kills = "import os\nopen('/tmp/found', 'w').close()\ntry: os.kill(-1, 9)\nexcept PermissionError: pass"
    programs = [Program(waits), Program(kills)] * 4
    with open_sandbox("fast") as sandbox:
        assert {verdict.outcome for verdict in sandbox.run_many(programs, workers=2)} == {Outcome.PASSED}


def test_a_plain_run_can_be_forged_and_says_so():
    """Documented at ``Sandbox``: the marker is in the program's own memory. ``call`` is what rewards are made of."""
    forge = """
import os, sys
frame = sys._getframe()
while "report" not in frame.f_locals:
    frame = frame.f_back
frame.f_locals["report"]("passed", "")
frame.f_locals["report"]("value", "0 [1]")
os._exit(0)
"""
    with open_sandbox("fast") as sandbox:
        assert sandbox.run(Program(forge)).outcome is Outcome.PASSED
        (answer,) = sandbox.call(forge, "f", [(3,)])
        # It may answer what it likes; what would have been right it cannot read anywhere.
        assert (answer.outcome, answer.value) == (Outcome.PASSED, [1])
