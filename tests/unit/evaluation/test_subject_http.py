"""A server as a subject: it answers what the same weights answer in this process, and refuses what it cannot do."""

import json

import httpx
import pytest

import quicksilver
from quicksilver.api import DecodingOptions, InfillLayout
from quicksilver.client import Client, ReplyError, RequestOptions
from quicksilver.errors import ConfigError, ServerError
from quicksilver.evaluation.subject import Ask, Subject
from quicksilver.evaluation.subjects.engine import EngineSubject
from quicksilver.evaluation.subjects.http import HttpSubject, http_subject
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from tests.serving import listening
from tests.tiny_checkpoints import save_tiny_checkpoint

TEXTS = ("def mean(xs):\n", "    return total\n")
TWO_HOLES = ("def <FILL-0>(xs):\n", "    for x in xs:\n", "    return total\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("http") / "tiny")


@pytest.fixture(scope="module")
def url(folder):
    with listening(create_app(quicksilver.load(folder, device="cpu"), ServerConfig())) as url:
        yield url


@pytest.fixture(scope="module")
def engine(folder):
    return quicksilver.load(folder, device="cpu")


def answered(client: Client) -> HttpSubject:
    return HttpSubject(name="fake", client=client)


def scripted(body: object, status: int = 200) -> HttpSubject:
    """A server that gives one answer to everything."""
    content = json.dumps(body) if status != 200 else f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n"
    headers = {"content-type": "application/json" if status != 200 else "text/event-stream"}
    transport = httpx.MockTransport(lambda request: httpx.Response(status, text=content, headers=headers))
    return answered(Client("http://server", transport=transport))


@pytest.mark.parametrize(
    ("texts", "ask", "layout"),
    [
        (TEXTS, Ask(seed=3, temperature=1.0), None),
        (TEXTS, Ask(seed=3, temperature=1.0, max_tokens=5, stop=("\n",)), None),
        (TEXTS, Ask(seed=1, hole_length=4), None),
        (TEXTS, Ask(seed=1, temperature=1.0, hole_length=6), "psm"),
        (TWO_HOLES, Ask(seed=2, temperature=0.7), None),
        (TWO_HOLES, Ask(seed=2, temperature=0.7, hole_length=3), "in_place"),
        (TWO_HOLES, Ask(seed=5, temperature=1.0, stop=("e", "\n")), None),
    ],
)
def test_holes_are_filled_as_in_this_process(url, engine, texts, ask, layout):
    subject = http_subject(url, layout=layout)
    assert isinstance(subject, Subject)
    reference = EngineSubject(name="same", model=engine, layout=layout and InfillLayout(layout))
    found, expected = subject.fill(texts, ask), reference.fill(texts, ask)
    assert (found.texts, found.num_tokens, found.nfe) == (expected.texts, expected.num_tokens, expected.nfe)
    assert len(found.texts) == len(texts) - 1
    if any(found.texts):
        assert 0 < found.first_text_s <= found.seconds


def test_a_prompt_is_continued_as_in_this_process(url, engine):
    subject = http_subject(url, decoding={"threshold": 0.2})
    ask = Ask(seed=4, temperature=1.0, max_tokens=16, stop=("e",))
    reference = EngineSubject(name="same", model=engine, options=DecodingOptions(threshold=0.2))
    found, expected = subject.complete("def mean", ask), reference.complete("def mean", ask)
    assert (found.texts, found.num_tokens, found.nfe) == (expected.texts, expected.num_tokens, expected.nfe)
    assert subject.about()["options"]["threshold"] == 0.2
    assert subject.about()["server"] == f"{url}/v1"
    assert subject.count_tokens("def") is None


def test_what_ours_cannot_do_is_told_in_its_words(url):
    decoding = RequestOptions(guidance=1.0, cache="dual")
    with Client(url) as client, pytest.raises(ServerError, match="guidance needs cache exact"):
        HttpSubject(name="ours", client=client, options=decoding).fill(TWO_HOLES, Ask(seed=0))


def test_another_server_is_asked_as_openai_has_it():
    asked = []
    chunks = [
        {"choices": [{"index": 0, "text": text, "finish_reason": end}]} for text, end in (("a", None), ("b", "stop"))
    ]
    chunks.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}})
    stream = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.url.path, json.loads(request.content)))
        return httpx.Response(200, text=stream, headers={"content-type": "text/event-stream"})

    subject = answered(Client("http://server", transport=httpx.MockTransport(answer)))
    found = subject.fill(("x = ", "\n"), Ask(seed=7, temperature=0.5, max_tokens=9, stop=("\n",)))
    assert (found.texts, found.num_tokens, found.nfe, found.finish_reason) == (("ab",), 2, None, "stop")
    [(path, body)] = asked
    wanted = {"prompt": "x = ", "suffix": "\n", "seed": 7, "temperature": 0.5, "max_tokens": 9, "stop": ["\n"]}
    assert path == "/v1/completions"
    assert {name: body[name] for name in wanted} == wanted
    assert body["stream_options"] == {"include_usage": True}


def test_a_server_without_usage_is_refused():
    subject = scripted({"choices": [{"index": 0, "text": "a", "finish_reason": "stop"}]})
    with pytest.raises(ReplyError, match="how many tokens"):
        subject.complete("x", Ask(seed=0))


def test_a_server_without_infill_is_refused():
    with pytest.raises(ConfigError, match="no route infill"):
        scripted({"error": {"message": "not found"}}, status=404).fill(TWO_HOLES, Ask(seed=0))
