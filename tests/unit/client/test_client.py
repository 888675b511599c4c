"""Both clients against made-up answers: what is sent, what is read, when it is asked again."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import httpx
import pytest

from quicksilver.client import (
    AsyncClient,
    AsyncCompletionClient,
    Client,
    CompletionClient,
    HoleLimits,
    Message,
    RefusedError,
    ReplyError,
    RequestOptions,
    ServerError,
    UnreachableError,
)
from quicksilver.errors import ConfigError, InputError, UsageError

WRITTEN = {"choices": [{"index": 0, "text": "done", "finish_reason": "stop"}]}
OVERLOADED = {"error": {"message": "full", "type": "overloaded", "code": "overloaded", "param": None}}
SAID = {"role": "assistant", "content": "hello"}


class Script:
    """Answers one response after the other and remembers what was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = list(answers), []

    def __call__(self, request):
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def bodies(self):
        return [json.loads(request.content) for request in self.asked]


class Blocking:
    """Calls a method of the blocking client."""

    def __init__(self, script, **settings):
        self.client = Client(**{"base_url": "http://server"} | settings, transport=httpx.MockTransport(script))

    def ask(self, method, *arguments, **options):
        return getattr(self.client, method)(*arguments, **options)

    def read(self, method, *arguments, **options):
        """The items of a stream, and its reply."""
        with getattr(self.client, method)(*arguments, **options) as stream:
            return list(stream), getattr(stream, "reply", None)


class Asynchronous:
    """The same of the other client."""

    def __init__(self, script, **settings):
        self.client = AsyncClient(**{"base_url": "http://server"} | settings, transport=httpx.MockTransport(script))

    def ask(self, method, *arguments, **options):
        return asyncio.run(getattr(self.client, method)(*arguments, **options))

    def read(self, method, *arguments, **options):
        async def items():
            async with getattr(self.client, method)(*arguments, **options) as stream:
                return [item async for item in stream], getattr(stream, "reply", None)

        return asyncio.run(items())


