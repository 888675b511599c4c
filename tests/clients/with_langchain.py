"""langchain-openai: chats and completions, whole, as streams, in batches, with asyncio."""

import asyncio

import openai
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI, OpenAI
from served import KEY, MODEL, V1, raised

common = {"base_url": V1, "api_key": KEY, "model": MODEL, "max_tokens": 16, "max_retries": 0}
MESSAGES = [SystemMessage("# statistics"), HumanMessage("def mean(xs):")]


def chats():
    model = ChatOpenAI(**common, seed=3, temperature=0.5, stream_usage=True)
    answer = model.invoke(MESSAGES)
    assert answer.content
    assert answer.usage_metadata["total_tokens"] > 0
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    assert model.invoke(MESSAGES).content == answer.content
    pieces = list(model.stream(MESSAGES))
    assert "".join(piece.content for piece in pieces) == answer.content
    assert any(piece.usage_metadata for piece in pieces)
    assert [each.content for each in model.batch([MESSAGES, MESSAGES])] == [answer.content] * 2
    assert asyncio.run(model.ainvoke(MESSAGES)).content == answer.content


def completions():
    model = OpenAI(**common, seed=3)
    text = model.invoke("def mean(xs):")
    assert text
    assert "".join(model.stream("def mean(xs):")) == text


def errors():
    error = raised(openai.NotFoundError, ChatOpenAI(**common | {"model": "nobody"}).invoke, input=MESSAGES)
    assert error.code == "model_not_found"


for check in (chats, completions, errors):
    check()
