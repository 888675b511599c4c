"""Guidance by every route that writes: what the library writes with the same options, alone and among others."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import quicksilver
from quicksilver.api import DecodingOptions, GenerateRequest, HoleOptions, InfillRequest, split_template
from quicksilver.client import Client, RequestOptions
from quicksilver.server.app import create_app
from tests.serving import events, listening, wait_until

SAMPLED = {"seed": 3, "temperature": 1.0}
GUIDED = [
    {"guidance": 4.0},
    {"guidance": 6.0, "cfg_until": 0.5},
    {"guidance": 6.0, "negative_prompt": "class Mean:"},
]
TEMPLATE = "def mean(<FILL>):\n    return <FILL>\n"
MESSAGES = [{"role": "user", "content": "def mean("}]
BODIES = {
    "/v1/completions": {"prompt": "def mean(", "max_tokens": 16},
    "/v1/chat/completions": {"messages": MESSAGES, "max_tokens": 16},
    "/v1/fim/completions": {"prompt": "def mean(", "suffix": "):\n    pass\n", "max_tokens": 12},
    "/v1/infill": {"template": TEMPLATE, "holes": [{"length": 5}, {"length": 6}]},
}


def as_request(route, template, **options):
    """The request that a route makes of its body."""
    options, body = DecodingOptions(**options), BODIES[route]
    match route:
        case "/v1/completions":
            return GenerateRequest(prompt=body["prompt"], max_tokens=body["max_tokens"], options=options)
        case "/v1/chat/completions":
            ids = template.encode(MESSAGES, [])
            return GenerateRequest(prompt_ids=ids, max_tokens=body["max_tokens"], options=options)
        case "/v1/fim/completions":
            texts = (body["prompt"], body["suffix"])
            return InfillRequest(texts=texts, max_hole_length=body["max_tokens"], options=options)
        case _:
            holes = tuple(HoleOptions(**hole) for hole in body["holes"])
            return InfillRequest(texts=split_template(TEMPLATE), holes=holes, options=options)


def post(client, route, status=200, **more):
    response = client.post(route, json=BODIES[route] | more)
    assert response.status_code == status, response.text
    return response.json()


def written(body):
    if "holes" in body:
        return [hole["text"] for hole in body["holes"]]
    [choice] = body["choices"]
    return [choice["message"]["content"] if "message" in choice else choice["text"]]


@pytest.mark.parametrize("guided", GUIDED, ids=lambda guided: "+".join(guided))
@pytest.mark.parametrize("route", BODIES)
def test_guided_answers_are_the_librarys_and_others_than_without(client, reference, app, route, guided):
    body = post(client, route, **SAMPLED, **guided)
    expected = reference.run(as_request(route, app.state.service.template, **SAMPLED, **guided))
    assert written(body) == [hole.text for hole in expected.holes]
    assert body["usage"]["nfe"] == expected.nfe
    assert written(body) != written(post(client, route, **SAMPLED))


@pytest.mark.parametrize("route", [route for route in BODIES if route != "/v1/infill"])
def test_a_guided_stream_appends_to_the_same_text(client, route):
    body = BODIES[route] | SAMPLED | GUIDED[1]
    chunks = [json.loads(data) for data in events(client.post(route, json=body | {"stream": True}))[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    texts = [choice["delta"].get("content") if "delta" in choice else choice["text"] for choice in choices]
    assert ["".join(text or "" for text in texts)] == written(post(client, route, **SAMPLED, **GUIDED[1]))


@pytest.mark.parametrize(
    ("options", "param", "words"),
    [
        ({"guidance": -1.0}, "guidance", "greater than or equal to 0"),
        ({"guidance": 21.0}, "guidance", "less than or equal to 20"),
        ({"guidance": "much"}, "guidance", "number"),
        ({"guidance": 1.0, "cfg_until": 0.0}, "cfg_until", "greater than 0"),
        ({"guidance": 1.0, "cfg_until": 1.5}, "cfg_until", "less than or equal to 1"),
        ({"cfg_until": 0.5}, "cfg_until", "give guidance a scale above 0"),
        ({"negative_prompt": "x"}, "negative_prompt", "give guidance a scale above 0"),
        ({"guidance": 0.0, "negative_prompt": "x"}, "negative_prompt", "give guidance a scale above 0"),
        ({"guidance": 1.0, "negative_prompt": ["x"]}, "negative_prompt", "string"),
        ({"classifier": "polite"}, "classifier", "known: typed-python"),
        ({"classifier": "typed-python"}, "classifier", "another tokenizer"),
        ({"classifier_scale": 2.0}, "classifier_scale", "needs a classifier"),
        ({"classifier": "typed-python", "classifier_scale": 21.0}, "classifier_scale", "less than or equal to 20"),
    ],
)
@pytest.mark.parametrize("route", BODIES)
def test_what_cannot_be_is_refused_by_field(client, route, options, param, words):
    error = post(client, route, 400, **options)["error"]
    assert (error["param"], error["code"]) == (param, "invalid_value")
    assert words in error["message"]


def test_guidance_needs_all_rows_and_policies_that_do_not_guess(client):
    error = post(client, "/v1/infill", 400, guidance=1.0, cache="dual")["error"]
    assert (error["param"], "cache exact" in error["message"]) == ("guidance", True)
    error = post(client, "/v1/completions", 400, guidance=1.0, policy="self_speculative")["error"]
    assert (error["param"], "guesses tokens without guidance" in error["message"]) == ("policy", True)


@pytest.mark.parametrize("route", BODIES)
def test_in_a_batch_with_others_a_guided_request_writes_what_it_writes_alone(client, app, model, monkeypatch, route):
    bodies = [SAMPLED | {"seed": 10 + number} | ({} if number % 2 else GUIDED[number // 2]) for number in range(6)]
    alone = [written(post(client, route, **body)) for body in bodies]
    run, mixtures = model.engine.runner.run, []

    def recorded(turns):
        if not mixtures:  # the first forward waits until all others can share the second
            wait_until(lambda: app.state.service.num_open == len(bodies))
        mixtures.append({turn.sequence.params.guidance is not None for turn in turns})
        return run(turns)

    monkeypatch.setattr(model.engine.runner, "run", recorded)
    with ThreadPoolExecutor(len(bodies)) as pool:
        together = [written(each) for each in pool.map(lambda body: post(client, route, **body), bodies)]
    assert together == alone
    assert {True, False} in mixtures


def test_the_client_and_the_list_of_models_know_the_options(client, app, reference):
    served = client.get("/v1/models").json()["data"][0]["supported_sampling_parameters"]
    names = {"guidance", "cfg_until", "negative_prompt", "classifier", "classifier_scale"}
    assert names <= set(served)
    with Client(str(client.base_url)) as asking:
        reply = asking.complete("def mean(", max_tokens=16, options=RequestOptions(**SAMPLED, **GUIDED[2]))
        filled = asking.fill("def mean(", "):\n    pass\n", options=RequestOptions(**SAMPLED, guidance=4.0))
    assert [reply.text] == written(post(client, "/v1/completions", **SAMPLED, **GUIDED[2]))
    request = InfillRequest(texts=("def mean(", "):\n    pass\n"), options=DecodingOptions(**SAMPLED, guidance=4.0))
    assert filled.text == reference.run(request).holes[0].text


def test_the_shipped_classifier_steers_what_is_written():
    model = quicksilver.load(device="cpu")
    prompt, options = "def area(width", {"seed": 1, "temperature": 0.0, "classifier": "typed-python"}
    with listening(create_app(model)) as url, httpx.Client(base_url=url, timeout=60) as client:
        texts = {
            scale: client.post(
                "/v1/completions", json={"prompt": prompt, "max_tokens": 8, "classifier_scale": scale} | options
            ).json()["choices"][0]["text"]
            for scale in (0.0, 8.0)
        }
    asked = DecodingOptions(**options, classifier_scale=8.0)
    assert texts[8.0] == model.run(GenerateRequest(prompt=prompt, max_tokens=8, options=asked)).text
    assert texts[8.0] != texts[0.0]
    assert texts[8.0].count(":") > texts[0.0].count(":")
