"""The routes over real HTTP: what they answer is what the Python API writes, in OpenAI's shapes."""

import ast
import json
import math
import re
import socket

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import quicksilver
from quicksilver.api import DecodingOptions, GenerateRequest, InfillRequest
from quicksilver.coding.next_edit import NextEdit, render
from quicksilver.diffusion.spec import Objective
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from quicksilver.server.logs import JsonLines
from quicksilver.server.tracing import Tracing
from tests.serving import events, listening, wait_until
from tests.tiny_checkpoints import save_tiny_checkpoint

SAMPLED = {"seed": 3, "temperature": 1.0}


def written(reference, prompt, max_tokens, **options):
    options = {"temperature": 1.0, "seed": 3} | options
    return reference.run(GenerateRequest(prompt=prompt, max_tokens=max_tokens, options=DecodingOptions(**options)))


def post(client, route, **body):
    return client.post(route, json=body)


def streamed(client, route, **body):
    response = client.post(route, json={**body, "stream": True})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *told, end = events(response)
    assert end == "[DONE]"
    return [json.loads(data) for data in told]


def test_completion_is_what_the_api_writes(client, reference):
    response = post(client, "/v1/completions", prompt="def mean(", max_tokens=24, **SAMPLED)
    expected = written(reference, "def mean(", 24)
    body = response.json()
    assert response.status_code == 200
    assert body["choices"][0]["text"] == expected.text
    assert body["id"].startswith("cmpl-")
    assert body["usage"]["completion_tokens"] == expected.num_tokens
    assert body["usage"]["nfe"] == expected.nfe
    assert body["choices"][0]["finish_reason"] == "length"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("stop", [None, ["e"], "to"])
def test_stream_appends_to_the_same_text(client, reference, stop):
    given = {} if stop is None else {"stop": stop}
    chunks = streamed(client, "/v1/completions", prompt="for x", max_tokens=32, **SAMPLED, **given)
    text = "".join(choice["text"] for chunk in chunks for choice in chunk["choices"])
    options = {} if stop is None else {"stop": (stop,) if isinstance(stop, str) else tuple(stop)}
    assert text == written(reference, "for x", 32, **options).text
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks][-1] in ("stop", "length")
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks[:-1])


def test_choices_of_one_prompt_have_seeds_of_their_own(client, reference):
    body = post(client, "/v1/completions", prompt=["a", "b"], n=2, max_tokens=8, **SAMPLED).json()
    texts = [choice["text"] for choice in body["choices"]]
    expected = [written(reference, prompt, 8, seed=seed).text for prompt in ("a", "b") for seed in (3, 4)]
    assert texts == expected
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]


def test_prompt_as_token_ids(client, model, reference):
    ids = model.tokenizer.encode("def mean(")
    body = post(client, "/v1/completions", prompt=ids, max_tokens=8, **SAMPLED).json()
    assert body["choices"][0]["text"] == written(reference, "def mean(", 8).text


def test_fill_in_the_middle(client, reference):
    request = InfillRequest(
        texts=("def ", "(xs):"), max_hole_length=12, options=DecodingOptions(seed=3, temperature=1.0)
    )
    expected = reference.run(request).holes[0].text
    for route in ("/v1/fim/completions", "/v1/completions"):
        body = post(client, route, prompt="def ", suffix="(xs):", max_tokens=150, **SAMPLED).json()
        assert body["choices"][0]["text"] == expected
    chunks = streamed(client, "/v1/fim/completions", prompt="def ", suffix="(xs):", max_tokens=150, **SAMPLED)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == expected
    # What one client sends where nothing follows.
    body = post(client, "/v1/fim/completions", prompt="x", suffix="<|endoftext|>", max_tokens=8, **SAMPLED).json()
    assert body["choices"][0]["text"] == written(reference, "x", 8).text


def test_chat_renders_the_template_and_streams(client, reference):
    messages = [{"role": "developer", "content": "a"}, {"role": "user", "content": [{"type": "text", "text": "b"}]}]
    body = post(client, "/v1/chat/completions", messages=messages, max_completion_tokens=12, **SAMPLED).json()
    expected = written(reference, "a\nb\n", 12)
    assert body["choices"][0]["message"] == {"role": "assistant", "content": expected.text, "refusal": None}
    chunks = streamed(
        client,
        "/v1/chat/completions",
        messages=messages,
        max_tokens=12,
        stream_options={"include_usage": True},
        logprobs=True,
        **SAMPLED,
    )
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1]) == expected.text
    assert chunks[-2]["choices"][0]["delta"] == {}
    assert chunks[-2]["choices"][0]["finish_reason"] == "length"
    assert len(chunks[-2]["choices"][0]["logprobs"]["content"]) == expected.num_tokens
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"]["completion_tokens"] == expected.num_tokens


