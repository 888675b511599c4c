"""The server as a process: keys at the door, exact bills, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager

import httpx
import pytest

from quicksilver.server.accounts import Accounts, Limits, Prices
from tests.serving import events, wait_until
from tests.tiny_checkpoints import save_tiny_checkpoint

COMMAND = (sys.executable, "-c", "import sys; from quicksilver.cli.main import main; sys.exit(main())")
LONG = {"prompt": "x", "max_tokens": 96, "policy": "confidence_order", "seed": 1, "temperature": 1.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@contextmanager
def process(folder, *arguments, home):
    """A server process, and its URL once it takes requests."""
    log = home / "server.log"  # a pipe that nobody reads would fill up and stop it
    with log.open("w") as stderr:
        server = subprocess.Popen(
            [*COMMAND, "serve", "--model", str(folder), "--port", "0", *arguments],
            stderr=stderr,
            env={**os.environ, "QUICKSILVER_HOME": str(home), "OMP_NUM_THREADS": "1"},
        )
    try:
        wait_until(lambda: server.poll() is not None or "\n" in log.read_text(), 120)
        found = re.search(r"http://\S+", log.read_text())
        assert found, log.read_text()
        yield server, found.group()
    finally:
        server.kill()
        server.wait()


def test_without_keys_only_loopback(folder, tmp_path):
    done = subprocess.run(
        [*COMMAND, "serve", "--model", str(folder), "--host", "0.0.0.0", "--port", "0"],
        capture_output=True,
        text=True,
        env={**os.environ, "QUICKSILVER_HOME": str(tmp_path)},
        timeout=120,
    )
    assert done.returncode == 2
    assert "quicksilver keys create" in done.stderr


def test_keys_limits_and_bills(folder, tmp_path):
    accounts = Accounts.open(f"sqlite:///{tmp_path / 'accounts.db'}", prices=Prices())
    key, secret = accounts.create_key("one", granted_tokens=1_000)
    _, slow_secret = accounts.create_key("slow", limits=Limits(requests_per_minute=1))
    _, poor_secret = accounts.create_key("poor", granted_tokens=5)
    arguments = ("--database", f"sqlite:///{tmp_path / 'accounts.db'}", "--price-output", "2")
    with process(folder, *arguments, home=tmp_path) as (_, url), httpx.Client(base_url=url, timeout=30) as client:

        def post(secret, **body):
            headers = {"authorization": f"Bearer {secret}"} if secret else {}
            given = {"prompt": "def", "max_tokens": 8, "seed": 1, **body}
            return client.post("/v1/completions", json=given, headers=headers)

        for wrong in (None, "qs-nothing"):
            refused = post(wrong)
            assert refused.status_code == 401
            assert refused.json()["error"]["code"] == "invalid_api_key"
        assert client.get("/v1/models").status_code == 401
        assert client.get("/health").status_code == 200

        answer = post(secret)
        usage = answer.json()["usage"]
        assert answer.headers["x-ratelimit-remaining-requests"] == "999"
        report = client.get("/v1/usage", headers={"authorization": f"Bearer {secret}"}).json()
        assert report["totals"]["output_tokens"] == usage["completion_tokens"]
        assert report["totals"]["cost_nanodollars"] == usage["completion_tokens"] * 2_000
        assert report["remaining_tokens"] == 1_000 - usage["total_tokens"]

        assert post(poor_secret).status_code == 402
        assert post(slow_secret).status_code == 200
        limited = post(slow_secret)
        assert limited.status_code == 429
        assert 0 < int(limited.headers["retry-after"]) <= 60
        assert limited.headers["x-ratelimit-remaining-requests"] == "0"

        accounts.revoke(key.id)
        assert post(secret).status_code == 401
    accounts.close()


def test_kill_9_leaves_no_finished_request_unbilled_and_none_billed_twice(folder, tmp_path):
    database = f"sqlite:///{tmp_path / 'accounts.db'}"
    accounts = Accounts.open(database)
    key, secret = accounts.create_key("one")
    finished: list[str] = []
    with process(folder, "--database", database, home=tmp_path) as (server, url):

        def ask():
            with httpx.Client(base_url=url, timeout=30, headers={"authorization": f"Bearer {secret}"}) as client:
                try:
                    while True:
                        body = {"prompt": "x", "max_tokens": 4, "stream": len(finished) % 2 == 0}
                        answer = client.post("/v1/completions", json=body)
                        answer.raise_for_status()
                        finished.append(answer.headers["x-request-id"])
                except httpx.TransportError:
                    pass

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(finished) >= 40, 60)
        server.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    totals = accounts.totals(key_id=key.id)
    assert len(set(finished)) == len(finished)
    # At most one request per connection was written down and not yet answered.
    assert len(finished) <= sum(total.requests for total in totals) <= len(finished) + len(threads)
    accounts.close()


def test_sigterm_answers_what_was_accepted(folder, tmp_path):
    with process(folder, home=tmp_path) as (server, url), httpx.Client(base_url=url, timeout=60) as client:
        answers = []

        def ask(is_stream):
            answers.append(client.post("/v1/completions", json={**LONG, "stream": is_stream}))

        threads = [threading.Thread(target=ask, args=(index % 2 == 0,)) for index in range(6)]
        for thread in threads:
            thread.start()
        wait_until(lambda: client.get("/health").json()["num_running"] == 6)
        server.send_signal(signal.SIGTERM)
        wait_until(lambda: client.get("/health").json()["status"] == "draining")
        refused = client.post("/v1/completions", json=LONG)
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        for thread in threads:
            thread.join()
        assert server.wait(20) in (0, -signal.SIGTERM)
    assert [answer.status_code for answer in answers] == [200] * 6
    for answer in answers:
        if answer.headers["content-type"].startswith("text/event-stream"):
            *_, last, end = events(answer)
            assert end == "[DONE]"
            assert json.loads(last)["choices"][0]["finish_reason"] == "length"
        else:
            assert answer.json()["usage"]["completion_tokens"] == 96


def test_what_the_drain_cannot_wait_for_is_told(folder, tmp_path):
    with process(folder, "--drain-seconds", "0", home=tmp_path) as (server, url):
        with (
            httpx.Client(timeout=60) as client,
            client.stream("POST", f"{url}/v1/completions", json={**LONG, "stream": True}) as response,
        ):
            lines = response.iter_lines()
            next(lines)
            server.send_signal(signal.SIGTERM)
            rest = [line for line in lines if line.startswith("data: ")]
        assert server.wait(20) in (0, -signal.SIGTERM)
    assert "closed" in json.loads(rest[-2][6:])["error"]["message"]
    assert rest[-1] == "data: [DONE]"
