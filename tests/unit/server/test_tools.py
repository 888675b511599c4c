"""Calls of tools over HTTP, read by OpenAI's own client; with a template that shows tools and one that does not."""

import json

import httpx
import jsonschema
import openai
import pydantic
import pytest

import quicksilver
from quicksilver.server.app import create_app
from tests.serving import events, listening
from tests.tiny_checkpoints import save_tiny_checkpoint

SHOWS_NONE = "<file>{% for m in messages %}{{ m.content }}\n{% endfor %}"
SHOWS_TOOLS = (
    "<file>{% for tool in tools or [] %}{{ tool.function.name }}\n{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for call in m.tool_calls or [] %}<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}"
    "\n{% endfor %}"
)
PARAMETERS = {
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 99}, "why": {"enum": ["x", "y{\\}"]}},
        "required": ["a", "why"],
    },
    "now": None,
}
TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": parameters, "description": "does"}}
    for name, parameters in PARAMETERS.items()
]
ASK = {"messages": [{"role": "user", "content": "go"}], "tools": TOOLS, "max_tokens": 120, "temperature": 1.0}


def served(folder, template):
    save_tiny_checkpoint(folder, max_length=512)
    (folder / "chat_template.jinja").write_text(template)
    return create_app(quicksilver.load(folder, device="cpu"))


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    with listening(served(tmp_path_factory.mktemp("bare") / "tiny", SHOWS_NONE)) as url:
        yield url


@pytest.fixture(scope="module")
def marked(tmp_path_factory):
    with listening(served(tmp_path_factory.mktemp("marked") / "tiny", SHOWS_TOOLS)) as url:
        yield url


@pytest.fixture(scope="module", params=["bare", "marked"])
def url(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def post(url, status=200, **body):
    response = httpx.post(f"{url}/v1/chat/completions", json=ASK | body, timeout=60)
    assert response.status_code == status, response.text
    return response.json()


def check(calls):
    """Each is of a tool and has arguments it takes."""
    for call in calls:
        arguments = json.loads(call["function"]["arguments"])
        jsonschema.validate(arguments, PARAMETERS[call["function"]["name"]] or {"maxProperties": 0})
    assert len({call["id"] for call in calls}) == len(calls)


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_valid_and_there_is_no_text(url, seed):
    choice = post(url, tool_choice="required", seed=seed)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    assert choice["message"]["tool_calls"]
    check(choice["message"]["tool_calls"])


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_a_named_tool_is_called_once(url, name):
    choice = post(url, tool_choice={"type": "function", "function": {"name": name}}, seed=1)["choices"][0]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == name
    check([call])


def test_parallel_calls_can_be_switched_off(marked):
    goes_on = {"tool_choice": "required", "logit_bias": {"1": -30}, "max_tokens": 200, "seed": 1}
    many, one = (
        post(marked, **goes_on, parallel_tool_calls=given)["choices"][0]["message"]["tool_calls"]
        for given in (True, False)
    )
    check(many + one)
    assert len(many) > 1
    assert len(one) == 1


def test_auto_gives_text_or_calls_where_the_template_shows_tools(marked):
    for seed in range(4):
        choice = post(marked, seed=seed, max_tokens=40)["choices"][0]
        calls = choice["message"].get("tool_calls", [])
        check(calls)
        assert "<tool_call>\n" not in (choice["message"]["content"] or "")
        assert choice["finish_reason"] in (["tool_calls"] if calls else ["stop", "length"])


def test_text_that_fills_its_room_ends_by_length(marked):
    found = {post(marked, seed=seed, max_tokens=4)["choices"][0]["finish_reason"] for seed in range(4)}
    assert "length" in found


def test_auto_is_text_where_the_template_shows_none(bare):
    with_tools = post(bare, seed=1, max_tokens=8)["choices"][0]
    without = post(bare, seed=1, tools=None, max_tokens=8)["choices"][0]
    assert with_tools == without
    assert "tool_calls" not in with_tools["message"]


def test_none_is_text(url):
    assert "tool_calls" not in post(url, tool_choice="none", seed=1, max_tokens=8)["choices"][0]["message"]


def test_auto_with_a_format_gives_the_format_or_calls(marked):
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "integer"}}}
    for seed in range(4):
        message = post(marked, seed=seed, response_format=form, max_tokens=40)["choices"][0]["message"]
        check(message.get("tool_calls", []))
        assert message.get("tool_calls") or isinstance(json.loads(message["content"]), int)


