"""Traces: what goes into a file comes out of it, an equal replay passes, and whatever differs is found."""

import json
import random
from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
import torch

from quicksilver.decoding import (
    POLICY_NAMES,
    REVISION_NAMES,
    Cache,
    ConfidenceThreshold,
    FinishReason,
    FixedCount,
    Guidance,
    Hole,
    Order,
    RemaskRate,
    ReMDM,
    SamplingParams,
    Text,
    make_policy,
)
from quicksilver.decoding.ends import Ends
from quicksilver.diffusion.spec import Objective
from quicksilver.engine import replay as replaying
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.replay import Trace, TracedRun, fingerprint, load, record, recording, replay, save
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.errors import ConfigError, InputError, UsageError
from quicksilver.models.denoiser import Denoiser
from tests.automata import automaton_of_texts, random_automaton
from tests.engine_requests import VOCAB_SIZE, random_request
from tests.fakes import fake_spec
from tests.tiny import random_denoiser

SPECS = {
    "blocks": fake_spec(),
    "uniform": fake_spec(Objective.UNIFORM),
    "autoregressive": replace(fake_spec(Objective.AUTOREGRESSIVE), block_length=1, prediction_shift=1),
}


@cache
def denoiser_of(seed: int = 0) -> Denoiser:
    return random_denoiser(seed=seed)


def engine_of(name: str = "blocks", clock=None, **limits) -> Engine:
    config = EngineConfig(**({"num_pages": 40, "page_size": 8} | limits))
    more = {} if clock is None else {"clock": clock}
    return Engine(denoiser_of(), SPECS[name], config, **more)


def continuation(**params) -> Request:
    params = {"policy": ConfidenceThreshold(), "max_tokens": 8, "seed": 3, "temperature": 1.0} | params
    return Request(task=Continuation(prompt_ids=(11, 12, 13)), params=SamplingParams(**params))


