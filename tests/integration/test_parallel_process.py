"""Several processes that hold one model, when one of them ends; and the command under torchrun."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time

import httpx
import pytest
import torch

from quicksilver.api import load
from quicksilver.checkpoints.loading import load_folder
from quicksilver.decoding import SamplingParams
from quicksilver.engine.aio import AsyncEngine
from quicksilver.engine.engine import Engine
from quicksilver.engine.request import Continuation, Request
from quicksilver.errors import EngineError, RankError
from tests.serving import wait_until
from tests.tiny_checkpoints import save_tiny_checkpoint
from tests.two_ranks import Pair

pytestmark = pytest.mark.slow

REQUEST = Request(task=Continuation(prompt_ids=(11, 12)), params=SamplingParams(seed=0, max_tokens=32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_ends_or_stops_is_an_error_in_time(end, folder, tmp_path):
    pair = Pair(tmp_path / "ranks", patience_s=1.0)
    pair.start_loading(folder, torch.float32)
    engine = Engine(*load_folder(folder, ranks=pair.ranks))
    ticket = engine.submit(REQUEST)
    engine.step()
    pair.other.send_signal(end)
    if end == signal.SIGKILL:
        pair.other.wait()
    started = time.monotonic()
    with pytest.raises(RankError, match="rank 0 of 2 lost the others"):
        _run(engine, ticket)
    assert time.monotonic() - started < 10
    asyncio.run(_is_told(engine))
    pair.other.kill()
    pair.close()


def _run(engine, ticket):
    while not ticket.is_ended:
        engine.step()


async def _is_told(engine):
    """Whoever waits for an engine that lost a rank hears of it."""
    async with AsyncEngine(engine) as serving:
        with pytest.raises(EngineError, match="out of step"):
            await (await serving.submit(REQUEST)).result()


def test_the_others_end_when_the_first_is_gone(folder, tmp_path):
    pair = Pair(tmp_path / "ranks")
    pair.start_loading(folder, torch.float32)
    pair.lose()
    assert pair.other.wait(20) == 1
    assert "rank 1 of 2 lost the others" in pair.close()


def test_a_server_under_torchrun_answers_what_it_accepted(folder, tmp_path):
    """The same text as one process; SIGTERM lets open requests end, then all processes."""
    log = tmp_path / "log"
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "quicksilver"]
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, "serve", "--model", str(folder), "--port", "0", "--device", "cpu"],
            stdout=output,
            stderr=output,
            env={**os.environ, "QUICKSILVER_HOME": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )
    try:
        wait_until(lambda: server.poll() is not None or "serves at http" in log.read_text(), 120)
        found = re.search(r"serves at (http://\S+)", log.read_text())
        assert found, log.read_text()
        assert log.read_text().count("serves at") == 1
        asked = {"prompt": "x", "max_tokens": 96, "policy": "confidence_order", "seed": 1, "temperature": 0}
        expected = load(folder).generate("x", max_tokens=96, policy="confidence_order", seed=1, temperature=0.0).text
        with httpx.Client(timeout=60) as client:
            answer = client.post(f"{found.group(1)}/v1/completions", json=asked)
            assert answer.json()["choices"][0]["text"] == expected
            with client.stream("POST", f"{found.group(1)}/v1/completions", json={**asked, "stream": True}) as response:
                lines = response.iter_lines()
                first = next(lines)
                server.send_signal(signal.SIGTERM)
                told = [json.loads(line[6:]) for line in (first, *lines) if line.startswith("data: {")]
        assert "".join(each["choices"][0]["text"] for each in told if each["choices"]) == expected
        server.wait(30)
        assert "lost the others" not in log.read_text()
    finally:
        server.kill()
        server.wait()