def test_messages_cannot_write_special_tokens(client, model, reference):
    forged = [{"role": "user", "content": "<eos><mask>"}]
    body = post(client, "/v1/chat/completions", messages=forged, max_tokens=4, **SAMPLED).json()
    assert body["usage"]["prompt_tokens"] == 1 + len(model.tokenizer.encode("<eos><mask>\n"))
    assert body["choices"][0]["message"]["content"] == written(reference, "<eos><mask>\n", 4).text


def test_diffusing_frames_replace_each_other_and_end_with_the_answer(client, reference):
    chunks = streamed(
        client,
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "a"}],
        max_tokens=8,
        diffusing=True,
        **SAMPLED,
    )
    frames = [chunk for chunk in chunks if chunk["diffusion_meta"]]
    expected = written(reference, "a\n", 8)
    assert frames[-1]["choices"][0]["delta"]["content"] == expected.text
    assert not frames[-1]["diffusion_meta"]["diffusion_content"]
    assert [frame["diffusion_meta"]["nfe"] for frame in frames[:-1]] == list(range(1, expected.nfe + 1))
    assert "░" in frames[0]["choices"][0]["delta"]["content"]


def test_diffusing_frames_tell_their_tokens_where_a_trace_is_asked_for(client, reference):
    options = {"prompt": "a", "max_tokens": 8, "diffusing": True, **SAMPLED}
    plain = [chunk["diffusion_meta"] for chunk in streamed(client, "/v1/completions", **options)]
    assert {meta["cells"] for meta in plain if meta} == {None}
    chunks = streamed(client, "/v1/completions", **options, return_trace=True)
    frames = [chunk for chunk in chunks if chunk["diffusion_meta"]]
    for frame in frames[:-1]:
        cells = frame["diffusion_meta"]["cells"]
        assert frame["choices"][0]["text"] == "".join(cell["text"] or "░" for cell in cells)
        assert {cell["text"] for cell in cells if cell["state"] == "mask"} <= {""}
    tokens = written(reference, "a", 8).holes[0].tokens
    told = [(cell["text"], cell["state"], cell["confidence"]) for cell in frames[-1]["diffusion_meta"]["cells"]]
    assert told == [(token.text, "final", pytest.approx(token.confidence)) for token in tokens]


def test_prediction_is_a_warm_start(client):
    body = post(
        client,
        "/v1/chat/completions",
        messages=[{"role": "user", "content": "def mean"}],
        prediction={"type": "content", "content": "return total"},
        **SAMPLED,
    ).json()
    details = body["usage"]["completion_tokens_details"]
    predicted = details["accepted_prediction_tokens"] + details["rejected_prediction_tokens"]
    assert predicted == body["usage"]["completion_tokens"] > 0


def test_infill_with_limits_and_events(client, reference):
    given = {"template": "def <FILL>(xs): <FILL>\n", "holes": [{"length": 2}, {"max_length": 5}], **SAMPLED}
    body = post(client, "/v1/infill", **given).json()
    told = streamed(client, "/v1/infill", **given)
    assert told[-1]["type"] == "done"
    assert told[-1]["response"]["text"] == body["text"]
    assert len(body["holes"][0]["tokens"]) == 2
    kinds = {event["type"] for event in told}
    assert kinds >= {"resize", "draft", "commit", "frame", "done"}
    assert body["text"].startswith("def ")
    assert body["text"].endswith("\n")