@pytest.fixture(params=[Blocking, Asynchronous])
def connect(request):
    return request.param


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("QUICKSILVER_API_KEY", "QUICKSILVER_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def waits(monkeypatch):
    """Seconds that would have been waited."""
    seconds = []

    async def note(wait):
        seconds.append(wait)

    monkeypatch.setattr(time, "sleep", seconds.append)
    monkeypatch.setattr(asyncio, "sleep", note)
    return seconds


def streamed(*bodies, end="data: [DONE]\n\n"):
    text = "".join(f"data: {json.dumps(body, ensure_ascii=False)}\n\n" for body in bodies) + end
    return httpx.Response(200, content=text.encode(), headers={"content-type": "text/event-stream; charset=utf-8"})


def piece(text, finish_reason=None):
    return {"id": "cmpl-1", "model": "m", "choices": [{"index": 0, "text": text, "finish_reason": finish_reason}]}


def test_they_are_completion_clients():
    assert isinstance(Client("http://server"), CompletionClient)
    assert isinstance(AsyncClient("http://server"), AsyncCompletionClient)


def test_a_request_says_what_is_given_and_nothing_else(connect):
    script = Script(httpx.Response(200, json=WRITTEN))
    options = RequestOptions(seed=0, temperature=0.0, stop=("a", "b"), logit_bias={7: -1.5}, extra={"min_p": 0.1})
    reply = connect(script, model="m", api_key="k").ask("complete", "x", num_choices=2, max_tokens=3, options=options)
    assert (reply.text, reply.finish_reason) == ("done", "stop")
    assert (reply.id, reply.model, reply.usage) == (None, None, None)
    assert script.asked[0].url == "http://server/v1/completions"
    assert script.asked[0].headers["authorization"] == "Bearer k"
    assert script.bodies == [
        {
            "model": "m",
            "prompt": "x",
            "n": 2,
            "max_tokens": 3,
            "seed": 0,
            "temperature": 0.0,
            "stop": ["a", "b"],
            "logit_bias": {"7": -1.5},
            "min_p": 0.1,
        }
    ]


def test_the_bodies_of_the_other_questions(connect):
    script = Script(*[httpx.Response(200, json={"choices": [{"message": SAID}]})] * 2)
    client = connect(script)
    assert client.ask("fill", "a", "b").text == "hello"
    messages = [Message(role="system", content="be brief"), Message(role="user", content="hi")]
    assert client.ask("chat", messages, prediction="hello").text == "hello"
    assert [request.url.path for request in script.asked] == ["/v1/completions", "/v1/chat/completions"]
    assert script.bodies == [
        {"prompt": "a", "suffix": "b"},
        {
            "messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}],
            "prediction": {"type": "content", "content": "hello"},
        },
    ]
    with pytest.raises(InputError, match="message"):
        client.ask("chat", [])


def test_prompts_that_change_code_are_the_users_message(connect):
    script = Script(*[httpx.Response(200, json={"choices": [{"message": SAID}]})] * 2)
    client = connect(script)
    assert client.ask("edit", "a prompt", options=RequestOptions(seed=3)).text == "hello"
    assert client.ask("apply", "another").text == "hello"
    assert [request.url.path for request in script.asked] == ["/v1/edit/completions", "/v1/apply/completions"]
    assert script.bodies == [
        {"messages": [{"role": "user", "content": "a prompt"}], "seed": 3},
        {"messages": [{"role": "user", "content": "another"}]},
    ]


def test_infill_sends_what_is_known_of_each_hole(connect):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    body = {"id": "i", "created": 1, "model": "m", "text": "ab", "holes": [], "finish_reason": "stop", "usage": usage}
    script = Script(httpx.Response(200, json=body))
    holes = [HoleLimits(length=2), HoleLimits(draft="x")]
    options = RequestOptions(stop=("\n",))
    filled = connect(script).ask("infill", "?a?", mark="?", holes=holes, layout="psm", options=options)
    assert (filled.text, filled.usage.total_tokens, filled.usage.nfe) == ("ab", 3, None)
    assert script.bodies == [
        {"template": "?a?", "mark": "?", "holes": [{"length": 2}, {"draft": "x"}], "layout": "psm", "stop": ["\n"]}
    ]


def test_choices_come_in_their_order(connect):
    choices = [{"index": 1, "text": "b", "finish_reason": "length"}, {"index": 0, "text": "a", "finish_reason": "stop"}]
    reply = connect(Script(httpx.Response(200, json={"choices": choices}))).ask("complete", "x", num_choices=2)
    assert [(choice.text, choice.finish_reason) for choice in reply.choices] == [("a", "stop"), ("b", "length")]


@pytest.mark.parametrize(
    ("usage", "num_tokens"),
    [
        ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": None}, 2),
        ({"input_tokens": 4}, None),
        (None, None),
    ],
)
def test_accounts_of_other_servers_do_not_cost_the_answer(connect, usage, num_tokens):
    script = Script(httpx.Response(200, json={**WRITTEN, "usage": usage, "system_fingerprint": None, "x": 1}))
    reply = connect(script).ask("complete", "x")
    assert reply.text == "done"
    assert (reply.usage and reply.usage.completion_tokens) == num_tokens


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://server", "http://server/v1/models"),
        ("http://server:81/", "http://server:81/v1/models"),
        ("https://server/v1/", "https://server/v1/models"),
        ("https://server/api/paas/v4", "https://server/api/paas/v4/models"),
    ],
)
def test_a_url_without_a_path_gets_the_version(connect, given, url):
    script = Script(httpx.Response(200, json={"object": "list", "data": [{"id": "b"}, {"id": "a", "created": None}]}))
    assert connect(script, base_url=given).ask("models") == ("b", "a")
    assert str(script.asked[0].url) == url
    assert script.asked[0].method == "GET"


