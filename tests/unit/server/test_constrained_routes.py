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


@pytest.mark.parametrize("route", ["/v1/completions", "/v1/chat/completions", "/v1/fim/completions", "/v1/infill"])
def test_stop_texts_do_not_stand_in_a_constrained_answer(client, route):
    asked = {
        "/v1/completions": {"prompt": "x = "},
        "/v1/chat/completions": {"messages": MESSAGES},
        "/v1/fim/completions": {"prompt": "x = ", "suffix": "\n"},
        "/v1/infill": {"template": "x = <FILL>\n"},
    }[route]
    limits = {} if route == "/v1/infill" else {"max_tokens": 12}
    body = post(client, route, **asked, **limits, regex="[ab]{2,6}", stop=["bb"], temperature=1.0, seed=3)
    found = body["holes"][0]["text"] if route == "/v1/infill" else text_of(body["choices"][0])
    assert re.fullmatch("[ab]{2,6}", found)
    assert "bb" not in found


def test_stop_beside_holes_of_which_some_are_free_is_refused(client):
    holes = [{"regex": "a+"}, {}]
    error = post(client, "/v1/infill", 400, template="x = <FILL> + <FILL>\n", holes=holes, stop="b")["error"]
    assert error["param"] == "stop"


REFUSED = [
    ({"regex": "(a", "prompt": "x"}, "regex", "invalid_value", "("),
    ({"regex": r"(a)\1", "prompt": "x"}, "regex", "unsupported_constraint", "1"),
    ({"regex": "a(?!a)a", "prompt": "x"}, "regex", "unsatisfiable_constraint", "no text"),
    ({"regex": "a{30000}", "prompt": "x"}, "regex", "constraint_too_large", "max_states"),
    ({"regex": "a", "choice": ["a"], "prompt": "x"}, "choice", "invalid_value", "contradict"),
    ({"regex": "a+b", "stop": "b", "prompt": "x"}, "regex", "unsatisfiable_constraint", "no text"),
    ({"regex": "a+b", "banned_strings": ["b"], "prompt": "x"}, "regex", "unsatisfiable_constraint", "no text"),
    ({"required_strings": ["ab"], "banned_strings": ["b"], "prompt": "x"}, "required_strings", "invalid_value", "'b'"),
    ({"banned_strings": [""], "prompt": "x"}, "banned_strings", "invalid_value", "at least 1"),
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
    assert re.search(r"hole 0 needs at least \d tokens, length is 1", error["message"])
    assert error["param"] == "holes"
    error = post(client, "/v1/infill", 400, template="<FILL>", holes=[{"length": 4, "choice": ["a"]}])["error"]
    assert "no text of 4 tokens" in error["message"]


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


POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 9}, "y": {"type": "boolean"}},
    "required": ["x"],
    "additionalProperties": False,
}
AS_POINT = {"type": "json_schema", "json_schema": {"name": "point", "schema": POINT, "strict": True}}
# The hole of /v1/fim/completions has at most 12 tokens in this checkpoint.
ASKED = {
    "/v1/completions": {"prompt": "x = ", "max_tokens": 40},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 40},
    "/v1/fim/completions": {"prompt": "x = ", "suffix": "\n"},
}


def streamed(client, route, **body):
    """The pieces of the text, and the reasons that were told with them."""
    response = client.post(route, json=body | {"stream": True})
    assert response.status_code == 200, response.text
    *told, end = events(response)
    assert end == "[DONE]"
    choices = [choice for data in told for choice in json.loads(data)["choices"]]
    pieces = [choice["delta"].get("content") or "" if "delta" in choice else choice["text"] for choice in choices]
    return pieces, [choice["finish_reason"] for choice in choices]


@pytest.mark.parametrize("revision", ["none", "edit", "remask", "remdm_cap", "remdm_rescale", "remdm_conf"])
@pytest.mark.parametrize("route", ASKED)
def test_streams_are_valid_json_and_end_with_stop_whatever_is_revised(client, route, revision):
    for seed, temperature in ((1, 0.0), (2, 0.7), (3, 1.0)):
        body = ASKED[route] | {"response_format": AS_POINT, "seed": seed, "temperature": temperature}
        pieces, reasons = streamed(client, route, **body, revision=revision)
        jsonschema.validate(json.loads("".join(pieces)), POINT)
        assert reasons == [None] * (len(reasons) - 1) + ["stop"]
        [choice] = post(client, route, **body, revision=revision)["choices"]
        assert (text_of(choice), choice["finish_reason"]) == ("".join(pieces), "stop")


@pytest.mark.parametrize("revision", ["edit", "remask", "remdm_conf"])
def test_holes_keep_their_constraints_through_revisions_and_their_events_say_what_stands(client, revision):
    body = {"template": "x = <FILL> + <FILL>\n", "regex": "[0-9]{2,4}", "temperature": 1.0, "revision": revision}
    for seed in range(4):
        response = client.post("/v1/infill", json=body | {"seed": seed, "stream": True})
        told = [json.loads(data) for data in events(response)[:-1]]
        answer = told[-1]["response"]
        assert (told[-1]["type"], answer["finish_reason"]) == ("done", "stop")
        assert all(re.fullmatch("[0-9]{2,4}", hole["text"]) for hole in answer["holes"])
        # A committed token is never taken back.
        final = set()
        for event in told[:-1]:
            places = {(event.get("hole"), at) for at in range(event.get("start", 0), event.get("stop", 0))}
            if event["type"] in ("edit", "remask"):
                assert not places & final
            elif event["type"] == "commit":
                final |= places
            elif event["type"] == "resize":
                moved = (event["hole"], event["start"], event["added"])
                final = {(hole, at + moved[2] * ((hole, at) >= moved[:2] and hole == moved[0])) for hole, at in final}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("route", "limit"),
    [*((route, "max_tokens") for route in ASKED), ("/v1/chat/completions", "max_completion_tokens")],
)
def test_a_budget_that_is_too_small_is_refused_with_the_tokens_it_needs(client, route, stream, limit):
    body = {name: value for name, value in ASKED[route].items() if name != "max_tokens"}
    body |= {"response_format": AS_POINT, "temperature": 1.0, "seed": 4, "stream": stream}
    error = post(client, route, 400, **body, **{limit: 1})["error"]
    assert (error["param"], error["code"]) == (limit, "invalid_value")
    least = int(re.search(r"needs at least (\d+) tokens", error["message"]).group(1))
    assert post(client, route, 400, **body, **{limit: least - 1})["error"]["param"] == limit
    for budget in (least, least + 1, least + 3):
        pieces, reasons = streamed(client, route, **body, **{limit: budget})
        jsonschema.validate(json.loads("".join(pieces)), POINT)
        assert reasons[-1] == "stop"


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