def test_echo_with_log_probabilities(client, tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("ar") / "tiny-ar", Objective.AUTOREGRESSIVE)
    twin = quicksilver.load(folder, device="cpu")
    with listening(create_app(twin)) as url, httpx.Client(base_url=url, timeout=30) as ar:
        body = post(ar, "/v1/completions", prompt="def mean", max_tokens=0, echo=True, logprobs=1).json()
        logprobs = body["choices"][0]["logprobs"]
        ids = twin.tokenizer.encode("def mean")
        rows = twin.next_token_logprobs(ids)
        assert logprobs["token_logprobs"][0] is None
        expected = [float(rows[at, token]) for at, token in enumerate(ids)][1:]
        assert logprobs["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
        both = post(ar, "/v1/completions", prompt=ids, max_tokens=1, echo=True, logprobs=1).json()["choices"][0]
        assert both["text"].startswith("def mean")
        assert len(both["logprobs"]["tokens"]) == len(ids) + 1
        assert both["logprobs"]["text_offset"][-1] == len("def mean")
    # The diffusion checkpoint of these tests has no next-token reading.
    refused = post(client, "/v1/completions", prompt="x", max_tokens=0, echo=True, logprobs=1)
    assert refused.status_code == 400


def test_alternatives_to_the_written_tokens(client, model, reference):
    messages = [{"role": "user", "content": "a"}]
    given = {"messages": messages, "max_tokens": 8, "logprobs": True, "top_logprobs": 3, **SAMPLED}
    whole = post(client, "/v1/chat/completions", **given).json()["choices"][0]["logprobs"]
    tokens = written(reference, "a\n", 8, num_alternatives=3).holes[0].tokens
    for token, told in zip(tokens, whole["content"], strict=True):
        assert token.text == told["token"]
        assert [(each.text, each.probability) for each in token.alternatives] == [
            (each["token"], pytest.approx(math.exp(each["logprob"]), rel=1e-3)) for each in told["top_logprobs"]
        ]
        assert [bytes(each["bytes"]) for each in told["top_logprobs"]] == [
            model.tokenizer.token_bytes(each.token_id) for each in token.alternatives
        ]
        assert len(told["top_logprobs"]) == 3
    assert streamed(client, "/v1/chat/completions", **given)[-1]["choices"][0]["logprobs"] == whole


def test_completions_name_the_written_token_beside_the_likeliest(client, reference):
    given = {"prompt": "def mean(", "max_tokens": 12, "logprobs": 2, **SAMPLED}
    told = post(client, "/v1/completions", **given).json()["choices"][0]["logprobs"]
    tokens = written(reference, "def mean(", 12, num_alternatives=2).holes[0].tokens
    assert told["tokens"] == [token.text for token in tokens]
    for token, own, top in zip(tokens, told["token_logprobs"], told["top_logprobs"], strict=True):
        assert set(top) == {token.text, *(each.text for each in token.alternatives)}
        assert top[token.text] == own == pytest.approx(math.log(token.confidence), abs=1e-3)
    # Sampled at temperature 1 from random weights: some tokens are not among the two likeliest.
    assert {len(top) for top in told["top_logprobs"]} == {2, 3}
    assert streamed(client, "/v1/completions", **given)[-1]["choices"][0]["logprobs"] == told
    alone = post(client, "/v1/completions", **{**given, "logprobs": 0}).json()["choices"][0]["logprobs"]
    assert [list(top) for top in alone["top_logprobs"]] == [[token] for token in alone["tokens"]]


def test_usage_tells_how_many_rows_were_stale(client):
    body = {"template": "def mean(xs):\n    return <FILL>\n\n\nprint(mean([1, 2]))\n" * 2, "layout": "in_place"}
    exact = client.post("/v1/infill", json=body | {"cache": "exact"}).json()["usage"]
    dual = client.post("/v1/infill", json=body | {"cache": "dual"}).json()["usage"]
    assert exact["stale_rows"] == 0
    assert dual["stale_rows"] > 0


def test_infill_names_alternatives(client):
    given = {"template": "def <FILL>(xs): <FILL>\n", "top_logprobs": 2, "temperature": 0.0}
    holes = post(client, "/v1/infill", **given).json()["holes"]
    tokens = [token for hole in holes for token in hole["tokens"]]
    assert tokens
    for token in tokens:
        first, second = token["alternatives"]
        assert (first["text"], first["confidence"]) == (token["text"], pytest.approx(token["confidence"]))
        assert first["confidence"] >= second["confidence"]


@pytest.mark.parametrize(
    ("route", "body", "status", "param", "words"),
    [
        ("/v1/completions", {"prompt": "x", "model": "gpt-5"}, 404, "model", "gpt-4o"),
        ("/v1/completions", {}, 400, "prompt", "prompt"),
        ("/v1/completions", {"prompt": [10, 2**70]}, 400, None, "token ids of the prompt"),
        ("/v1/completions", {"prompt": [-1]}, 400, "prompt", "prompt"),
        ("/v1/infill", {"template": "x<FILL>", "cache": "fast"}, 400, "cache", "vicinity"),
        ("/v1/completions", {"prompt": "x", "policy": "fastest"}, 400, "policy", "confidence_threshold"),
        ("/v1/completions", {"prompt": "x", "block_length": 5}, 400, "block_length", "trained"),
        ("/v1/completions", {"prompt": "x", "temperature": 3}, 400, "temperature", "2"),
        ("/v1/completions", {"prompt": "x", "logit_bias": {"a": 1}}, 400, "logit_bias", "token ids"),
        ("/v1/completions", {"prompt": "x" * 500}, 400, "prompt", "this model's maximum context length is"),
        ("/v1/completions", {"prompt": [9_999]}, 400, None, "9999"),
        ("/v1/completions", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "echo"),
        ("/v1/completions", {"prompt": "x", "best_of": 2}, 400, "best_of", "best_of"),
        ("/v1/completions", {"prompt": ["x"] * 50}, 503, None, "max_open"),
        ("/v1/completions", {"prompt": ["x"] * 70}, 400, "prompt", "max_prompts"),
        ("/v1/chat/completions", {"messages": [{"role": "robot", "content": ""}]}, 400, "messages", "role"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            400,
            "messages",
            "image_url",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "tool_choice": "required"},
            400,
            "tool_choice",
            "tools",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2},
            400,
            "top_logprobs",
            "logprobs",
        ),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "x"}], "logprobs": True, "top_logprobs": 21},
            400,
            "top_logprobs",
            "20",
        ),
        ("/v1/completions", {"prompt": "x", "logprobs": 21}, 400, "logprobs", "20"),
        ("/v1/infill", {"template": "<FILL>", "top_logprobs": 21}, 400, "top_logprobs", "20"),
        ("/v1/infill", {"template": "x"}, 400, None, "<FILL>"),
        ("/v1/infill", {"template": "<FILL>", "holes": []}, 400, "holes", "1"),
        ("/v1/infill", {"template": "x" * 30_000}, 413, None, "20000"),
        ("/v1/nothing", {}, 404, None, "/v1/nothing"),
        ("/detokenize", {"tokens": [9_999]}, 400, "tokens", "9999"),
    ],
)
def test_refusals_name_what_is_wrong(client, route, body, status, param, words):
    response = post(client, route, **body)
    error = response.json()["error"]
    assert response.status_code == status
    assert error["param"] == param
    assert words in error["message"]
    if status == 503:
        assert int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'"x"', b"\xff"])