def test_openai_client_accumulates_a_stream(client):
    whole = client.chat.completions.create(model="tiny", tool_choice="required", seed=2, **ASK).choices[0]
    with client.chat.completions.stream(model="tiny", tool_choice="required", seed=2, **ASK) as stream:
        kinds = {event.type for event in stream}
        streamed = stream.get_final_completion().choices[0]
    assert "tool_calls.function.arguments.delta" in kinds
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert [call.function.arguments for call in streamed.message.tool_calls] == [
        call.function.arguments for call in whole.message.tool_calls
    ]
    assert [call.function.name for call in streamed.message.tool_calls] == [
        call.function.name for call in whole.message.tool_calls
    ]


def test_a_stream_names_each_call_once_and_leaks_nothing(url):
    body = ASK | {"tool_choice": "required", "seed": 2, "stream": True}
    data = events(httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60))
    deltas = [choice["delta"] for each in data[:-1] for choice in json.loads(each)["choices"]]
    assert not "".join(delta.get("content", "") for delta in deltas)
    told = [call for delta in deltas for call in delta.get("tool_calls", [])]
    for index in {call["index"] for call in told}:
        of_call = [call for call in told if call["index"] == index]
        assert [("id" in call, "name" in call["function"]) for call in of_call] == [
            (number == 0, number == 0) for number in range(len(of_call))
        ]


def test_frames_of_a_diffusing_stream_end_with_the_calls(marked):
    body = ASK | {"tool_choice": "required", "seed": 2, "stream": True, "diffusing": True}
    data = events(httpx.post(f"{marked}/v1/chat/completions", json=body, timeout=60))
    chunks = [json.loads(each) for each in data[:-1]]
    [last] = [chunk for chunk in chunks if (chunk.get("diffusion_meta") or {}).get("diffusion_content") is False]
    delta = last["choices"][0]["delta"]
    assert delta["content"] == ""
    check(delta["tool_calls"])
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_openai_client_parses_a_format_and_tools(client):
    class Point(pydantic.BaseModel):
        x: int
        y: bool

    messages, limit = ASK["messages"], {"max_tokens": 120, "temperature": 1.0, "seed": 3}
    parsed = client.chat.completions.parse(model="tiny", messages=messages, response_format=Point, **limit)
    assert isinstance(parsed.choices[0].message.parsed, Point)
    tool = openai.pydantic_function_tool(Point)
    called = client.chat.completions.parse(
        model="tiny", messages=messages, tools=[tool], tool_choice="required", **limit
    )
    assert isinstance(called.choices[0].message.tool_calls[0].function.parsed_arguments, Point)


def test_earlier_calls_stand_in_the_prompt(url):
    call = {"id": "call_1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "why": "<eos>é"}'}}
    turns = [
        {"role": "user", "content": "go"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "2"},
    ]
    used = {
        name: post(url, messages=given, max_tokens=4, tool_choice="none")["usage"]["prompt_tokens"]
        for name, given in (
            ("with", turns),
            ("without", [turns[0], {**turns[1], "tool_calls": None, "content": ""}, turns[2]]),
        )
    }
    assert used["with"] > used["without"] + 10


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"tool_choice": {"type": "function", "function": {"name": "sub"}}}, "tool_choice", "sub"),
        ({"tool_choice": "always"}, "tool_choice", "none"),
        ({"tools": TOOLS + TOOLS}, "tools", "add"),
        ({"tools": None, "tool_choice": "required"}, "tool_choice", "tools"),
        ({"tool_choice": "required", "max_tokens": 3}, "max_tokens", "at least"),
        ({"tool_choice": "required", "stop": ["x"]}, "stop", "stop"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "f", "parameters": {"what": 1}}}],
                "tool_choice": "required",
            },
            "tools",
            "#/what",
        ),
    ],
)
def test_refusals_say_why(marked, body, param, words):
    error = post(marked, 400, **body)["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_a_call_that_a_limit_cuts_ends_by_length(marked):
    choice = post(marked, tool_choice="required", seed=1, max_nfe=1)["choices"][0]
    if choice["finish_reason"] == "length":
        assert choice["message"]["content"] is None or choice["message"].get("tool_calls") is None
    else:
        check(choice["message"]["tool_calls"])
