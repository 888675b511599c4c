"""The installed command as users meet it: another process, pipes, signals, time to help."""

import os
import subprocess
import sys

import pytest

from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint

COMMAND = [sys.executable, "-c", "import sys; from quicksilver.cli.main import main; sys.exit(main())"]
TEMPLATE = "def mean(xs):\r\n    return <FILL>\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("process") / "tiny"))


def start(*arguments: str, **options) -> subprocess.Popen:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen([*COMMAND, *arguments], env=os.environ | {"OMP_NUM_THREADS": "1"}, **pipes)


def run(*arguments: str, stdin: str = "") -> tuple[int, bytes, bytes]:
    process = start(*arguments)
    out, err = process.communicate(stdin.encode(), timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
def test_infill_prints_the_filled_file_and_nothing_else(folder):
    status, out, err = run("infill", "-", "--model", folder, "--seed", "1", stdin=TEMPLATE)
    assert (status, err) == (0, b"")
    assert out.startswith(b"def mean(xs):\r\n    return ")
    assert out.endswith(b"\n")
    assert b"<FILL>" not in out


@pytest.mark.slow
def test_bad_input_leaves_no_traceback(folder):
    status, out, err = run("infill", "-", "--model", folder, stdin="nothing to fill")
    assert (status, out) == (2, b"")
    assert err.startswith(b"quicksilver: error: ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize("command", [[], ["infill"], ["generate"], ["demo"], ["train"], ["export"], ["keys"]])
def test_help_does_not_wait_for_torch(command):
    code = (
        "import sys; from quicksilver.cli.main import main; status = main(sys.argv[1:]);"
        "slow = {'torch', 'numpy', 'tokenizers', 'transformers', 'accelerate', 'sqlalchemy'} & set(sys.modules);"
        "print(slow, file=sys.stderr) if slow else None; sys.exit(status or bool(slow))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Usage: quicksilver" in done.stdout


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_noise(folder):
    with start("infill", "-", "--model", folder, "--hole-length", "1") as process:
        process.stdout.close()
        # More than a pipe holds, so that the write fails even if the reader left late.
        process.stdin.write((SOURCE * 500 + "<FILL>").encode())
        process.stdin.close()
        assert process.stderr.read() == b""
    assert process.returncode != 0


@pytest.mark.slow
def test_interrupt_is_quiet(folder):
    # The signal arrives while the command waits for its input: earlier it could fall into an import that swallows it.
    code = (
        "import os, signal, sys, time\n"
        "from types import SimpleNamespace\n"
        "from quicksilver.cli.main import main\n"
        # A shell's background jobs inherit an ignored SIGINT, for which Python installs no handler.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def read():\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
        "sys.stdin = SimpleNamespace(buffer=SimpleNamespace(read=read))\n"
        "sys.exit(main())"
    )
    command = [sys.executable, "-c", code, "infill", "-", "--model", folder]
    result = subprocess.run(command, capture_output=True, timeout=120, check=False)
    assert result.returncode == 130
    assert b"Traceback" not in result.stderr