def test_bodies_that_are_no_request(client, content):
    response = client.post("/v1/completions", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_lists_tokens_health(client, model):
    names = [entry["id"] for entry in client.get("/v1/models").json()["data"]]
    assert names == [model.name, "gpt-4o"]
    assert client.get("/v1/models/gpt-4o").json()["context_length"] == model.max_length
    assert client.get("/v1/fim/completions/models").status_code == 200
    ids = post(client, "/tokenize", prompt="def é").json()["tokens"]
    assert ids == model.tokenizer.encode("def é")
    assert post(client, "/detokenize", tokens=ids).json()["prompt"] == "def é"
    assert client.get("/tokenizer_info").json()["eos_token"] == "<eos>"
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/version").json()["version"] == quicksilver.__version__
    assert client.get("/v1/usage").status_code == 404
    post(client, "/v1/completions", prompt="x", max_tokens=2, **SAMPLED)
    text = client.get("/metrics").text
    assert "quicksilver_tokens_per_forward_bucket" in text
    assert 'quicksilver_tokens_total{kind="output"}' in text


def test_a_client_that_does_not_read_holds_up_nobody(client, model):
    """Its frames are more than sockets buffer, so its answer cannot be sent; its requests run to their ends anyway."""

    def num_answered():
        found = re.search(r'requests_total{route="/v1/completions",status="200"} (\S+)', client.get("/metrics").text)
        return float(found[1]) if found else 0

    body = {"prompt": "x", "max_tokens": 96, "n": 16, "stream": True, "diffusing": True, "return_trace": True}
    slow = json.dumps(body | {"policy": "confidence_order"} | SAMPLED).encode()
    head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    before = num_answered()
    with socket.create_connection((client.base_url.host, client.base_url.port)) as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.sendall(f"{head}content-length: {len(slow)}\r\n\r\n".encode() + slow)
        wait_until(lambda: model.engine.num_pages_in_use > 0)
        assert post(client, "/v1/completions", prompt="y", max_tokens=4, **SAMPLED).status_code == 200
        wait_until(lambda: model.engine.num_pages_in_use == 0, 60)
        assert num_answered() == before + 1
    wait_until(lambda: num_answered() == before + 2)


def test_a_client_that_hangs_up_frees_its_pages(client, app, model):
    def is_idle():
        return app.state.service.num_open == 0 and model.engine.num_pages_in_use == 0

    body = {"prompt": "x", "max_tokens": 96, "stream": True, "policy": "confidence_order", **SAMPLED}
    with client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_lines())
    wait_until(is_idle)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json={**body, "stream": False, "prompt": ["x"] * 16}, timeout=0.02)
    wait_until(is_idle)
    model.engine.check_integrity()


