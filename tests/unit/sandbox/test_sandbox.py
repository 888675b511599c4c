"""Programs, calls and their verdicts."""

import gzip
import json
import math
import os
import signal
from pathlib import Path

import pytest

from quicksilver.errors import ConfigError, InputError, SandboxError
from quicksilver.sandbox import Answer, Call, Limits, Opaque, Outcome, Program, Sandbox
from tests.sandboxes import MODES, open_sandbox

HUMANEVAL = Path(__file__).parents[3] / "data/eval/humaneval_infilling/HumanEval-SingleLineInfilling.jsonl.gz"
REFERENCES = 20
"""Tasks of HumanEval that are run with their own solutions."""


@pytest.fixture(scope="module", params=MODES)
def sandbox(request):
    with open_sandbox(request.param) as sandbox:
        yield sandbox


def reference_programs() -> list[tuple[Program, Program]]:
    """A solution as it should be, and with its last return taken out; both with HumanEval's checks."""
    with gzip.open(HUMANEVAL, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    returns = {row["entry_point"]: row for row in rows if row["canonical_solution"].startswith("    return")}
    found = []
    for name, row in list(returns.items())[:REFERENCES]:
        checks = f"{row['test']}\ncheck({name})\n"
        right, wrong = (
            row["prompt"] + line + row["suffix"] for line in (row["canonical_solution"], "    raise KeyError\n")
        )
        found.append((Program(right, checks=checks), Program(wrong, checks=checks)))
    return found


def test_references_pass_and_broken_ones_fail(sandbox):
    """A harness that accepts everything, or nothing, fails here."""
    pairs = reference_programs()
    assert len(pairs) == REFERENCES
    assert {sandbox.run(right).outcome for right, _ in pairs} == {Outcome.PASSED}
    verdicts = [sandbox.run(wrong) for _, wrong in pairs]
    assert all("KeyError (program.py, line" in verdict.detail for verdict in verdicts), verdicts


def test_a_program_reads_and_writes(sandbox):
    source = (
        "import sys\nimport beside\nfrom folder import inner\n"
        "print(beside.ONE, inner.TWO, input())\nsys.stderr.write('é')"
    )
    files = {"beside.py": "ONE = 1", "folder/inner.py": "TWO = 2"}
    verdict = sandbox.run(Program(source, files, stdin="three\n"))
    assert (verdict.outcome, verdict.stdout, verdict.stderr) == (Outcome.PASSED, "1 2 three\n", "é")
    assert verdict.is_passed
    assert 0 < verdict.seconds < 60


def test_a_program_is_a_script_that_can_be_inspected(sandbox):
    source = """
import dataclasses, inspect, pickle, typing
@dataclasses.dataclass
class Point:
    x: "int"
if __name__ == "__main__":
    assert "class Point" in inspect.getsource(Point)
    assert pickle.loads(pickle.dumps(Point(1))) == Point(1) and typing.get_type_hints(Point) == {"x": int}
    print("main")
"""
    assert sandbox.run(Program(source)).stdout == "main\n"
    assert sandbox.run(Program(source, name="candidate")).stdout == ""


def test_what_programs_use_works(sandbox):
    source = """
import asyncio, ctypes, concurrent.futures, decimal, random, sqlite3, tempfile, threading, unittest.mock, zlib
async def double(x):
    await asyncio.sleep(0)
    return 2 * x
assert asyncio.run(double(2)) == 4
with concurrent.futures.ThreadPoolExecutor(2) as pool:
    assert list(pool.map(abs, [-1, -2])) == [1, 2]
with tempfile.TemporaryDirectory() as folder, open(folder + "/file", "w") as file:
    file.write("x")
"""
    verdict = sandbox.run(Program(source))
    assert verdict.outcome is Outcome.PASSED, verdict


def test_random_numbers_differ_between_programs(sandbox):
    program = Program("import random\nprint(random.random())")
    assert len({sandbox.run(program).stdout for _ in range(3)}) == 3


def test_checks_are_compiled_apart_and_meet_their_own_builtins(sandbox):
    swallowing = Program('def f(): return 1\nx = """', checks="assert f() == 2")
    assert "SyntaxError" in sandbox.run(swallowing).detail
    lenient = "import builtins\nbuiltins.abs = builtins.sum = lambda *_: 0\ndef f(x): return x + 1"
    verdict = sandbox.run(Program(lenient, checks="assert abs(f(1) - 1) == 0, 'wrong'"))
    assert (verdict.outcome, verdict.detail) == (Outcome.FAILED, "AssertionError: wrong (checks.py, line 1)")


def test_readable_folders_are_imported_from_and_never_written(sandbox, tmp_path):
    package = tmp_path / "library" / "sandboxed_package"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("VALUE = 7\n", encoding="utf-8")
    (package.parent / "math.py").write_text("pi = 3\n", encoding="utf-8")
    source = """
import errno, math, sandboxed_package
assert sandboxed_package.VALUE == 7 and math.pi != 3
try:
    open(sandboxed_package.__file__, "a")
except OSError as error:
    assert error.errno == errno.EROFS
else:
    raise SystemExit("written")
"""
    verdict = sandbox.run(Program(source, readable=(package.parent,)))
    assert verdict.outcome is Outcome.PASSED, verdict
    assert "ModuleNotFoundError" in sandbox.run(Program("import sandboxed_package")).detail


def test_pytest_runs_inside(sandbox):
    """As evaluations by a package's own tests do: site-packages are seen only where they are asked for."""
    source = "import pytest\nraise SystemExit(pytest.main(['-q', '-p', 'no:cacheprovider', 'test_it.py']))"
    tests = "import pytest\n@pytest.mark.parametrize('x', [1, 2])\ndef test_x(x): assert x < 2\n"
    site_packages = Path(pytest.__file__).parents[1]
    verdict = sandbox.run(Program(source, {"test_it.py": tests}, readable=(site_packages,)))
    assert (verdict.detail, "1 failed, 1 passed" in verdict.stdout) == ("SystemExit: 1 (program.py, line 2)", True), (
        verdict
    )
    assert "ModuleNotFoundError" in sandbox.run(Program("import pytest")).detail


def test_text_that_is_no_unicode_is_refused(sandbox):
    verdict = sandbox.run(Program("x = '\ud800'"))
    assert (verdict.outcome, verdict.stdout) == (Outcome.REFUSED, "")
    assert sandbox.call("x = '\ud800'", "f", [()])[0].outcome is Outcome.REFUSED


def test_calls_give_back_values(sandbox):
    source = "import collections\ndef f(x, y=0):\n    return {'sum': x + y, (1,): [None, x]}"
    right = [{"sum": 3, (1,): [None, 1]}, {"sum": 2.5, (1,): [None, 2.5]}]
    assert [answer.value for answer in sandbox.call(source, "f", [(1, 2), [2.5]])] == right
    first, second = sandbox.call("import collections\ndef f(x): return collections.Counter(x)", "f", [("aab",), (0,)])
    assert (type(first.value), first.value) == (dict, {"a": 2, "b": 1})
    assert (second.outcome, second.value) == (Outcome.FAILED, None)
    assert second.detail.startswith("TypeError: 'int' object is not iterable")


def test_values_bring_no_code_along(sandbox):
    source = """
class Anything:
    def __eq__(self, other): return True
class Number(int):
    def __eq__(self, other): return True
    __hash__ = int.__hash__
def f(kind): return [Anything(), Number(3), f][kind]
"""
    anything, number, function = (answer.value for answer in sandbox.call(source, "f", [(0,), (1,), (2,)]))
    assert type(anything) is type(function) is Opaque
    assert anything != 5
    assert (type(number), number) == (int, 3)


def test_arguments_are_fresh_for_every_call(sandbox):
    source = "def f(items):\n    items.append(1)\n    return len(items)"
    items = [0]
    assert [answer.value for answer in sandbox.call(source, "f", [(items,), (items,)])] == [2, 2]
    assert items == [0]


def test_answers_before_the_end_are_kept(sandbox):
    source = "import os\ndef f(x):\n    if x == 2: os._exit(0)\n    return x"
    answers = sandbox.call(source, "f", [(1,), (2,), (3,)])
    assert answers[0] == Answer(outcome=Outcome.PASSED, value=1)
    assert [answer.outcome for answer in answers[1:]] == [Outcome.CRASHED, Outcome.CRASHED]


@pytest.mark.parametrize(
    ("source", "outcome", "detail"),
    [
        ("1 / 0", Outcome.FAILED, "ZeroDivisionError: division by zero (program.py, line 1)"),
        ("x = 1", Outcome.FAILED, "NameError: the program defines no 'f'"),
        ("def f(): return 'x' * (1 << 21)", Outcome.OUTPUT, ""),
        ("def f():\n    x = []\n    x.append(x)\n    return x", Outcome.FAILED, "RecursionError"),
        ("def f(): return bytearray(3 << 30)", Outcome.FAILED, "MemoryError"),
    ],
)
def test_calls_without_a_value(sandbox, source, outcome, detail):
    (answer,) = sandbox.call(source, "f", [()])
    assert (answer.outcome, detail in answer.detail) == (outcome, True), answer


def test_arguments_are_plain(sandbox):
    with pytest.raises(InputError, match="Path"):
        sandbox.call("def f(x): pass", "f", [([Path("x")],)])


def test_many_keep_their_order(sandbox):
    programs = (Program(f"import time\ntime.sleep({0.05 * (i == 0)})\nprint({i})") for i in range(12))
    assert [verdict.stdout for verdict in sandbox.run_many(programs, workers=3)] == [f"{i}\n" for i in range(12)]
    # Guests outlive the threads of the first run_many.
    calls = [Call("def f(x): return -x", "f", [(i,)]) for i in range(6)]
    assert [answers[0].value for answers in sandbox.call_many(calls, workers=3)] == [-i for i in range(6)]


def test_many_may_be_left_early(sandbox):
    taken = []

    def programs():
        for i in range(1000):
            taken.append(i)
            yield Program(f"print({i})")

    verdicts = sandbox.run_many(programs(), workers=1)
    assert next(verdicts).stdout == "0\n"
    verdicts.close()
    assert len(taken) < 10


def test_a_guest_that_something_else_killed_is_replaced():
    with open_sandbox("fast") as sandbox:
        sandbox.run(Program(""))
        process = sandbox._idle[0]._process
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert sandbox.run(Program("")).outcome is Outcome.PASSED


def test_nothing_runs_outside_the_with_statement():
    with open_sandbox("fast") as sandbox:
        pass
    with pytest.raises(SandboxError, match="with statement"):
        sandbox.run(Program(""))
    with pytest.raises(ConfigError, match="slow"):
        Sandbox("slow")
    with open_sandbox("fast") as sandbox, pytest.raises(ConfigError, match="workers"):
        list(sandbox.run_many([Program("")], workers=0))


@pytest.mark.parametrize("wrong", [{"wall_s": 0}, {"cpu_s": math.inf}, {"memory_mb": 10}, {"output_bytes": -1}])
def test_limits_that_limit_nothing(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Limits(**wrong)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "program.py", "./checks.py", "a\0b"])
def test_files_stay_in_the_programs_folder(name):
    with pytest.raises(InputError, match="file"):
        Program("", {name: ""})


def test_readable_must_be_a_folder(tmp_path):
    with pytest.raises(InputError, match="missing"):
        Program("", readable=(tmp_path / "missing",))
