"""``/v1/decisions`` in both dialects and ``/v1/systemone``, against ``Model.decide`` and openai's own client."""

import json

import openai
import pytest

from quicksilver.server.app import create_app
from tests.serving import listening

STATE = "def mean(xs):\n    return total / len(xs)\n"
QUESTIONS = {
    "divides": {"type": "noul", "instructions": "Does it divide?", "criteria": {"true": "by a length", "false": None}},
    "kind": {"type": "choice", "instructions": "What is it?", "criteria": {"mean": "the average", "sum": None}},
    "speed": {"type": "score", "instructions": ["How", "fast?"], "criteria": ["slow", {"ms": 5}, "fast"]},
}


def ask(client, status=200, route="/v1/decisions", **body):
    response = client.post(route, json=body)
    assert response.status_code == status, response.text
    return response.json()


@pytest.mark.parametrize("route", ["/v1/decisions", "/v1/systemone"])
def test_questions_about_a_state_are_answered_by_name(client, reference, route):
    body = ask(client, route=route, state=STATE, questions=QUESTIONS)
    answers = body["answers"]
    assert list(answers) == list(QUESTIONS)

    asked = f"{STATE}\n\n# Does it divide?\n# True: by a length\nanswer = "
    assert answers["divides"] == {
        "type": "noul",
        "noul": pytest.approx(reference.decide(asked, "\n", ["True", "False"]).probabilities[0]),
    }
    asked = f'{STATE}\n\n# What is it?\n# mean: the average\nanswer = "'
    found = reference.decide(asked, '"\n', ["mean", "sum"])
    assert answers["kind"] == {
        "type": "choice",
        "choice": found.label,
        "confidence": pytest.approx(found.confidence),
        "probabilities": {"mean": pytest.approx(found.probabilities[0]), "sum": pytest.approx(found.probabilities[1])},
    }
    asked = f'{STATE}\n\n# ["How", "fast?"]\n# 0: slow\n# 1: {{"ms": 5}}\n# 2: fast\nanswer = '
    odds = reference.decide(asked, "\n", ["0", "1", "2"]).probabilities
    speed = answers["speed"]
    assert speed["score"] == pytest.approx(odds[1] + 2 * odds[2])
    assert speed["legend"] == {"0": "slow", "1": {"ms": 5}, "2": "fast"}
    assert list(speed["probabilities"].values()) == pytest.approx(list(odds))
    assert body["usage"]["input_tokens"] > 3 * len(reference.tokenizer.encode(STATE))
    assert body["usage"]["output_tokens"] == 0


def test_a_mark_is_a_place_of_the_state(client, reference):
    state = "x = 1\n" * 100 + "def mean(xs):\n    return total ?? len(xs)\n"
    question = {"type": "choice", "mark": "??", "criteria": {"/": None, "*": None}}
    answer = ask(client, state=state, questions={"op": question})["answers"]["op"]
    found = reference.decide(*state.split("??"), ["/", "*"])
    assert answer["choice"] == found.label
    assert answer["probabilities"]["/"] == pytest.approx(found.probabilities[0])


def test_openai_client_reads_all_kinds_of_answers(app, reference):
    messages = [
        {"role": "user", "content": [{"type": "input_text", "text": "I"}, {"type": "input_json", "data": {}}]},
        {"role": "assistant", "content": "w"},
        {"type": "function_call", "name": "f"},
    ]
    questions = [
        {"type": "predicate", "name": "first", "instructions": "Is it?"},
        {
            "type": "choice",
            "instructions": "Which?",
            "choices": [{"value": True, "description": "yes"}, {"value": "no"}],
        },
        {
            "type": "score",
            "instructions": "How?",
            "levels": [{"label": "low"}, {"label": "high", "description": "much"}],
        },
    ]
    with (
        listening(app) as url,
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        found = client.decisions.create(model="gpt-4o", input=messages, questions=questions)
    first, which, how = found.answers
    told = "user: I\n{}\nassistant: w\n" + json.dumps(messages[2])
    odds = reference.decide(f"{told}\n\n# Is it?\nanswer = ", "\n", ["True", "False"]).probabilities
    assert (first.type, first.name) == ("predicate", "first")
    assert first.probability == pytest.approx(odds[0])
    found_which = reference.decide(f'{told}\n\n# Which?\n# True: yes\nanswer = "', '"\n', ["True", "no"])
    assert [each.value for each in which.probabilities] == [True, "no"]
    assert which.choice == (True if found_which.label == "True" else "no")
    odds = reference.decide(f"{told}\n\n# How?\n# 0: low\n# 1: high, much\nanswer = ", "\n", ["0", "1"]).probabilities
    assert how.score == pytest.approx(odds[1])
    assert [(each.label, each.value) for each in how.probabilities] == [("low", 0), ("high", 1)]
    assert found.usage.total_tokens == found.usage.input_tokens > 0


CHOICE = {"type": "choice", "criteria": {"a": None, "b": None}}
PREDICATE = {"type": "predicate", "instructions": "x"}
REFUSED = [
    ({"questions": {"q": CHOICE}}, None, "give one of them"),
    ({"state": "x", "input": "x", "questions": {"q": CHOICE}}, None, "give one of them"),
    ({"state": "x", "questions": [PREDICATE]}, None, "by name"),
    ({"input": "x", "questions": {"q": CHOICE}}, None, "a list"),
    ({"state": "x", "questions": {}}, "questions", "at least 1"),
    ({"state": "x", "questions": {"q": {"type": "choice", "criteria": {}}}}, "questions", "at least 1"),
    ({"state": "x", "questions": {"q": {"type": "guess"}}}, "questions", "noul"),
    ({"state": "x", "questions": {"q": CHOICE | {"mark": "??"}}}, "questions", "0 times"),
    ({"state": "? ?", "questions": {"q": CHOICE | {"mark": "?"}}}, "questions", "2 times"),
    ({"state": "?", "questions": {"q": CHOICE | {"mark": "?", "instructions": "x"}}}, "questions", "ignored"),
    ({"state": "x = 1\n" * 200, "questions": {"q": CHOICE}}, "state", "context"),
    ({"input": [{"role": "user", "content": [{"type": "input_image"}]}], "questions": [PREDICATE]}, "input", "images"),
    ({"state": "x", "model": "other", "questions": {"q": CHOICE}}, "model", "no model"),
]


@pytest.mark.parametrize(("body", "param", "words"), REFUSED)
def test_refusals_name_field_and_reason(client, body, param, words):
    error = ask(client, 404 if body.get("model") else 400, **body)["error"]
    assert error["param"] == param
    assert words in error["message"]


def test_decisions_are_billed_as_input(client, model):
    class Gate:
        def __init__(self):
            self.asked, self.settled, self.released = [], [], 0

        async def admit(self, request, *, model, num_input, max_output):
            self.asked.append((num_input, max_output))
            return self

        async def settle(self, usages, finish_reason):
            self.settled += usages

        def release(self):
            self.released += 1

        async def check(self, request):
            pass

    gate = Gate()
    app = create_app(model, gate=gate)
    import httpx

    with listening(app) as url, httpx.Client(base_url=url, timeout=30) as paying:
        used = ask(paying, state=STATE, questions=QUESTIONS)["usage"]["input_tokens"]
        ask(paying, 400, state="x = 1\n" * 200, questions={"q": CHOICE})
    [usage] = gate.settled
    assert (usage.num_prompt, usage.num_written, usage.nfe) == (used, 0, 3)
    assert gate.asked[0][1] == 0
    assert gate.released == 1
