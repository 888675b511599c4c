"""The client against made-up answers, and against a real server."""

import json

import httpx
import pytest

import quicksilver
from quicksilver.api import DecodingOptions, GenerateRequest
from quicksilver.cli.main import main
from quicksilver.client import Client, CompletionClient, ServerError
from quicksilver.errors import ConfigError
from quicksilver.server.app import create_app
from tests.serving import listening
from tests.tiny_checkpoints import save_tiny_checkpoint

WRITTEN = {"choices": [{"text": "done"}]}
OVERLOADED = {"error": {"message": "full", "type": "overloaded", "code": "overloaded", "param": None}}


class Script:
    """Answers one response after the other and remembers what was asked."""

    def __init__(self, *answers):
        self.answers, self.asked, self.waits = list(answers), [], []

    def __call__(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def client(self, **options):
        return Client("http://server/v1/", transport=httpx.MockTransport(self), sleep=self.waits.append, **options)


def test_a_request_says_what_is_given_and_nothing_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    script = Script(httpx.Response(200, json=WRITTEN))
    assert script.client(model="m").complete("x", seed=1, stop=None) == "done"
    [asked] = script.asked
    assert asked.url == "http://server/v1/completions"
    assert json.loads(asked.content) == {"model": "m", "prompt": "x", "seed": 1}
    assert asked.headers["authorization"] == "Bearer sk-1"


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "2"}, 2.0),
        ({}, 0.5),
        ({"retry-after": "999"}, 30.0),
    ],
)
def test_it_waits_as_long_as_the_server_says(headers, wait):
    script = Script(httpx.Response(503, json=OVERLOADED, headers=headers), httpx.Response(200, json=WRITTEN))
    assert script.client().complete("x") == "done"
    assert script.waits == [wait]


def test_a_lost_connection_is_tried_again_and_then_told():
    script = Script(*[httpx.ConnectError("refused")] * 3)
    with pytest.raises(ServerError, match="no answer from http://server.*refused") as error:
        script.client().complete("x")
    assert error.value.status is None
    assert script.waits == [0.5, 1.0]


@pytest.mark.parametrize(
    ("answer", "status", "words"),
    [
        (httpx.Response(400, json={"error": {"message": "bad seed", "param": "seed", "code": "x"}}), 400, "bad seed"),
        (httpx.Response(429, json=OVERLOADED, headers={"x-should-retry": "false"}), 429, "full"),
        (httpx.Response(404, text="<html>"), 404, "HTTP 404"),
        (httpx.Response(200, text="<html>"), 200, "no JSON"),
        (httpx.Response(200, json=[]), 200, "no object"),
        (httpx.Response(200, json={}), None, "no choices"),
    ],
)
def test_what_is_no_answer_is_not_tried_again(answer, status, words):
    script = Script(answer)
    with pytest.raises(ServerError, match=words) as error:
        script.client().complete("x")
    assert error.value.status == status
    assert len(script.asked) == 1


def test_a_stream_that_has_begun_is_never_tried_again():
    data = 'data: {"choices": [{"text": "a"}]}\n\ndata: {"error": {"message": "broke"}}\n\n'
    script = Script(httpx.Response(200, text=data, headers={"content-type": "text/event-stream"}))
    stream = script.client().stream("x")
    assert next(stream) == "a"
    with pytest.raises(ServerError, match="broke"):
        next(stream)
    assert len(script.asked) == 1


def test_a_stream_that_has_not_begun_is():
    data = 'data: {"choices": [{"text": "a"}]}\n\ndata: {"choices": []}\n\ndata: [DONE]\n\n'
    script = Script(
        httpx.Response(503, json=OVERLOADED),
        httpx.Response(200, text=data, headers={"content-type": "text/event-stream"}),
    )
    assert list(script.client().stream("x")) == ["a"]


def test_bad_settings_are_refused():
    with pytest.raises(ConfigError, match="http://"):
        Client("server:8080")
    with pytest.raises(ConfigError, match="max_retries"):
        Client(max_retries=-1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


def test_against_a_real_server(folder, capsys):
    options = {"seed": 3, "temperature": 1.0}
    expected = quicksilver.load(folder, device="cpu").run(
        GenerateRequest(prompt="def", max_tokens=12, options=DecodingOptions(**options))
    )
    with listening(create_app(quicksilver.load(folder, device="cpu"))) as url, Client(url) as client:
        assert isinstance(client, CompletionClient)
        assert client.models() == ["tiny"]
        assert client.complete("def", max_tokens=12, **options) == expected.text
        assert "".join(client.stream("def", max_tokens=12, **options)) == expected.text
        assert client.infill("def <FILL>:", **options)["text"].endswith(":")
        assert [event["type"] for event in client.stream_infill("def <FILL>:", **options)][-1] == "done"
        assert isinstance(client.fill("def ", ":", **options), str)
        with pytest.raises(ServerError, match="policy") as error:
            client.complete("x", policy="fastest")
        assert error.value.param == "policy"
        arguments = ("generate", "def", "--server", url, "--max-tokens", "12", "--seed", "3", "--temperature", "1")
        assert main(arguments) == 0
        assert capsys.readouterr().out == expected.text
        assert main((*arguments, "--watch")) == 2
        assert "--watch" in capsys.readouterr().err
        assert main(("generate", "x", "--server", url, "--policy", "fastest")) == 1
        assert "confidence_threshold" in capsys.readouterr().err
