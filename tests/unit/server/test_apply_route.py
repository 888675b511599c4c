"""The apply route: the whole merged file, or a reason."""

import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

import quicksilver
from quicksilver.coding.apply import merge
from quicksilver.diffusion.spec import Objective
from quicksilver.server.app import create_app
from quicksilver.server.config import ServerConfig
from tests.serving import events, listening, wait_until
from tests.tiny_checkpoints import save_tiny_checkpoint

FILE = """import os


def first(path):
    name = os.path.basename(path)
    return name.upper()


def second():
    return 2
"""
LAZY = """# ... existing code ...
def first(path):
    # ... existing code ...
    return name.lower()
# ... existing code ...
"""


def apply_prompt(original, snippet):
    return f"<|original_code|>\n{original}\n<|/original_code|>\n\n<|update_snippet|>\n{snippet}\n<|/update_snippet|>"


def ask_apply(client, original, snippet, **body):
    messages = [{"role": "user", "content": apply_prompt(original, snippet)}]
    return client.post("/v1/apply/completions", json={"messages": messages} | body)


def test_an_applied_snippet_is_the_whole_file(client):
    body = ask_apply(client, FILE, LAZY).json()
    assert body["id"].startswith("cmpl-")
    assert body["object"] == "apply.completion"
    assert body["choices"][0]["message"]["content"] == FILE.replace("upper", "lower")
    assert body["choices"][0]["finish_reason"] == "stop"
    usage = body["usage"]
    assert usage["completion_tokens_details"]["accepted_prediction_tokens"] == usage["completion_tokens"] > 0
    assert body["details"] == {"holes": 0, "holes_decided_by_model": 0}


def test_applied_files_may_be_longer_than_the_context(client, model):
    long = FILE + "".join(f"\n\ndef more_{number}():\n    return {number}\n" for number in range(200))
    assert len(model.tokenizer.encode(long)) > model.max_length
    assert ask_apply(client, long, LAZY).json()["choices"][0]["message"]["content"] == long.replace("upper", "lower")


def test_a_streamed_file_is_the_same_file(client):
    response = ask_apply(client, FILE, LAZY, stream=True, stream_options={"include_usage": True})
    told = events(response)
    assert told[-1] == "[DONE]"
    chunks = [json.loads(each) for each in told[:-1]]
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    assert deltas[0]["role"] == "assistant"
    assert "".join(delta.get("content") or "" for delta in deltas) == FILE.replace("upper", "lower")
    assert [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == "stop"
    assert chunks[-1]["usage"]["completion_tokens"] > 0


def test_what_a_snippet_leaves_open_the_likeliest_candidate_fills(client, tmp_path_factory):
    folder = save_tiny_checkpoint(tmp_path_factory.mktemp("ar") / "tiny-ar", Objective.AUTOREGRESSIVE)
    twin = quicksilver.load(folder, device="cpu")
    original = "def f(x):\n    if x > 2:\n        return None\n    if x > 1:\n        return None\n    return x\n"
    snippet = "def f(x):\n    # ...\n        log(x)\n        return None\n    # ...\n"
    merged = merge(original, snippet)

    def likelihood(text):
        ids = twin.tokenizer.encode(text)
        rows = twin.next_token_logprobs(ids)
        return float(rows[range(len(ids)), ids].sum())

    with listening(create_app(twin)) as url, httpx.Client(base_url=url, timeout=30) as ar:
        body = ask_apply(ar, original, snippet).json()
    likeliest = max((merged.resolve([pick]) for pick in range(2)), key=likelihood)
    assert body["choices"][0]["message"]["content"] == likeliest
    assert body["usage"]["nfe"] == 2
    assert body["details"] == {"holes": 1, "holes_decided_by_model": int(likeliest != merged.text)}
    # The diffusion checkpoint of these tests has no next-token reading: the structure's first candidate stays.
    assert ask_apply(client, original, snippet).json()["choices"][0]["message"]["content"] == merged.text


@pytest.mark.parametrize(
    ("prompt", "status", "words"),
    [
        ("hello", 400, "not an apply prompt"),
        (apply_prompt(FILE, "nothing of it\n"), 422, "no line of the snippet"),
        (apply_prompt(FILE, "def first(path):\n    return (\n"), 422, ""),
        (apply_prompt(FILE, ""), 422, "the snippet is empty"),
    ],
)
def test_snippets_that_cannot_be_applied(client, prompt, status, words):
    response = client.post("/v1/apply/completions", json={"messages": [{"role": "user", "content": prompt}]})
    assert response.status_code == status
    assert words in response.json()["error"]["message"]
    assert response.json()["error"]["code"] == ("merge_refused" if status == 422 else "invalid_value")


def test_a_merge_that_takes_too_long_is_refused(model):
    app = create_app(model, ServerConfig(merge_seconds=0.5))
    slow = apply_prompt("a b c\n" * 3000, "a b c\n" * 1000 + "q r\n")
    with listening(app) as url, httpx.Client(base_url=url, timeout=30) as client:
        body = {"messages": [{"role": "user", "content": slow}]}
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(client.post, "/v1/apply/completions", json=body)
            # A shutdown waits for what is open.
            wait_until(lambda: app.state.service.num_open == 1)
            response = asked.result()
        assert app.state.service.num_open == 0
        assert response.status_code == 422
        assert "merge_seconds" in response.json()["error"]["message"]
        # A new process takes the next ones; on a busy machine its start alone may take the half second.
        wait_until(lambda: ask_apply(client, FILE, LAZY).status_code == 200)