def test_a_key_for_openai_goes_nowhere_else(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    assert Client("https://api.openai.com/v1").connection.api_key == "sk-1"
    for url in ("http://127.0.0.1:8080", "https://api.openai.com.elsewhere.org/v1", None):
        assert Client(url).connection.api_key is None


def test_settings_come_from_the_environment(connect, monkeypatch):
    monkeypatch.setenv("QUICKSILVER_BASE_URL", "http://elsewhere/v1")
    monkeypatch.setenv("QUICKSILVER_API_KEY", "sk-1")
    script = Script(httpx.Response(200, json=WRITTEN))
    connect(script, base_url=None).ask("complete", "x")
    assert script.asked[0].url.host == "elsewhere"
    assert script.asked[0].headers["authorization"] == "Bearer sk-1"


def test_the_key_of_an_argument_goes_before_ours_and_ours_before_others(monkeypatch):
    monkeypatch.setenv("QUICKSILVER_API_KEY", "ours")
    monkeypatch.setenv("OPENAI_API_KEY", "other")
    assert Client("http://s", api_key="given").connection.api_key == "given"
    assert Client("http://s").connection.api_key == "ours"


def test_keys_are_never_shown(connect):
    secret = "sk-very-secret"
    script = Script(httpx.Response(401, json={"error": {"message": "no such key", "code": "invalid_api_key"}}))
    client = connect(script, api_key=secret)
    with pytest.raises(RefusedError) as refused:
        client.ask("complete", "x")
    assert secret not in f"{refused.value} {refused.value!r} {client.client.connection!r}"
    with pytest.raises(ConfigError) as bad:
        Client("http://server", api_key=f"{secret}\n")
    assert secret not in str(bad.value)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"base_url": "server:8080"}, "http://"),
        ({"base_url": "http://"}, "URL"),
        ({"base_url": "http://server:99999"}, "URL"),
        ({"base_url": "http://server/v1?x=1"}, "URL"),
        ({"base_url": "http://user:hunter2@server"}, "api_key"),
        ({"max_retries": -1}, "max_retries"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"api_key": ""}, "key"),
    ],
)
def test_bad_settings_are_refused(settings, word):
    with pytest.raises(ConfigError, match=word) as error:
        Client(**{"base_url": "http://server"} | settings)
    assert "hunter2" not in str(error.value)


def test_extra_fields_do_not_hide_options():
    with pytest.raises(ConfigError, match="seed"):
        RequestOptions(extra={"seed": 1})


@pytest.mark.parametrize(
    ("headers", "wait"),
    [
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "0"}, 0.0),
    ],
)
def test_it_waits_as_long_as_the_server_says(connect, waits, headers, wait):
    script = Script(httpx.Response(503, json=OVERLOADED, headers=headers), httpx.Response(200, json=WRITTEN))
    assert connect(script).ask("complete", "x").text == "done"
    assert waits == [wait]


@pytest.mark.parametrize("zone", ["GMT", "-0000"])
def test_a_date_says_when_too(connect, waits, zone):
    at = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True).replace("GMT", zone)
    script = Script(httpx.Response(429, headers={"retry-after": at}), httpx.Response(200, json=WRITTEN))
    connect(script).ask("complete", "x")
    assert 20 < waits[0] <= 30


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 504])
def test_without_a_time_the_waits_grow_and_end(connect, waits, status):
    script = Script(*[httpx.Response(status, json=OVERLOADED)] * 4)
    with pytest.raises(ServerError, match="full") as error:
        connect(script, max_retries=3).ask("complete", "x")
    assert error.value.status == status
    assert len(script.asked) == 4
    assert [0.375, 0.75, 1.5] <= waits <= [0.5, 1.0, 2.0]
    assert waits == sorted(waits)


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (400, {}),
        (404, {}),
        (503, {"x-should-retry": "false"}),
        (429, {"retry-after": "3600"}),
    ],
)
def test_it_does_not_ask_again_in_vain(connect, waits, status, headers):
    script = Script(httpx.Response(status, json=OVERLOADED, headers=headers))
    with pytest.raises(ServerError):
        connect(script).ask("complete", "x")
    assert (len(script.asked), waits) == (1, [])


def test_the_server_may_want_a_retry_of_anything(connect, waits):
    script = Script(httpx.Response(400, headers={"x-should-retry": "true"}), httpx.Response(200, json=WRITTEN))
    assert connect(script).ask("complete", "x").text == "done"


