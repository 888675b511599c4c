"""litellm: the server as ``openai/``, ``inception/`` and, for fill-in-the-middle, ``text-completion-inception/``."""

import os

from served import CHAT, KEY, MODEL, PREFIX, SUFFIX, V1, raised

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

common = {"api_base": V1, "api_key": KEY, "num_retries": 0}


def chats(provider):
    sent = {**common, "model": f"{provider}/{MODEL}", "messages": CHAT, "max_tokens": 16}
    answer = litellm.completion(**sent, temperature=0.75)
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    chunks = list(litellm.completion(**sent, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert any(getattr(chunk, "usage", None) for chunk in chunks)


def seeds():
    sent = {**common, "model": f"openai/{MODEL}", "messages": CHAT, "max_tokens": 16, "temperature": 1.0}
    first, second = (litellm.completion(**sent, seed=5).choices[0].message.content for _ in range(2))
    assert first == second


def completions():
    answer = litellm.text_completion(**common, model=f"text-completion-openai/{MODEL}", prompt="x = ", max_tokens=8)
    assert answer.choices[0].text


def fills():
    sent = {"api_base": f"{V1}/fim", "api_key": KEY, "model": f"text-completion-inception/{MODEL}"}
    answer = litellm.text_completion(**sent, prompt=PREFIX, suffix=SUFFIX, max_tokens=16)
    assert answer.choices[0].text


def errors():
    error = raised(litellm.NotFoundError, litellm.completion, **common, model="openai/nobody", messages=CHAT)
    assert "nobody" in str(error)
    long = [{"role": "user", "content": "x = 1\n" * 5000}]
    raised(litellm.ContextWindowExceededError, litellm.completion, **common, model=f"openai/{MODEL}", messages=long)


chats("openai")
chats("inception")
for check in (seeds, completions, fills, errors):
    check()
