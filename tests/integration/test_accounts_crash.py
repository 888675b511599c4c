"""Processes that are killed while they bill: what they said is billed, is, once; and nothing is half billed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from quicksilver.server.accounts import Accounts
from tests.usages import make_usage

ROOT = Path(__file__).parents[2]
THREADS = 3
BILL = f"""
import os, sys, threading
from quicksilver.server.accounts import Accounts
from tests.usages import make_usage

url, key_id, last = sys.argv[1:]
accounts = Accounts.open(url, timeout_s=60)

def bill(thread):
    for number in range(int(last)):
        request_id = f"{{os.getpid()}}-{{thread}}-{{number}}"
        accounts.record(make_usage(request_id, key_id))
        os.write(1, (request_id + "\\n").encode())

threads = [threading.Thread(target=bill, args=(thread,)) for thread in range({THREADS})]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def start(url: str, key_id: str, last: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", BILL, url, key_id, str(last)]
    # Unbuffered: what a buffered readline has taken from the pipe, communicate does not return.
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "bufsize": 0}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | path(), **pipes)


def path() -> dict[str, str]:
    """The source under test and the tests' helpers, wherever the package is installed from."""
    return {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}


def billed(url: str) -> list[str]:
    connection = sqlite3.connect(url.removeprefix("sqlite:///"))
    ids = [row[0] for row in connection.execute("SELECT request_id FROM api_usage")]
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return ids


@pytest.mark.slow
def test_kill_9_loses_no_bill_and_repeats_none(tmp_path):
    url = f"sqlite:///{tmp_path / 'accounts.db'}"
    accounts = Accounts.open(url)
    key, secret = accounts.create_key("laptop", granted_tokens=None)
    delays = random.Random(0)
    said: list[str] = []
    for _ in range(4):
        processes = [start(url, key.id, 10**9) for _ in range(2)]
        for process in processes:
            said.append(process.stdout.readline().decode().strip())
        time.sleep(delays.uniform(0.05, 0.3))
        for process in processes:
            process.send_signal(signal.SIGKILL)
        for process in processes:
            rest, errors = process.communicate(timeout=60)
            assert (process.returncode, errors) == (-signal.SIGKILL, b"")
            said += rest.decode().split()
    ids = billed(url)
    assert len(said) == len(set(said)) > 8
    assert len(ids) == len(set(ids))
    assert set(said) <= set(ids)
    # What was on the disk but not yet said when the signal came: at most one bill a thread.
    assert len(ids) - len(said) <= 4 * 2 * THREADS
    assert accounts.find(secret).used_tokens == 15 * len(ids)
    # A server that comes up again and bills what it finds unfinished bills nothing twice.
    assert not any(accounts.record(make_usage(request_id, key.id)) for request_id in ids[:20])
    assert accounts.find(secret).used_tokens == 15 * len(ids)
    accounts.close()


@pytest.mark.slow
def test_processes_that_meet_a_new_database_make_it_once_and_bill_side_by_side(tmp_path):
    url = f"sqlite:///{tmp_path / 'accounts.db'}"
    code = "import sys; from quicksilver.server.accounts import Accounts; Accounts.open(sys.argv[1]).create_key('a')"
    opened = [
        subprocess.Popen([sys.executable, "-c", code, url], stderr=subprocess.PIPE, env=os.environ | path())
        for _ in range(6)
    ]
    assert [process.communicate(timeout=60)[1] for process in opened] == [b""] * 6
    accounts = Accounts.open(url)
    key = accounts.keys()[0]
    assert len(accounts.keys()) == 6
    processes = [start(url, key.id, 20) for _ in range(2)]
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [errors for _, errors in outputs] == [b"", b""]
    assert sorted(b" ".join(out for out, _ in outputs).decode().split()) == sorted(billed(url))
    assert accounts.totals()[0].requests == 2 * THREADS * 20
    accounts.close()
