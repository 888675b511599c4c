"""Bad manners, bounded in count and time: hang-ups, malformed bodies, half-closed sockets, 200 connections at once."""

import asyncio
import json
import random
import sqlite3
import time
from contextlib import closing

import httpx
import pytest

import quicksilver
from quicksilver.server.accounts import Accounts
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from quicksilver.server.metering import KeyGate
from tests.serving import listening, wait_until
from tests.tiny_checkpoints import save_tiny_checkpoint

NUM_CONNECTIONS = 200
SEED = 5
BODY = {"prompt": "x", "max_tokens": 16, "seed": 1, "temperature": 1.0}


class Caller:
    """One connection at a time, with manners drawn from a seed."""

    def __init__(self, url: str, secret: str) -> None:
        self.url, self.secret = httpx.URL(url), secret
        self.answered: list[str] = []
        self.refused = 0

    async def polite(self, client: httpx.AsyncClient, draw: random.Random) -> None:
        answer = await client.post("/v1/completions", json={**BODY, "stream": draw.random() < 0.5})
        if answer.status_code == 200:
            self.answered.append(answer.headers["x-request-id"])
            assert "error" not in answer.text
        else:
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            self.refused += 1

    async def raw(
        self, payload: bytes, draw: random.Random, *, half_closes: bool = False, num_missing: int = 0
    ) -> None:
        _, writer = await asyncio.open_connection(self.url.host, self.url.port)
        head = (
            f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {self.secret}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(payload) + num_missing}\r\n\r\n"
        )
        writer.write(head.encode() + payload)
        await writer.drain()
        if half_closes:
            writer.write_eof()
        await asyncio.sleep(draw.random() * 0.1)
        writer.close()

    async def call(self, client: httpx.AsyncClient, number: int) -> None:
        draw = random.Random(SEED + number)
        kind = draw.choice(["polite", "polite", "hang up", "malformed", "half closed", "cut"])
        whole = json.dumps({**BODY, "stream": True, "max_tokens": 96}).encode()
        match kind:
            case "polite":
                await self.polite(client, draw)
            case "hang up":
                await self.raw(whole, draw)
            case "half closed":
                await self.raw(whole, draw, half_closes=True)
            case "malformed":
                answer = await client.post("/v1/completions", content=whole[: draw.randrange(len(whole))])
                assert answer.status_code == 400
            case _:  # the body never comes whole
                await self.raw(whole, draw, num_missing=10)


@pytest.mark.slow
def test_no_leak_of_pages_tasks_or_bills(tmp_path):
    model = quicksilver.load(save_tiny_checkpoint(tmp_path / "tiny"), device="cpu")
    accounts = Accounts.open(f"sqlite:///{tmp_path / 'accounts.db'}")
    key, secret = accounts.create_key("soak")
    app = create_app(model, ServerConfig(max_open=100), gate=KeyGate(accounts))

    async def run(url: str) -> Caller:
        caller = Caller(url, secret)
        limits = httpx.Limits(max_connections=NUM_CONNECTIONS)
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, headers=headers) as client:
            await asyncio.gather(*(caller.call(client, number) for number in range(NUM_CONNECTIONS)))
        return caller

    with listening(app) as url:
        caller = asyncio.run(run(url))
        service = app.state.service
        wait_until(lambda: service.num_open == 0 and model.engine.num_pages_in_use == 0)
        model.engine.check_integrity()
        # Whoever held tokens of the grant has given them back, and the server answers as before.
        time.sleep(0.2)
        answer = httpx.post(
            f"{url}/v1/completions", json=BODY, headers={"authorization": f"Bearer {secret}"}, timeout=30
        )
        assert answer.status_code == 200
    with closing(sqlite3.connect(tmp_path / "accounts.db")) as database:
        rows = database.execute("SELECT request_id, input_tokens + output_tokens FROM api_usage").fetchall()
    recorded = dict(rows)
    assert len(recorded) == len(rows)
    assert caller.answered
    assert set(caller.answered) <= set(recorded)
    assert len(set(caller.answered)) == len(caller.answered)
    [now] = accounts.keys()
    assert now.used_tokens == sum(recorded.values())
    accounts.reserve(key.id, now.remaining_tokens)  # nothing is held any more
    accounts.close()
