"""inceptionai, with nothing but INCEPTION_BASE_URL set: chats, fill-in-the-middle, next edits, model lists, errors."""

import os

from served import CHAT, KEY, PREFIX, ROOT, SUFFIX, num_aborted, raised, require_freed

os.environ |= {"INCEPTION_BASE_URL": ROOT, "INCEPTION_API_KEY": KEY}

import inceptionai

MODEL = "mercury-coder"
client = inceptionai.Inception(max_retries=0)
EDIT = """<|recently_viewed_code_snippets|>
<|/recently_viewed_code_snippets|>

<|current_file_content|>
current_file_path: b.py
import math

<|code_to_edit|>
def area(r<|cursor|>):
    return math.pi * r * r
<|/code_to_edit|>

<|/current_file_content|>

<|edit_diff_history|>
<|/edit_diff_history|>
"""


def lists():
    models = client.models
    for ask in (models.list, models.list_chat, models.list_fim, models.list_edit):
        found = ask().data
        assert MODEL in [model.id for model in found]
        assert found[0].context_length > 0
        assert found[0].pricing.prompt == "0"


def chats():
    answer = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=24, temperature=0.75)
    assert answer.choices[0].message.content
    assert answer.usage.reasoning_tokens == 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    effort = client.chat.completions.create(
        model=MODEL, messages=CHAT, max_completion_tokens=16, reasoning_effort="instant", extra_body={"realtime": True}
    )
    assert effort.choices[0].finish_reason in ("stop", "length")
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=CHAT, max_tokens=16, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert chunks[-1].usage["completion_tokens"] > 0


def fills():
    sent = {"model": MODEL, "prompt": PREFIX, "suffix": SUFFIX, "max_tokens": 16}
    answer = client.fim.completions.create(**sent)
    assert answer.object == "text_completion"
    assert answer.choices[0].text
    streamed = client.fim.completions.create(**sent, stream=True)
    assert "".join(chunk.choices[0].text or "" for chunk in streamed)


def edits():
    answer = client.edit.completions.create(model=MODEL, messages=[{"role": "user", "content": EDIT}])
    assert answer.id.startswith("cmpl-")
    content = answer.choices[0].message.content
    assert content.startswith("```\n")
    assert content.endswith("\n```")


def errors():
    error = raised(inceptionai.NotFoundError, client.chat.completions.create, model="nobody", messages=CHAT)
    assert error.body["error"]["code"] == "model_not_found"


def hang_ups():
    before = num_aborted()
    stream = client.fim.completions.create(
        model=MODEL, prompt="x = [", max_tokens=200, stream=True, extra_body={"policy": "confidence_order"}
    )
    next(iter(stream))
    stream.close()
    require_freed(before)


for check in (lists, chats, fills, edits, errors, hang_ups):
    check()