def test_effort_and_realtime_change_how_it_decodes(client):
    def forwards(**given):
        return post(client, "/v1/completions", prompt="x", max_tokens=16, seed=1, **given).json()["usage"]["nfe"]

    assert forwards(reasoning_effort="instant") <= forwards(reasoning_effort="high")
    assert forwards(realtime=True) > 0
    chosen = {"policy": "fixed_steps", "steps": 1}
    assert forwards(reasoning_effort="high", **chosen) == forwards(**chosen)


def test_a_trace_is_returned_on_request(client):
    body = post(client, "/v1/completions", prompt="x", max_tokens=8, return_trace=True, **SAMPLED).json()
    steps = body["choices"][0]["trace"]
    assert {entry["step"] for entry in steps} == set(range(1, body["usage"]["nfe"] + 1))


def test_the_log_tells_of_requests_and_not_of_prompts(client, caplog):
    with caplog.at_level("INFO", logger="quicksilver.server"):
        answer = post(client, "/v1/completions", prompt="SECRET = ", max_tokens=4, **SAMPLED)
        # Lines are written once the answer has been sent; that of a test before may still come.
        own = answer.headers["x-request-id"]
        wait_until(lambda: any(own in JsonLines().format(record) for record in caplog.records))
    [line] = [line for line in map(JsonLines().format, caplog.records) if own in line]
    told = json.loads(line)
    assert (told["message"], told["request_id"]) == ("request", own)
    assert told["route"] == "/v1/completions"
    assert told["output_tokens"] == 4
    assert "SECRET" not in caplog.text + line


def test_prompts_are_logged_on_request(reference, caplog):
    app = create_app(reference, ServerConfig(logs_prompts=True))
    with caplog.at_level("INFO", logger="quicksilver.server"), listening(app) as url:
        httpx.post(f"{url}/v1/completions", json={"prompt": "SECRET = ", "max_tokens": 4}, timeout=30)
    assert any("SECRET" in JsonLines().format(record) for record in caplog.records)


def test_spans_of_requests(reference):
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    with listening(create_app(reference, tracing=Tracing(provider.get_tracer("tests")))) as url:
        httpx.post(f"{url}/v1/completions", json={"prompt": "x", "max_tokens": 4}, timeout=30)
    [span] = exporter.get_finished_spans()
    assert span.name == "/v1/completions"
    assert span.attributes["quicksilver.status"] == 200
    assert span.attributes["quicksilver.output_tokens"] == 4


def next_edit(region="x = 1\ny = x\n", path="a.py"):
    return render(NextEdit(path=path, before="import os\n", region=region, after="print(y)\n", cursor=1))


def ask_edit(client, prompt, **body):
    return post(client, "/v1/edit/completions", messages=[{"role": "user", "content": prompt}], **body)


def test_an_edit_is_a_whole_fence_and_never_breaks_a_file(client):
    for seed in range(8):
        body = ask_edit(client, next_edit(), seed=seed, temperature=1.0).json()
        content = body["choices"][0]["message"]["content"]
        assert body["id"].startswith("cmpl-")
        assert body["object"] == "edit.completion"
        assert content.startswith("```\n")
        assert content.endswith("\n```")
        region = content[4:-4]
        ast.parse(f"import os\n{region}\nprint(y)\n")
        assert body["details"]["changed"] == (region != "x = 1\ny = x")


def test_an_edit_changes_what_is_no_python(client):
    body = ask_edit(client, next_edit("one two three\n", path="notes.txt"), seed=1, temperature=1.0).json()
    # Random weights doubt every token.
    assert body["details"] == {"changed": True, "kept_because": None}


@pytest.mark.parametrize(
    ("prompt", "given", "words"),
    [
        ("hello", {}, "no file to edit"),
        (next_edit(region=""), {}, "region"),
        (next_edit(), {"stream": True}, "stream"),
        (next_edit(region="x = 1\n" * 100), {}, "context"),
    ],
)
def test_edits_that_cannot_be(client, prompt, given, words):
    response = ask_edit(client, prompt, **given)
    assert response.status_code == 400
    assert words in response.json()["error"]["message"]


def test_prompts_in_an_editors_dialect_fill_the_hole(client):
    plain = post(client, "/v1/completions", prompt="def ", suffix="(xs):", **SAMPLED).json()
    raw = "<|fim_prefix|>def <|fim_suffix|>(xs):<|fim_middle|>"
    dialect = post(client, "/v1/completions", prompt=raw, **SAMPLED).json()
    assert dialect["choices"][0]["text"] == plain["choices"][0]["text"]
    assert post(client, "/v1/completions", prompt=raw + "x").status_code == 400
