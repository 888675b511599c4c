"""livekit-agents' LLM of its OpenAI plugin: a streamed turn with usage, and a barge-in that frees the server."""

import asyncio

from livekit.agents import APIStatusError, llm
from livekit.plugins import openai
from served import KEY, MODEL, V1, num_aborted, raised, require_freed


def turn(text):
    context = llm.ChatContext.empty()
    context.add_message(role="system", content="# statistics")
    context.add_message(role="user", content=text)
    return context


def model(name=MODEL, **options):
    return openai.LLM(model=name, base_url=V1, api_key=KEY, **options)


async def turns():
    async with model(max_completion_tokens=24, temperature=0.5).chat(chat_ctx=turn("def mean(xs):")) as stream:
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.delta.content or "" for chunk in chunks if chunk.delta)
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.completion_tokens > 0
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


async def barge_ins():
    before = num_aborted()
    slow = {"policy": "confidence_order"}
    async with model(max_completion_tokens=200, extra_body=slow).chat(chat_ctx=turn("x = [")) as stream:
        async for chunk in stream:
            if chunk.delta and chunk.delta.content:
                break
    await asyncio.to_thread(require_freed, before)


async def nobodys_turn():
    async with model("nobody").chat(chat_ctx=turn("x")) as stream:
        async for _ in stream:
            pass


def errors():
    error = raised(APIStatusError, lambda: asyncio.run(nobodys_turn()))
    assert error.status_code == 404
    assert not error.retryable


asyncio.run(turns())
asyncio.run(barge_ins())
errors()