class Words:
    """A stop rule that is built from strings, which here are numbers of tokens."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop

    def __call__(self, token_ids):
        return next((at for at, token in enumerate(token_ids) if str(token) in self.stop), None)


@pytest.mark.parametrize("name", SPECS)
def test_requests_that_shared_a_batch_agree_when_each_runs_alone(name, tmp_path):
    rng = random.Random(5)
    requests = []
    while len(requests) < 5:
        request = random_request(rng, SPECS[name])
        if request.params.stop is None:
            requests.append(request)
    trace = record(engine_of(name, row_budget=20), requests, model="tiny")
    save(tmp_path / "trace.jsonl", trace)
    report = replay(engine_of(name), load(tmp_path / "trace.jsonl"))
    assert report.difference is None
    assert report.num_runs == len(requests)
    assert report.num_frames == sum(run.result.nfe for run in trace.runs) > 5
    assert report.confidence_error < 1e-5


def policies():
    named = [make_policy(name) for name in POLICY_NAMES]
    named += [make_policy("fixed_steps", revision=name) for name in REVISION_NAMES]
    return [*named, FixedCount(order=Order.MARGIN), ReMDM(rate=RemaskRate.RESCALE, loop=(0.3, 0.7), eta=0.1)]


@pytest.mark.parametrize("policy", policies(), ids=repr)
def test_a_file_holds_every_policy(policy, tmp_path):
    (run,) = record(engine_of(), [continuation(policy=ConfidenceThreshold())], model="m").runs
    run = replace(run, request=replace(run.request, params=replace(run.request.params, policy=policy)))
    trace = Trace(model="m", fingerprint="f", runs=(run,))
    save(tmp_path / "t", trace)
    assert load(tmp_path / "t") == trace


def test_a_file_holds_every_option(tmp_path):
    params = SamplingParams(
        policy=None,
        temperature=0.1,
        seed=2**62 + 1,
        max_tokens=5,
        block_length=2,
        max_nfe=7,
        top_k=4,
        top_p=0.3,
        vocab_size=VOCAB_SIZE,
        forbidden_ids=(30, 31),
        logit_bias=((20, -1.5), (21, 0.1)),
        repetition_penalty=1.25,
        presence_penalty=0.1,
        frequency_penalty=-0.7,
        stop_ids=(40,),
        draft_threshold=0.25,
        cache=Cache.VICINITY,
        refresh_every=3,
        num_alternatives=2,
        ends=Ends.FREE,
        guidance=Guidance(scale=1.5, until=0.5, negative_ids=(7, 8)),
    )
    defaults = SamplingParams()
    unset = [name for name in SamplingParams.__slots__ if getattr(params, name) == getattr(defaults, name)]
    assert unset == ["policy", "stop", "constraint"]
    template = (
        Text(token_ids=(11, 2)),
        Hole(),
        Text(token_ids=()),
        Hole(draft=(20, 21), frozen=(True, False)),
        Hole(length=2),
        Hole(max_length=3),
    )
    (done,) = record(engine_of(), [continuation(num_alternatives=2)], model="m").runs
    assert {len(named) for named in done.result.alternatives[0]} == {2}
    requests = [
        Request(
            task=Continuation(prompt_ids=(1, 2)),
            params=params,
            deadline_ms=12.5,
            may_follow_load=True,
            block_lengths=(2, 1, 1),
        ),
        Request(task=Filling(template=template)),
    ]
    runs = [TracedRun(request=request, stop=("é\n", "b"), result=done.result) for request in requests]
    trace = Trace(model="ü", fingerprint="f", runs=tuple(runs))
    save(tmp_path / "t", trace)
    assert load(tmp_path / "t") == trace
    assert len((tmp_path / "t").read_text(encoding="utf-8").splitlines()) == 3


def test_self_speculation_can_be_traced(tmp_path):
    spec = replace(fake_spec(), has_causal_context=True)
    engine = Engine(random_denoiser(), spec)
    params = SamplingParams(policy=make_policy("self_speculative"), max_tokens=9)
    trace = record(engine, [Request(task=Continuation(prompt_ids=(11, 12)), params=params)], model="m")
    save(tmp_path / "t", trace)
    report = replay(engine, load(tmp_path / "t"))
    assert report.difference is None
    assert report.num_frames == trace.runs[0].result.nfe > 0


def test_constraints_are_kept_and_replayed(tmp_path):
    texts = random_automaton(random.Random(2), VOCAB_SIZE, 5, eos_id=SPECS["blocks"].special.eos, first_id=10)
    template = (Text(token_ids=(11, 12)), Hole(constraint=automaton_of_texts([(20, 21), (22,)], VOCAB_SIZE, 1)))
    requests = [continuation(constraint=texts), Request(task=Filling(template=template))]
    engine = engine_of()
    trace = record(engine, requests, model="m")
    save(tmp_path / "t", trace)
    kept = load(tmp_path / "t")
    assert replay(engine, kept).difference is None
    (read,) = [run.request.params.constraint for run in kept.runs[:1]]
    for field in fields(texts):
        given, found = getattr(texts, field.name), getattr(read, field.name)
        assert type(found) is type(given)
        assert getattr(found, "dtype", None) == getattr(given, "dtype", None)
        assert np.array_equal(found, given)


def test_a_cut_by_the_deadline_is_repeated_without_a_clock():
    now = [0.0]
    engine = engine_of(clock=lambda: now[0])
    run = engine.runner.run

    def timed(turns):
        now[0] += 0.1
        return run(turns)

    engine.runner.run = timed
    slow = continuation(policy=ConfidenceThreshold(threshold=2.0), max_tokens=40, forbidden_ids=(1,))
    trace = record(engine, [replace(slow, deadline_ms=700.0)], model="m")
    result = trace.runs[0].result
    assert (result.finish_reason, result.nfe) == (FinishReason.DEADLINE, 6)
    assert trace.runs[0].request.params.max_nfe is None
    assert replay(engine_of(), trace).difference is None


def loaded_engine() -> Engine:
    spec = replace(fake_spec(), has_causal_context=True, block_length=8, trained_block_lengths=(2, 4, 8))
    return Engine(denoiser_of(), spec, EngineConfig(row_budget=16, page_size=8))


def test_blocks_that_load_made_shorter_are_repeated(tmp_path):
    # 2 and 2 beside six others, then alone on the grid: 4, 8, 8.
    engine = loaded_engine()
    policy = make_policy("fixed_steps", steps=1)
    params = {"policy": policy, "max_tokens": 24, "logit_bias": ((1, -100.0),)}
    others = [engine.submit(continuation(**params, block_length=2)) for _ in range(6)]
    with recording(engine) as runs:
        ticket = engine.submit(replace(continuation(**params), may_follow_load=True))
        engine.step()
        for each in others:
            engine.abort(each)
        while not ticket.is_ended:
            engine.step()
    (run,) = runs
    assert run.request.block_lengths == (2, 2, 4, 8, 8)
    trace = Trace(model="m", fingerprint=fingerprint(engine.denoiser, engine.spec), runs=(run,))
    save(tmp_path / "t", trace)
    assert replay(loaded_engine(), load(tmp_path / "t")).difference is None
    forgotten = replace(run, request=replace(run.request, block_lengths=()))
    assert replay(loaded_engine(), replace(trace, runs=(forgotten,))).difference is not None


def test_record_keeps_the_blocks_of_requests_that_followed_load():
    requests = [replace(continuation(max_tokens=16, seed=seed), may_follow_load=True) for seed in range(6)]
    trace = record(loaded_engine(), requests, model="m")
    assert [run.request.params.seed for run in trace.runs] == list(range(6))
    # A budget of 16 rows for 3, 4, 5 and 6 requests.
    assert [run.request.block_lengths[0] for run in trace.runs[2:]] == [4, 4, 2, 2]
    assert replay(loaded_engine(), trace).difference is None


@pytest.mark.parametrize(
    ("lengths", "words"), [((3,), "block of 3 after 0"), ((2, 4), "block of 4 after 2"), ((0,), "block of 0")]
)
def test_blocks_off_the_grid_are_refused(lengths, words):
    with pytest.raises(ConfigError, match=words):
        loaded_engine().submit(replace(continuation(), block_lengths=lengths))
    with pytest.raises(ConfigError, match="causal context"):
        engine_of().submit(replace(continuation(), block_lengths=(2,)))


def test_a_cache_is_repeated(tmp_path):
    template = (Text(token_ids=(11,) * 12), Hole(length=5), Text(token_ids=(12,) * 12))
    params = SamplingParams(cache=Cache.DUAL, refresh_every=3, policy=ConfidenceThreshold(threshold=2.0))
    trace = record(engine_of(), [Request(task=Filling(template=template), params=params)], model="m")
    (run,) = trace.runs
    # Of 5 forwards the second, third and fifth compute the hole's 5 rows of 30.
    assert (run.result.nfe, run.result.num_stale_forwards, run.result.num_stale_rows) == (5, 3, 3 * 25)
    save(tmp_path / "t", trace)
    assert replay(engine_of(), load(tmp_path / "t")).difference is None
    exact = replace(params, cache=Cache.EXACT, refresh_every=None)
    wrong = replace(run, request=replace(run.request, params=exact))
    assert replay(engine_of(), replace(trace, runs=(wrong,))).difference is not None


def test_stop_rules_are_built_again():
    request = continuation(max_tokens=30, forbidden_ids=(1,))
    (plain,) = engine_of().run([request])
    word = str(plain.token_ids[9])
    stopped = replace(request, params=replace(request.params, stop=Words((word,))))
    trace = record(engine_of(), [stopped], model="m")
    (run,) = trace.runs
    assert run.stop == (word,)
    assert run.request.params.stop is None
    assert run.result.finish_reason is FinishReason.STOP
    assert replay(engine_of(), trace, build_stop=Words).difference is None
    with pytest.raises(ConfigError, match="build_stop"):
        replay(engine_of(), trace)
    # A rule that stops elsewhere is a difference.
    difference = replay(engine_of(), trace, build_stop=lambda stop: Words(("none",))).difference
    assert difference is not None
    assert difference.expected == "nothing more"


def test_what_cannot_be_stored_is_refused():
    class Own(ConfidenceThreshold):
        pass

    with pytest.raises(ConfigError, match="policy Own"):
        record(engine_of(), [continuation(policy=Own())], model="m")
    with pytest.raises(ConfigError, match="stop rule"):
        record(engine_of(), [continuation(stop=lambda token_ids: None)], model="m")


def test_recording_collects_what_ends_inside():
    engine = engine_of()
    before = engine.submit(continuation(max_tokens=20, policy=ConfidenceThreshold(threshold=2.0)))
    engine.run([continuation(seed=1)])
    with recording(engine) as runs:
        aborted = engine.submit(continuation())
        engine.abort(aborted)
        results = engine.run([continuation(seed=2), continuation(seed=4)])
        while not before.is_ended:
            engine.step()
    engine.run([continuation(seed=5)])
    assert engine.on_end == []
    assert sorted(run.request.params.seed for run in runs) == [2, 3, 4]
    assert [run.result for run in runs if run.request.params.seed in (2, 4)] == results


def altered(original: Trace, **changes) -> Trace:
    (run,) = original.runs
    return replace(original, runs=(replace(run, result=replace(run.result, **changes)),))


@cache
def one_trace() -> Trace:
    request = continuation(policy=ConfidenceThreshold(threshold=2.0), max_tokens=12, forbidden_ids=(1,))
    return record(engine_of(), [request], model="m")


@pytest.mark.parametrize("field", ["step", "hole", "position", "token_id"])
def test_every_entry_must_agree_exactly(field):
    entries = one_trace().runs[0].result.trace
    assert len(entries) == 12
    for at in (0, 5, 11):
        wrong = replace(entries[at], **{field: getattr(entries[at], field) + 1})
        report = replay(engine_of(), altered(one_trace(), trace=(*entries[:at], wrong, *entries[at + 1 :])))
        assert report.difference is not None
        assert report.difference.run == 1
        assert report.difference.step == entries[at].step
        assert report.num_frames == at
        assert f"token {wrong.token_id} at position {wrong.position}" in report.difference.expected
        assert f"token {entries[at].token_id} at position {entries[at].position}" in report.difference.found


@pytest.mark.parametrize(("shift", "is_equal"), [(0.9e-3, True), (1.1e-3, False), (-1.1e-3, False), (torch.nan, False)])
def test_confidences_agree_within_the_tolerance(shift, is_equal):
    entries = one_trace().runs[0].result.trace
    moved = tuple(replace(entry, confidence=entry.confidence + shift) for entry in entries)
    report = replay(engine_of(), altered(one_trace(), trace=moved))
    assert (report.difference is None) == is_equal
    if is_equal:
        assert report.confidence_error == pytest.approx(0.9e-3, rel=1e-3)
    assert replay(engine_of(), altered(one_trace(), trace=moved), tolerance=2e-3).difference is None or shift != shift


def test_missing_and_further_entries_are_differences():
    entries = one_trace().runs[0].result.trace
    report = replay(engine_of(), altered(one_trace(), trace=entries[:-1]))
    assert report.difference.expected == "nothing more"
    report = replay(engine_of(), altered(one_trace(), trace=(*entries, entries[-1])))
    assert report.difference.found == "nothing more"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"nfe": 13}, "nfe 13"),
        ({"num_edits": 1}, "num_edits 1"),
        ({"num_stale_forwards": 1}, "num_stale_forwards 1"),
        ({"num_stale_rows": 2}, "num_stale_rows 2"),
        ({"finish_reason": FinishReason.EOS}, "finish_reason eos"),
        ({"holes": ((11,),)}, "holes"),
    ],
)
def test_the_result_must_agree_too(changes, words):
    report = replay(engine_of(), altered(one_trace(), **changes))
    assert report.difference is not None
    assert report.difference.step is None
    assert words in report.difference.expected


def test_the_first_request_that_differs_ends_the_replay():
    good = one_trace().runs[0]
    bad = altered(one_trace(), nfe=13).runs[0]
    report = replay(engine_of(), replace(one_trace(), runs=(good, bad, good)))
    assert (report.num_runs, report.difference.run) == (2, 2)
    assert str(report.difference) == "request 2: the trace has nfe 13, the replay nfe 12"


def test_another_model_is_refused():
    other = Engine(denoiser_of(1), SPECS["blocks"], EngineConfig(num_pages=40, page_size=8))
    with pytest.raises(InputError, match=rf"{one_trace().fingerprint} \(m\), this one is {print_of(other.denoiser)}"):
        replay(other, one_trace())
    with pytest.raises(ConfigError, match="tolerance"):
        replay(engine_of(), one_trace(), tolerance=-1.0)


def print_of(denoiser: Denoiser | None = None, spec=SPECS["blocks"]) -> str:
    return fingerprint(random_denoiser() if denoiser is None else denoiser, spec)


def test_the_fingerprint_sees_weights_formats_and_spec(monkeypatch):
    formats = (torch.float64, torch.float32, torch.bfloat16)
    prints = {print_of(random_denoiser(seed=seed, dtype=dtype)) for seed in (0, 1) for dtype in formats}
    assert len(prints) == 6
    assert print_of() == print_of()
    changed = random_denoiser()
    changed.model.norm.weight[3] += 1e-9
    assert print_of(changed) != print_of()
    spec = SPECS["blocks"]
    tuned = replace(spec, decoding=replace(spec.decoding, threshold=0.123))
    assert print_of(spec=tuned) != print_of()
    # Of large tensors a part is read, from all over the tensor.
    monkeypatch.setattr(replaying, "_SAMPLED", 50)
    moved = random_denoiser()
    moved.model.embed_tokens.weight.mul_(1.01)
    assert print_of(moved) != print_of()


def lines_of(tmp_path) -> list[dict]:
    save(tmp_path / "good", one_trace())
    return [json.loads(line) for line in (tmp_path / "good").read_text().splitlines()]


def put(path: tuple, value):
    """A change of one value deep in a trace's lines; ``...`` removes it."""

    def change(lines):
        inner = lines
        for key in path[:-1]:
            inner = inner[key]
        if value is ...:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ((0, "format"), "csv", "line 1: this is no trace"),
        ((0,), [1], "line 1: this is no trace"),
        ((0, "version"), 2, "line 1: a trace of version 2; this program reads version 1"),
        ((0, "model"), 3, "line 1: model must be a str"),
        ((0, "more"), 1, "line 1: the first line has .* missing or unknown: more"),
        ((0, "model"), ..., "missing or unknown: model"),
        ((1,), 5, "line 2: a run must be a dict"),
        ((1, "request", "tenant"), "x", "line 2: request has .* unknown: tenant"),
        ((1, "request", "params", "top_q"), 1, "line 2: SamplingParams has no top_q"),
        ((1, "request", "params", "seed"), "1", "line 2: seed: '1' is no int"),
        ((1, "request", "params", "seed"), True, "line 2: seed: True is no int"),
        ((1, "request", "params", "seed"), -1, r"line 2: seed must lie in \[0, 2\*\*63\), got -1"),
        ((1, "request", "params", "stop_ids"), 4, "line 2: stop_ids: 4 is no tuple"),
        ((1, "request", "params", "logit_bias"), [[1]], "line 2: logit_bias"),
        ((1, "request", "params", "policy", "kind"), "Own", "no kind of policy is called 'Own'"),
        ((1, "request", "params", "policy", "factor"), 1.0, "ConfidenceThreshold has no factor"),
        ((1, "request", "params", "policy", "threshold"), -1.0, "threshold must be at least 0"),
        ((1, "request", "task", "kind"), "edit", "no kind of task is called 'edit'"),
        ((1, "request", "task", "prompt_ids"), ..., "Continuation needs prompt_ids"),
        ((1, "request", "task", "prompt_ids"), [1, "a"], "prompt_ids: 'a' is no int"),
        ((1, "request", "deadline_ms"), -5, "deadline_ms must be positive"),
        ((1, "request", "stop"), [1], "1 is no str"),
        ((1, "result", "nfe"), ..., "Result needs nfe"),
        ((1, "result", "finish_reason"), "tired", "finish_reason: 'tired' is not a valid FinishReason"),
        ((1, "result", "trace"), ..., "trace must be a list, got None"),
        ((1, "result", "trace", 0), [1, 2], "an entry of trace holds step, hole"),
        ((1, "result", "trace", 0), [1, 0, 0.5, 2, 0.1], "0.5 is no int"),
    ],
)
def test_a_damaged_file_says_where(tmp_path, path, value, words):
    lines = lines_of(tmp_path)
    put(path, value)(lines)
    bad = tmp_path / "bad"
    bad.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(InputError, match=words):
        load(bad)


def test_what_older_programs_did_not_write_means_the_default(tmp_path):
    lines = lines_of(tmp_path)
    put((1, "request", "params", "draft_threshold"), ...)(lines)
    put((1, "request", "block_lengths"), ...)(lines)
    put((1, "request", "params", "cache"), ...)(lines)
    put((1, "result", "num_stale_rows"), ...)(lines)
    put((1, "request", "params", "num_alternatives"), ...)(lines)
    put((1, "result", "alternatives"), ...)(lines)
    old = tmp_path / "old"
    old.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert load(old) == one_trace()


def test_files_that_are_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match="cannot read .*none"):
        load(tmp_path / "none")
    for data, words in ((b"", "empty"), (b"\xff", "UTF-8"), (b"{", "line 1")):
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(InputError, match=words):
            load(tmp_path / "bad")
    with pytest.raises(UsageError, match="cannot write"):
        save(tmp_path / "no" / "folder", one_trace())
