"""Answers under a constraint, by every route that takes one."""

import json
import re

import jsonschema
import pytest

from tests.serving import events

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 5}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
AS_PERSON = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
MESSAGES = [{"role": "user", "content": "a person"}]


def post(client, route, status=200, **body):
    response = client.post(route, json=body)
    assert response.status_code == status, response.text
    return response.json()


def text_of(choice):
    return choice["message"]["content"] if "message" in choice else choice["text"]


def counted(client, outcome):
    found = re.search(rf'quicksilver_constraints_total{{outcome="{outcome}"}} (\S+)', client.get("/metrics").text)
    return float(found.group(1)) if found else 0.0


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
@pytest.mark.parametrize(
    ("route", "prompt"),
    [
        ("/v1/chat/completions", {"messages": MESSAGES}),
        ("/v1/completions", {"prompt": "x = "}),
        ("/v1/fim/completions", {"prompt": "x = ", "suffix": ""}),
    ],
)
def test_answers_are_valid_json_of_the_schema(client, route, prompt, temperature):
    body = post(client, route, **prompt, max_tokens=60, response_format=AS_PERSON, temperature=temperature, seed=3)
    choice = body["choices"][0]
    jsonschema.validate(json.loads(text_of(choice)), PERSON)
    assert choice["finish_reason"] == "stop"


def test_json_mode_gives_an_object(client):
    choice = post(
        client,
        "/v1/chat/completions",
        messages=MESSAGES,
        response_format={"type": "json_object"},
        temperature=1.0,
        seed=4,
        max_tokens=40,
    )["choices"][0]
    assert isinstance(json.loads(text_of(choice)), dict)
    assert choice["finish_reason"] == "stop"


def test_plain_text_is_no_constraint(client):
    plain = post(client, "/v1/completions", prompt="def ", max_tokens=8, seed=1, response_format={"type": "text"})
    assert plain["choices"] == post(client, "/v1/completions", prompt="def ", max_tokens=8, seed=1)["choices"]


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/fim/completions"])
def test_expressions_and_choices(client, route):
    hole = {"prompt": "x = ", "suffix": "\ny = 1\n"}
    text = post(client, route, **hole, regex=r"[a-c]{2,5}\(\)", temperature=1.0, seed=2)["choices"][0]["text"]
    assert re.fullmatch(r"[a-c]{2,5}\(\)", text)
    gbnf = 'root ::= "[" item ("," item)* "]"\nitem ::= [0-9]{1,3}'
    text = post(client, route, **hole, grammar=gbnf, temperature=1.0, seed=2, max_tokens=30)["choices"][0]["text"]
    assert re.fullmatch(r"\[[0-9]{1,3}(,[0-9]{1,3})*\]", text)
    lark = 'start: "a" b\nb: "b" | "(" b ")"'
    text = post(client, route, **hole, grammar=lark, grammar_syntax="lark", seed=3, max_tokens=20)["choices"][0]["text"]
    assert re.fullmatch(r"a\(*b\)*", text)
    options = ["median", "mean", "sum"]
    assert post(client, route, **hole, choice=options, seed=2)["choices"][0]["text"] in options


def test_a_stream_appends_to_the_same_valid_text(client):
    body = {"messages": MESSAGES, "response_format": AS_PERSON, "max_tokens": 60, "seed": 5, "temperature": 0.7}
    chunks = [
        json.loads(data) for data in events(client.post("/v1/chat/completions", json=body | {"stream": True}))[:-1]
    ]
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert text == post(client, "/v1/chat/completions", **body)["choices"][0]["message"]["content"]
    jsonschema.validate(json.loads(text), PERSON)


def test_holes_have_constraints_of_their_own_or_the_common_one(client):
    template = "for <FILL> in range(<FILL>):\n    print(<FILL>)\n"
    holes = [{"type": "identifier"}, {"type": "integer"}, {}]
    body = post(client, "/v1/infill", template=template, holes=holes, regex="[xyz]+", temperature=1.0, seed=6)
    name, count, rest = (hole["text"] for hole in body["holes"])
    assert name.isidentifier()
    assert count.isdecimal()
    assert re.fullmatch("[xyz]+", rest)
    assert body["finish_reason"] == "stop"