@pytest.mark.parametrize(
    ("failure", "num_tries", "words"),
    [
        (httpx.ConnectError("refused"), 3, "http://server/v1.*refused.*quicksilver serve"),
        (httpx.RemoteProtocolError("disconnected"), 3, "disconnected"),
        (httpx.ReadTimeout("slow"), 1, "within 5"),
    ],
)
def test_a_lost_connection_is_tried_again_but_no_slow_one(connect, waits, failure, num_tries, words):
    script = Script(*[failure] * 3)
    with pytest.raises(UnreachableError, match=words) as error:
        connect(script, timeout_s=5.0).ask("complete", "x")
    assert error.value.status is None
    assert len(script.asked) == num_tries


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (
            {"error": {"message": "bad seed", "type": "invalid_request_error", "param": "seed", "code": "invalid"}},
            ("bad seed", "invalid_request_error", "seed", "invalid"),
        ),
        (
            {"object": "error", "message": "bad seed", "type": "BadRequest", "code": 400},
            ("bad seed", "BadRequest", None, "400"),
        ),
        ({"error": "bad seed"}, ("bad seed", None, None, None)),
        ({"detail": "bad seed"}, ("bad seed", None, None, None)),
        ({"detail": [{"msg": "bad seed"}]}, ('[{"msg": "bad seed"}]', None, None, None)),
    ],
)
def test_errors_of_all_shapes_are_read(connect, content, told):
    script = Script(httpx.Response(400, json=content, headers={"x-request-id": "req_1"}))
    with pytest.raises(RefusedError) as error:
        connect(script).ask("complete", "x")
    refused = error.value
    assert str(refused) == f"the server answers 400: {told[0]}"
    assert (refused.kind, refused.param, refused.code) == told[1:]
    assert (refused.status, refused.request_id) == (400, "req_1")
    assert isinstance(refused, UsageError)


def test_an_error_without_a_body_quotes_what_there_is(connect):
    with pytest.raises(ServerError, match="502: <html>") as error:
        connect(Script(httpx.Response(502, text="<html>")), max_retries=0).ask("complete", "x")
    assert not isinstance(error.value, UsageError)


@pytest.mark.parametrize("content", ["<html>", "[]", "{}", '{"choices": []}', '{"choices": "x"}'])
def test_what_is_no_answer_is_told(connect, content):
    script = Script(httpx.Response(200, text=content))
    with pytest.raises(ReplyError, match="answer"):
        connect(script).ask("complete", "x")
    assert len(script.asked) == 1


def test_a_redirect_is_not_followed_with_the_key(connect):
    script = Script(httpx.Response(307, headers={"location": "http://thief/v1/completions"}))
    with pytest.raises(ServerError, match="307"):
        connect(script, api_key="k").ask("complete", "x")


def test_a_stream_of_texts(connect):
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "nfe": 2, "tokens_per_forward": 1.0}
    # U+2028 and U+0085 end lines elsewhere, not in a stream of events.
    script = Script(streamed(piece("a\u2028b"), piece("\x85"), piece("", "stop"), {"choices": [], "usage": usage}))
    pieces, reply = connect(script).read("stream_complete", "x", max_tokens=9, options=RequestOptions(seed=1))
    assert pieces == ["a\u2028b", "\x85"]
    assert (reply.text, reply.finish_reason, reply.id, reply.model) == ("a\u2028b\x85", "stop", None, None)
    assert reply.usage.nfe == 2
    assert script.bodies == [
        {"prompt": "x", "max_tokens": 9, "seed": 1, "stream": True, "stream_options": {"include_usage": True}}
    ]


def test_a_stream_of_a_chat(connect):
    first = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]}
    chunks = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in ("he", "llo")]
    last = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    pieces, reply = connect(Script(streamed(first, *chunks, last))).read(
        "stream_chat", [Message(role="user", content="hi")]
    )
    assert pieces == ["he", "llo"]
    assert (reply.text, reply.finish_reason, reply.id) == ("hello", "length", "c")


