"""openai: models, completions and chats with all that the server supports, error classes, hang-up."""

import asyncio

import openai
from served import CHAT, KEY, MODEL, PREFIX, SUFFIX, V1, num_aborted, raised, require_freed

client = openai.OpenAI(base_url=V1, api_key=KEY, max_retries=0)


def models():
    names = [model.id for model in client.models.list()]
    assert names == [MODEL, "gpt-4o", "mercury-coder"], names
    assert client.models.retrieve("gpt-4o").owned_by == "quicksilver"


def chats():
    sent = {"model": MODEL, "messages": CHAT, "max_tokens": 24, "seed": 7, "temperature": 0.8}
    answer = client.chat.completions.create(**sent, n=2, logprobs=True, stop=["\n\n"], user="u", metadata={"a": "b"})
    assert answer._request_id
    first, second = answer.choices
    assert first.message.role == "assistant"
    assert first.message.content != second.message.content
    assert first.finish_reason in ("stop", "length")
    assert len(first.logprobs.content) > 0
    assert all(token.logprob <= 0 and bytes(token.bytes) for token in first.logprobs.content)
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0
    named = client.chat.completions.create(**sent, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert all(len(token.top_logprobs) == 3 and bytes(token.top_logprobs[0].bytes) for token in named)
    assert all(token.top_logprobs[0].logprob >= token.logprob for token in named)
    alone = client.chat.completions.create(**sent, stop=["\n\n"])
    assert alone.choices[0].message.content == first.message.content
    chunks = list(
        client.chat.completions.create(**sent, stop=["\n\n"], stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == first.message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == first.finish_reason
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == alone.usage.completion_tokens


def stream_helper():
    with client.chat.completions.stream(model=MODEL, messages=CHAT, max_tokens=16, seed=1) as stream:
        events = {event.type: event for event in stream}
    assert {"chunk", "content.delta"} <= events.keys(), events.keys()
    assert events["content.done"].content == events["content.delta"].snapshot


def predictions():
    draft = "def mean(xs):\n    return sum(xs) / len(xs)\n"
    answer = client.chat.completions.create(
        model=MODEL, messages=CHAT, prediction={"type": "content", "content": draft}, seed=1
    )
    details = answer.usage.completion_tokens_details
    assert details.accepted_prediction_tokens + details.rejected_prediction_tokens > 0


def completions():
    filled = client.completions.create(model=MODEL, prompt=PREFIX, suffix=SUFFIX, max_tokens=16, seed=1, temperature=0)
    assert filled.choices[0].text
    assert filled.choices[0].finish_reason == "stop"
    streamed = client.completions.create(
        model=MODEL, prompt=PREFIX, suffix=SUFFIX, max_tokens=16, seed=1, temperature=0, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in streamed) == filled.choices[0].text
    scored = client.completions.create(model=MODEL, prompt=PREFIX, max_tokens=1, echo=True, logprobs=1, seed=1)
    logprobs = scored.choices[0].logprobs
    assert scored.choices[0].text.startswith(PREFIX)
    assert logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in logprobs.token_logprobs[1:])
    assert "".join(logprobs.tokens) == scored.choices[0].text
    named = client.completions.create(model=MODEL, prompt=PREFIX, max_tokens=8, logprobs=4, seed=1).choices[0].logprobs
    assert all(token in top and 4 <= len(top) <= 5 for token, top in zip(named.tokens, named.top_logprobs, strict=True))
    several = client.completions.create(model=MODEL, prompt=["x = ", "y = "], max_tokens=4, n=2, seed=1)
    assert [choice.index for choice in several.choices] == [0, 1, 2, 3]
    ours = client.completions.create(
        model=MODEL, prompt="x = ", max_tokens=8, extra_body={"policy": "entropy_bound", "return_trace": True}
    )
    assert ours.choices[0].trace
    assert ours.usage.nfe > 0


def frames():
    chunks = list(
        client.chat.completions.create(
            model=MODEL, messages=CHAT, max_tokens=16, seed=1, stream=True, extra_body={"diffusing": True}
        )
    )
    shown = [chunk for chunk in chunks if getattr(chunk, "diffusion_meta", None)]
    assert len(shown) > 1
    assert shown[-1].diffusion_meta["diffusion_progress"] == 1
    whole = client.chat.completions.create(model=MODEL, messages=CHAT, max_tokens=16, seed=1)
    assert shown[-1].choices[0].delta.content == whole.choices[0].message.content


def refused(kind, param, code, call, **sent):
    error = raised(kind, call, **sent)
    assert error.param == param, (error.param, sent)
    assert error.code == code, (error.code, sent)
    assert error.request_id


def errors():
    chat = client.chat.completions.create
    complete = client.completions.create
    refused(openai.NotFoundError, "model", "model_not_found", chat, model="nobody", messages=CHAT)
    refused(openai.BadRequestError, "temperature", "invalid_value", chat, model=MODEL, messages=CHAT, temperature=9)
    refused(
        openai.BadRequestError,
        "response_format",
        "unsupported_parameter",
        chat,
        model=MODEL,
        messages=CHAT,
        response_format={"type": "json_object"},
    )
    refused(openai.BadRequestError, "prompt", "context_length_exceeded", complete, model=MODEL, prompt="x = 1\n" * 5000)
    refused(openai.BadRequestError, "best_of", "unsupported_parameter", complete, model=MODEL, prompt="x", best_of=3)


def hang_ups():
    before = num_aborted()
    stream = client.completions.create(
        model=MODEL, prompt="x = [", max_tokens=200, stream=True, extra_body={"policy": "confidence_order"}
    )
    next(iter(stream))
    stream.close()
    require_freed(before)


async def at_once():
    async with openai.AsyncOpenAI(base_url=V1, api_key=KEY) as several:
        asked = [
            several.completions.create(model=MODEL, prompt="def f", max_tokens=8, seed=seed, temperature=1.0)
            for seed in (1, 2, 1)
        ]
        first, second, third = [answer.choices[0].text for answer in await asyncio.gather(*asked)]
    assert first == third != second


for check in (models, chats, stream_helper, predictions, completions, frames, errors, hang_ups):
    check()
asyncio.run(at_once())