@pytest.mark.parametrize("layout", ["in_place", "psm"])
def test_both_layouts_keep_constraints(client, layout):
    body = post(
        client, "/v1/infill", template="x = <FILL> + <FILL>\n", layout=layout, regex="[0-9]{3}", temperature=1.0
    )
    assert all(re.fullmatch("[0-9]{3}", hole["text"]) for hole in body["holes"])


def test_a_prediction_is_mended_where_it_breaks_the_constraint(client, model):
    length = len(model.tokenizer.encode("aab"))
    body = {"messages": MESSAGES, "prediction": {"type": "content", "content": "aab"}, "regex": "a{1,9}c{1,9}"}
    text = post(client, "/v1/chat/completions", **body, seed=1)["choices"][0]["message"]["content"]
    assert re.fullmatch("a{1,9}c{1,9}", text)
    assert length == 3


REFUSED = [
    ({"regex": "(a", "prompt": "x"}, "regex", "invalid_value", "("),
    ({"regex": r"(a)\1", "prompt": "x"}, "regex", "unsupported_constraint", "1"),
    ({"regex": "a(?!a)a", "prompt": "x"}, "regex", "unsatisfiable_constraint", "no text"),
    ({"regex": "a{30000}", "prompt": "x"}, "regex", "constraint_too_large", "max_states"),
    ({"regex": "a", "choice": ["a"], "prompt": "x"}, "choice", "invalid_value", "contradict"),
    ({"regex": "a", "stop": "b", "prompt": "x"}, "stop", "invalid_value", "stop"),
    ({"regex": "a{5}", "max_tokens": 2, "prompt": "x"}, "max_tokens", "invalid_value", "at least"),
    ({"grammar": "root ::= thing", "prompt": "x"}, "grammar", "invalid_value", "thing"),
    ({"choice": [], "prompt": "x"}, "choice", "invalid_value", "choice"),
    ({"response_format": {"type": "json_schema"}, "prompt": "x"}, "response_format", "invalid_value", "json_schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}, "prompt": "x"},
        "response_format",
        "invalid_value",
        "objekt",
    ),
    (
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"schema": {"properties": {"tags": {"type": "array", "uniqueItems": True}}}},
            },
            "prompt": "x",
        },
        "response_format",
        "unsupported_constraint",
        "#/properties/tags/uniqueItems",
    ),
]


@pytest.mark.parametrize(("body", "param", "code", "words"), REFUSED)
def test_refusals_name_field_reason_and_place(client, body, param, code, words):
    error = post(client, "/v1/completions", 400, **body)["error"]
    assert (error["param"], error["code"]) == (param, code)
    assert words in error["message"]


def test_a_hole_that_is_too_short_is_refused(client):
    error = post(client, "/v1/infill", 400, template="<FILL>", holes=[{"length": 1, "regex": "a{9}"}])["error"]
    assert "no text of 1 tokens" in error["message"]


def test_a_constraint_is_compiled_once(client):
    compiled, known = counted(client, "compiled"), counted(client, "known")
    for seed in range(3):
        post(client, "/v1/completions", prompt="x", regex="only here [0-9]", max_tokens=30, seed=seed)
    assert (counted(client, "compiled") - compiled, counted(client, "known") - known) == (1, 2)
    refused = counted(client, "refused")
    for _ in range(2):
        post(client, "/v1/completions", 400, prompt="x", regex="(?!x)x")
    assert counted(client, "refused") - refused == 2


def test_the_list_of_models_says_so(client):
    served = client.get("/v1/models").json()["data"][0]
    assert {"json_mode", "structured_outputs"} <= set(served["supported_features"])
    assert {"regex", "grammar", "choice", "response_format"} <= set(served["supported_sampling_parameters"])


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_budget_that_a_refusal_names_is_enough_and_nothing_is_cut(client, temperature):
    body = {"prompt": "x = ", "response_format": AS_PERSON, "temperature": temperature, "seed": 7}
    message = post(client, "/v1/completions", 400, **body, max_tokens=1)["error"]["message"]
    least = int(re.search(r"at least (\d+) tokens", message).group(1))
    post(client, "/v1/completions", 400, **body, max_tokens=least - 1)
    for budget in (least, least + 1, least + 5):
        choice = post(client, "/v1/completions", **body, max_tokens=budget)["choices"][0]
        jsonschema.validate(json.loads(choice["text"]), PERSON)
        assert choice["finish_reason"] == "stop"