def test_a_stream_of_a_fill_asks_with_the_suffix(connect):
    script = Script(streamed(piece("x", "stop")))
    assert connect(script).read("stream_fill", "a", "b")[0] == ["x"]
    assert (script.bodies[0]["prompt"], script.bodies[0]["suffix"]) == ("a", "b")


def test_a_stream_of_infill_events_is_typed(connect):
    draft = {"type": "draft", "hole": 0, "start": 0, "stop": 1, "texts": ["a"], "confidence": [0.5]}
    events, _ = connect(Script(streamed(draft, {"type": "done"}))).read("stream_infill", "<FILL>")
    assert [event.type for event in events] == ["draft", "done"]
    assert events[0].texts == ["a"]


def test_a_stream_that_has_not_begun_is_tried_again(connect, waits):
    script = Script(httpx.Response(503, json=OVERLOADED), httpx.ConnectError("x"), streamed(piece("a", "stop")))
    assert connect(script).read("stream_complete", "x")[0] == ["a"]
    assert len(waits) == 2


class Breaking(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that ends with an exception."""

    def __init__(self, content, error):
        self.content, self.error, self.is_closed = content, error, False

    def __iter__(self):
        yield self.content
        raise self.error

    async def __aiter__(self):
        yield self.content
        raise self.error

    def close(self):
        self.is_closed = True

    async def aclose(self):
        self.is_closed = True


def breaking(error):
    body = Breaking(b'data: {"choices": []}\n\n', error)
    return httpx.Response(200, stream=body, headers={"content-type": "text/event-stream"})


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: streamed(piece("a"), {"error": {"message": "broke"}}), ServerError, "broke"),
        (lambda: streamed(piece("a"), end=""), UnreachableError, "before the answer was complete"),
        (lambda: streamed(piece("a"), end="data: {]\n\n"), ReplyError, "not of this API"),
        (lambda: streamed(piece("a"), {"choices": 3}), ReplyError, "choices"),
        (lambda: httpx.Response(200, json=WRITTEN), ReplyError, "does not stream"),
        (lambda: breaking(httpx.ReadError("reset")), UnreachableError, "reset"),
        (lambda: breaking(httpx.ReadTimeout("slow")), UnreachableError, "silent"),
    ],
    ids=["error event", "early end", "no JSON", "other shape", "no stream", "reset", "silence"],
)
def test_a_stream_that_has_begun_is_never_tried_again(connect, waits, make, kind, words):
    script = Script(make())
    with pytest.raises(kind, match=words):
        connect(script).read("stream_complete", "x")
    assert (len(script.asked), waits) == (1, [])


def test_a_stream_may_end_without_its_terminator_once_the_answer_is_complete(connect):
    pieces, reply = connect(Script(streamed(piece("a"), piece("", "stop"), end=""))).read("stream_complete", "x")
    assert (pieces, reply.text) == (["a"], "a")


def test_leaving_a_stream_hangs_up():
    body = Breaking(f"data: {json.dumps(piece('a'))}\n\n".encode(), AssertionError("read on"))
    response = httpx.Response(200, stream=body, headers={"content-type": "text/event-stream"})
    with Blocking(Script(response)).client.stream_complete("x") as stream:
        assert next(stream) == "a"
        assert not body.is_closed
    assert body.is_closed
    assert stream.reply is None


def test_leaving_an_asynchronous_stream_hangs_up():
    async def leave(stream, body):
        async with stream:
            assert await anext(stream) == "a"
            assert not body.is_closed
        assert body.is_closed

    body = Breaking(f"data: {json.dumps(piece('a'))}\n\n".encode(), AssertionError("read on"))
    response = httpx.Response(200, stream=body, headers={"content-type": "text/event-stream"})
    asyncio.run(leave(Asynchronous(Script(response)).client.stream_complete("x"), body))


def test_nothing_is_sent_before_the_first_piece_is_asked_for():
    script = Script()
    Blocking(script).client.stream_complete("x").close()
    assert script.asked == []
