"""The asynchronous model: the same completions as the blocking one, text that is only ever appended."""

import asyncio

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import quicksilver
from quicksilver.api import (
    AsyncModel,
    Commit,
    DecodingOptions,
    Done,
    Draft,
    Edit,
    GenerateRequest,
    HoleOptions,
    InfillLayout,
    InfillRequest,
    Remask,
    Resize,
    SettledText,
)
from quicksilver.api.stopping import cut_at_stop
from quicksilver.errors import ConfigError, EngineError, InputError
from tests.tiny_checkpoints import SOURCE, save_tiny_checkpoint, tiny_tokenizer

REQUESTS = [
    GenerateRequest(prompt="def mean(", max_tokens=24, options=DecodingOptions(seed=1, temperature=1.0)),
    GenerateRequest(prompt="for", max_tokens=16, options=DecodingOptions(seed=2, temperature=1.0, stop=("a", "e"))),
    GenerateRequest(prompt="x", draft="return total", options=DecodingOptions(seed=6)),
    InfillRequest(texts=("def ", "(xs):\n", ""), options=DecodingOptions(seed=3, temperature=1.0)),
    InfillRequest(
        texts=("def ", "(xs):\n", ""),
        layout=InfillLayout.PSM,
        max_hole_length=8,
        options=DecodingOptions(seed=4, temperature=1.0),
    ),
    InfillRequest(
        texts=("def ", "(", "):"),
        holes=(HoleOptions(draft="mean"), HoleOptions(length=2)),
        options=DecodingOptions(seed=5),
    ),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return quicksilver.load(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"), device="cpu")


async def read(serving, request):
    async with await serving.submit(request) as answer:
        events = [event async for event in answer]
    assert isinstance(events[-1], Done)
    return events


def written(completion):
    # Confidences may differ in the last bit, since this engine is not strict.
    tokens = [[(token.token_id, token.step) for token in hole.tokens] for hole in completion.holes]
    return completion.text, tokens, completion.nfe, completion.finish_reason


def test_all_at_once_write_what_each_writes_alone(model):
    async def run():
        async with AsyncModel(model) as serving:
            return await asyncio.gather(*(read(serving, request) for request in REQUESTS))

    answers = asyncio.run(run())
    for events, request in zip(answers, REQUESTS, strict=True):
        assert written(events[-1].completion) == written(model.run(request))


def test_settled_text_is_appended_and_ends_as_the_completion(model):
    async def run():
        async with AsyncModel(model) as serving:
            return [await read(serving, request) for request in REQUESTS]

    for events, request in zip(asyncio.run(run()), REQUESTS, strict=True):
        completion = events[-1].completion
        for hole in range(len(completion.holes)):
            settled = SettledText(model.tokenizer, model.spec.special.eos, hole=hole, stop=request.options.stop)
            told = "".join(settled.take(event) for event in events)
            whole = completion.holes[hole].text
            assert told == settled.text
            assert whole.startswith(told)
            assert told + settled.rest(whole) == whole


def test_bad_requests_are_refused_at_once(model):
    async def run():
        async with AsyncModel(model) as serving:
            with pytest.raises(InputError):
                await serving.submit(GenerateRequest(prompt="x" * 1000))
            with pytest.raises(ConfigError, match="draft"):
                await serving.submit(GenerateRequest(prompt="x", draft="y", options=DecodingOptions(block_length=4)))
            assert serving.num_requests == 0

    asyncio.run(run())


def test_leaving_an_answer_frees_its_pages(model):
    async def run():
        async with AsyncModel(model) as serving:
            request = GenerateRequest(prompt="def", max_tokens=96, options=DecodingOptions(seed=1, temperature=1.0))
            async with await serving.submit(request) as answer:
                async for _ in answer:
                    break
            while serving.num_requests:
                await asyncio.sleep(0.001)
            with pytest.raises(EngineError):
                [event async for event in answer]

    asyncio.run(run())
    model.engine.check_integrity()


# A stream of events over one hole, random but legal: masks appear, become tokens, are edited and committed.
MOVES = st.lists(
    st.tuples(st.sampled_from(["grow", "draft", "edit", "remask", "commit"]), st.integers(0, 9), st.integers(0, 399)),
    max_size=60,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(moves=MOVES, stop=st.lists(st.text(st.sampled_from("ab()"), min_size=1, max_size=3), max_size=2))
def test_settled_text_against_a_plain_rereading(moves, stop):
    tokenizer, eos = tiny_tokenizer(), 1
    settled, told = SettledText(tokenizer, eos, stop=stop), ""
    ids: list[int | None] = []
    final: list[bool] = []
    for kind, at, token in moves:
        start, token = at % (len(ids) + 1), token % tokenizer.vocab_size
        is_open = start < len(ids) and not final[start]
        if kind == "grow" and not any(final[start:]):
            ids[start:start], final[start:start] = [None], [False]
            event = Resize(hole=0, start=start, added=1)
        elif kind in ("draft", "edit") and is_open:
            ids[start] = token
            make = Draft if kind == "draft" else Edit
            event = make(hole=0, start=start, token_ids=(token,), texts=("?",), confidence=(1.0,))
        elif kind == "remask" and is_open:
            ids[start] = None
            event = Remask(hole=0, start=start, stop=start + 1)
        elif kind == "commit" and is_open and ids[start] is not None:
            final[start] = True
            event = Commit(hole=0, start=start, stop=start + 1)
        else:
            continue
        told += settled.take(event)
        lead = next((i for i, is_final in enumerate(final) if not is_final), len(final))
        run = ids[:lead][: ids[:lead].index(eos)] if eos in ids[:lead] else ids[:lead]
        text = b"".join(tokenizer.token_bytes(i) for i in run).decode(errors="ignore")
        whole = b"".join(tokenizer.token_bytes(i) for i in run).decode(errors="replace")
        assert cut_at_stop(whole, stop).startswith(told)
        if not stop and text == whole:
            assert told == text


def test_log_probabilities_of_a_text(model, tmp_path):
    ids = model.tokenizer.encode(SOURCE)[:20]
    with pytest.raises(ConfigError, match="next token"):
        model.next_token_logprobs(ids)
    from quicksilver.diffusion.spec import Objective

    twin = quicksilver.load(save_tiny_checkpoint(tmp_path / "ar", Objective.AUTOREGRESSIVE), device="cpu")
    rows = twin.next_token_logprobs(ids)
    assert rows.shape == (20, twin.tokenizer.vocab_size)
    total = -sum(float(rows[i, token]) for i, token in enumerate(ids))
    assert total == pytest.approx(twin.score(twin.tokenizer.decode(ids)).nats, rel=1e-4)
    with pytest.raises(InputError):
        twin.next_token_logprobs([])
