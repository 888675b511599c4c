"""The loaded model: canvases as in training, texts untouched, seeds repeat, scores against plain sums."""

import dataclasses
import json

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

import quicksilver
from quicksilver.api import (
    Commit,
    DecodingOptions,
    Done,
    Draft,
    Edit,
    FinishReason,
    GenerateRequest,
    InfillRequest,
    Model,
    Remask,
    Resize,
    Snapshot,
    State,
)
from quicksilver.checkpoints.folder import TOKENIZER_FILE
from quicksilver.diffusion.likelihood import any_order_nats
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.engine.engine import EngineConfig
from quicksilver.errors import CheckpointError, ConfigError, ContextLengthError, InputError
from quicksilver.models.topology import Topology
from tests.tiny import logits_of, random_denoiser, tiny_config
from tests.tiny_checkpoints import MAX_LENGTH, SOURCE, save_tiny_checkpoint, tiny_spec, tiny_tokenizer

TEXT = st.text(st.sampled_from("ab =\n\r\t():é漢😀\u2028<>") | st.characters(codec="utf-8"), max_size=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def ar_folder(tmp_path_factory):
    return save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny-ar", Objective.AUTOREGRESSIVE)


@pytest.fixture(scope="module")
def model(folder) -> Model:
    return quicksilver.load(folder, device="cpu")


@pytest.fixture(scope="module")
def ar_model(ar_folder) -> Model:
    return quicksilver.load(ar_folder, device="cpu")


@pytest.fixture
def canvases(model, monkeypatch):
    """The rows of every forward; the first of a request holds its whole canvas."""
    seen, network = [], model.engine.runner.network

    def recorded(token_ids, positions, attention):
        seen.append(token_ids[0].tolist())
        return network(token_ids, positions, attention)

    monkeypatch.setattr(model.engine.runner, "network", recorded)
    return seen


# Loading


def test_load_reads_spec_tokenizer_and_weights(model):
    assert model.spec == tiny_spec()
    assert model.tokenizer.fingerprint == tiny_tokenizer().fingerprint
    assert model.name == "tiny"
    assert model.max_length == MAX_LENGTH
    assert model.num_parameters > 10_000


def test_load_says_what_is_missing(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no model 'quicksilver-codr'"):
        quicksilver.load("quicksilver-codr")
    with pytest.raises(CheckpointError, match=r"holds no config.json"):
        quicksilver.load(tmp_path)
    partial = save_tiny_checkpoint(tmp_path / "partial")
    (partial / TOKENIZER_FILE).unlink()
    with pytest.raises(CheckpointError, match=TOKENIZER_FILE):
        quicksilver.load(partial)
    with pytest.raises(ConfigError, match="'tpu'"):
        quicksilver.load(folder, device="tpu")
    for row_budget in (0, "automatic"):
        with pytest.raises(ConfigError, match=f"row_budget .* got {row_budget!r}"):
            quicksilver.load(folder, device="cpu", row_budget=row_budget)


def test_the_row_budget_is_the_engines_the_callers_or_measured_once(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert quicksilver.load(folder, device="cpu").engine.config.row_budget == EngineConfig().row_budget
    assert quicksilver.load(folder, device="cpu", row_budget=37).engine.config.row_budget == 37
    assert not list(tmp_path.rglob("*.json"))
    model = quicksilver.load(folder, device="cpu", row_budget="auto")
    (path,) = tmp_path.rglob("*.json")
    values = json.loads(path.read_text())
    # As if rows were free up to 64 and cost their share from there on.
    path.write_text(json.dumps(values | {"num_rows": [1, 32, 64, 256], "ms": [2.0, 2.0, 2.0, 8.0]}))
    assert model.engine.config.row_budget >= 2 * model.spec.block_length
    assert quicksilver.load(folder, device="cpu", row_budget="auto").engine.config.row_budget == 64


def test_a_tokenizer_larger_than_the_table_is_refused():
    with pytest.raises(CheckpointError, match="61"):
        Model(random_denoiser(tiny_config()), tiny_spec(), tiny_tokenizer(), name="small")


# Canvases, as in training


def test_generate_starts_from_the_file_token(model, canvases):
    model.generate("def mean", max_tokens=4, seed=0)
    prompt = [model.spec.special.file, *model.tokenizer.encode("def mean")]
    assert canvases[0] == prompt + [model.spec.special.mask] * 4


def test_in_place_holes_stand_in_the_text(model, canvases):
    model.infill_template("a = <FILL>\nb = <FILL>", hole_length=3, seed=0)
    special, encode = model.spec.special, model.tokenizer.encode
    masks = [special.mask] * 3
    assert canvases[0] == [special.canvas, *encode("a = "), *masks, *encode("\nb = "), *masks]


def test_generation_ends_before_a_stop_string(model):
    whole = model.generate("def mean", max_tokens=16, seed=3, temperature=1.0).text
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    ended = model.generate("def mean", max_tokens=16, seed=3, temperature=1.0, stop=(stop,))
    assert ended.text == whole[: whole.index(stop)]
    assert ended.finish_reason is FinishReason.STOP


def test_a_bias_and_a_limit_of_forwards_reach_the_engine(model):
    wanted = model.tokenizer.encode("total")[0]
    completion = model.infill("a = ", "\n", hole_length=4, seed=0, max_nfe=1, logit_bias=((wanted, 100.0),))
    assert [token.token_id for token in completion.holes[0].tokens] == [wanted] * 4
    assert completion.nfe == 1


def test_psm_holes_share_one_deadline(model):
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01
        return now[0]

    model.engine.clock = clock
    template = "x = <FILL>\ny = <FILL>\n"
    unlimited = model.infill_template(template, layout="psm", seed=0, threshold=2.0)
    cut = model.infill_template(template, layout="psm", seed=0, threshold=2.0, deadline_ms=150.0)
    assert cut.finish_reason is FinishReason.DEADLINE
    # The first hole spends the time; a hole gets one forward whatever the time.
    first, second = ({token.step for token in hole.tokens} for hole in cut.holes)
    assert 1 < len(first) < unlimited.nfe
    assert len(second) <= 1
    assert cut.nfe == max(first) + 1


def test_an_unknown_option_is_an_error(model):
    with pytest.raises(TypeError, match="thresold"):
        model.generate("a", thresold=0.5)


def test_psm_holes_are_filled_in_order(model, canvases):
    completion = model.infill_template("a = <FILL>\nb = <FILL>\n", layout="psm", seed=0)
    special, encode = model.spec.special, model.tokenizer.encode
    first = completion.holes[0].text
    before = [special.fim_prefix, *encode("a = "), special.fim_suffix, *encode("\nb = \n"), special.fim_middle]
    after = [special.fim_prefix, *encode(f"a = {first}\nb = "), special.fim_suffix, *encode("\n"), special.fim_middle]
    assert canvases[0] == before + [special.mask] * 4
    assert after + [special.mask] * 4 in canvases


def test_adapter_is_one_forward_under_the_block_rule(model):
    tokens = torch.arange(60, 71)
    blocks = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3])
    denoiser = random_denoiser(model._denoiser.config, dtype=torch.float64)
    expected = logits_of(denoiser, tokens[None], Topology.block_causal(blocks[None]))[0].float()
    torch.testing.assert_close(model.canvas_logits(tokens, blocks), expected, rtol=1e-4, atol=1e-4)


def test_prediction_shift_is_undone_for_decoding_only(ar_model):
    tokens = list(range(60, 70))
    raw = ar_model.logits(tokens)
    aligned = ar_model.canvas_logits(torch.tensor(tokens), torch.arange(10))
    torch.testing.assert_close(aligned[1:], raw[:-1], rtol=0, atol=0)
    assert not aligned[0].any()
    # Causal: a prefix has the same rows.
    torch.testing.assert_close(ar_model.logits(tokens[:6]), raw[:6], rtol=1e-5, atol=1e-5)


def test_logits_follow_the_layout(model):
    tokens = list(range(60, 70))
    changed = [*tokens[:9], 99]
    in_place = [model.logits(t, layout=Layout.IN_PLACE) for t in (tokens, changed)]
    blocks = [model.logits(t) for t in (tokens, changed)]
    assert in_place[0].shape == (10, model.tokenizer.vocab_size)
    assert in_place[0].dtype == torch.float32
    assert not torch.allclose(in_place[0][0], in_place[1][0])
    torch.testing.assert_close(blocks[0][:8], blocks[1][:8], rtol=0, atol=0)
    assert not torch.allclose(blocks[0][8], blocks[1][8])


def test_logits_with_a_causal_context_have_one_draft_block(model):
    spec = dataclasses.replace(model.spec, has_causal_context=True)
    causal = Model(model._denoiser, spec, model.tokenizer, name="causal")
    tokens = list(range(60, 70))
    rows = causal.logits(tokens)
    # Tokens 0 to 7 are committed, so row 2 does not see token 3 of its own block; 8 and 9 are the draft.
    torch.testing.assert_close(causal.logits([*tokens[:3], 99, *tokens[4:]])[:3], rows[:3], rtol=0, atol=0)
    assert not torch.allclose(causal.logits([*tokens[:9], 99])[8], rows[8])


@pytest.mark.parametrize("tokens", [[], [0] * (MAX_LENGTH + 1), [-1], [10_000]])
def test_logits_refuses_what_is_no_canvas(model, tokens):
    with pytest.raises(InputError):
        model.logits(tokens)


# Results


@settings(max_examples=20)
@given(texts=st.lists(TEXT, min_size=2, max_size=4), layout=st.sampled_from(["in_place", "psm"]))
def test_nothing_outside_the_holes_changes(model, texts, layout):
    request = InfillRequest(
        texts=tuple(texts),
        max_hole_length=2,
        layout=quicksilver.api.InfillLayout(layout),
        options=DecodingOptions(policy="confidence_threshold", threshold=0.0, seed=0),
    )
    completion = model.run(request)
    left = completion.text.encode()
    for text, hole in zip(texts, completion.holes, strict=False):
        expected = text.encode() + hole.text.encode()
        assert left.startswith(expected)
        left = left[len(expected) :]
    assert left == texts[-1].encode()


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_seed_repeats_exactly(model, temperature):
    def run(seed):
        return model.infill("def mean(xs):\n", "\n", temperature=temperature, policy="random_order", seed=seed)

    first, again = run(7), run(7)
    assert dataclasses.replace(again, seconds=first.seconds) == first
    assert any(run(seed).trace != first.trace for seed in range(8, 12))


def test_a_drawn_seed_is_stated_and_repeats(model):
    first = model.generate("def", temperature=1.0, max_tokens=8)
    assert model.generate("def", temperature=1.0, max_tokens=8, seed=first.seed).text == first.text


@pytest.mark.parametrize("kind", ["mask", "ar"])
def test_reserved_tokens_are_never_written(model, ar_model, kind):
    loaded = model if kind == "mask" else ar_model
    for seed in range(3):
        completion = loaded.infill("a", "b", temperature=3.0, seed=seed)
        assert all(token.token_id >= 48 for token in completion.holes[0].tokens)


def test_figures_add_up(model):
    completion = model.infill_template("a<FILL>b<FILL>c", layout="psm", seed=1)
    assert len(completion.holes) == 2
    assert completion.num_tokens == sum(len(hole.tokens) for hole in completion.holes)
    assert completion.tpf == completion.num_tokens / completion.nfe
    assert completion.tokens_per_s == completion.num_tokens / completion.seconds
    steps = [[token.step for token in hole.tokens] for hole in completion.holes]
    assert max(steps[0]) < min(steps[1])
    assert max(max(steps)) <= completion.nfe
    assert max(entry.step for entry in completion.trace) == completion.nfe
    assert {entry.hole for entry in completion.trace} == {0, 1}


def test_autoregressive_models_answer_the_same_calls(ar_model):
    completion = ar_model.generate("def mean", max_tokens=5, seed=0)
    assert completion.nfe == len(completion.holes[0].tokens) == 5
    assert completion.finish_reason is FinishReason.LENGTH
    filled = ar_model.infill("def mean(", "):\n", max_hole_length=3, seed=0)
    assert filled.text == f"def mean({filled.holes[0].text}):\n"
    assert len(filled.holes[0].tokens) <= 3
    # Greedy decoding, plainly: append the best token of the last row, special tokens but eos left out.
    tokens = [ar_model.spec.special.file, *ar_model.tokenizer.encode("def mean")]
    start = len(tokens)
    for _ in range(5):
        row = ar_model.logits(tokens)[-1]
        row[[i for i in range(48) if i != ar_model.spec.special.eos]] = -torch.inf
        tokens.append(int(row.argmax()))
    assert [token.token_id for token in completion.holes[0].tokens] == tokens[start:]


# Streams


@pytest.mark.parametrize(("policy", "steps"), [("confidence_threshold", None), ("joint_threshold", None), ("remdm", 3)])
@pytest.mark.parametrize("layout", ["in_place", "psm"])
def test_events_lead_to_the_result(model, policy, steps, layout):
    request = InfillRequest(
        texts=("def mean(xs):\n    return ", "\n\nx = ", "\n"),
        max_hole_length=6,
        layout=quicksilver.api.InfillLayout(layout),
        options=DecodingOptions(policy=policy, steps=steps, seed=3, temperature=1.0),
    )
    holes: dict[int, list[str | None]] = {0: [], 1: []}
    committed: dict[int, set[int]] = {0: set(), 1: set()}
    snapshot = completion = None
    for event in model.stream(request):
        match event:
            case Resize(hole=hole, start=start, added=added) if added > 0:
                holes[hole][start:start] = [None] * added
            case Resize(hole=hole, start=start, added=added):
                del holes[hole][start : start - added]
            case Draft() | Edit():
                holes[event.hole][event.start : event.stop] = event.texts
            case Remask(hole=hole, start=start, stop=stop):
                holes[hole][start:stop] = [None] * (stop - start)
            case Commit(hole=hole, start=start, stop=stop):
                committed[hole] |= set(range(start, stop))
            case Snapshot():
                snapshot = event
            case Done():
                completion = event.completion
    assert completion is not None
    assert snapshot is not None
    for number, hole in enumerate(completion.holes):
        assert holes[number] == [token.text for token in hole.tokens]
        assert [cell.text for cell in snapshot.holes[number]][: len(hole.tokens)] == holes[number]
        assert len(committed[number]) >= len(hole.tokens)
    assert snapshot.nfe == completion.nfe


def test_snapshots_show_masks_and_drafts(model):
    request = InfillRequest(texts=("a", "b"), hole_length=4, options=DecodingOptions(steps=4, seed=0))
    masks = [
        sum(cell.state is State.MASK for cell in event.holes[0])
        for event in model.stream(request)
        if isinstance(event, Snapshot)
    ]
    assert masks == [3, 2, 1, 0]


def test_bad_requests_raise_before_the_first_event(model):
    for request in (
        InfillRequest(texts=("a", "b"), options=DecodingOptions(policy="renoise")),
        InfillRequest(
            texts=("a", "b"), layout=quicksilver.api.InfillLayout.PSM, options=DecodingOptions(policy="renoise")
        ),
        GenerateRequest(prompt="a", options=DecodingOptions(policy="renoise")),
        GenerateRequest(prompt="a" * 3 * MAX_LENGTH),
    ):
        with pytest.raises((ConfigError, InputError)):
            model.stream(request)


# Limits


def test_a_long_prompt_is_refused_with_length_and_limit(model):
    with pytest.raises(InputError, match=rf"takes \d+ tokens, the context of tiny is {MAX_LENGTH}"):
        model.generate(SOURCE * 10)
    with pytest.raises(InputError, match="max_tokens"):
        model.generate("a", max_tokens=MAX_LENGTH)
    longest = model.generate("a", block_length=8, threshold=0.0)
    assert longest.num_tokens <= MAX_LENGTH


@pytest.mark.parametrize("layout", ["in_place", "psm"])
def test_a_long_file_is_seen_near_its_holes(model, canvases, layout):
    text = SOURCE * 5 + "answer = <FILL> + 1\n" + SOURCE * 5
    completion = model.infill_template(text, layout=layout, threshold=0.0, max_hole_length=4, seed=0)
    before, after = text.split("<FILL>")
    assert completion.text == before + completion.holes[0].text + after
    assert max(map(len, canvases)) <= MAX_LENGTH
    seen = model.tokenizer.decode(canvases[0])
    assert "answer = " in seen
    assert " + 1\n" in seen
    assert len(canvases[0]) > MAX_LENGTH - 40


def test_holes_that_cannot_fit_are_refused(model):
    with pytest.raises(InputError, match=rf"2 holes of up to 70 tokens, 140 in all, takes 141 tokens.*{MAX_LENGTH}"):
        model.infill_template("a<FILL>b<FILL>", hole_length=70)
    with pytest.raises(InputError, match="a hole of up to 200 tokens"):
        model.infill("a", "b", layout="psm", max_hole_length=200)
    many = model.infill_template("<FILL>\n" * 30, threshold=0.0, seed=0)
    assert len(many.holes) == 30


# Scores


def test_autoregressive_score_is_the_sum_of_log_probabilities(ar_model):
    text = "def mean(xs):\n    return é\n"
    tokens = [ar_model.spec.special.file, *ar_model.tokenizer.encode(text)]
    log_probs = ar_model.logits(tokens).double().log_softmax(-1)
    nats = -sum(float(log_probs[at, token]) for at, token in enumerate(tokens[1:]))
    score = ar_model.score(text)
    assert score.is_exact
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.num_bytes == len(text.encode())
    assert score.bits_per_byte == pytest.approx(nats / 0.6931471805599453 / score.num_bytes, rel=1e-5)
    assert score.nats_per_token == pytest.approx(nats / (len(tokens) - 1), rel=1e-5)


def test_mask_score_estimates_the_bound(model):
    """Against all subsets of every block, served block by block: the training pair is not involved."""
    text = "return total"
    tokens = torch.tensor([[model.spec.special.file, *model.tokenizer.encode(text)]])

    def serve(noisy_ids, clean_ids, block_length):
        rows = []
        for start in range(0, clean_ids.shape[1], block_length):
            stop = min(start + block_length, clean_ids.shape[1])
            canvas = torch.cat([clean_ids[0, :start], noisy_ids[0, start:stop]])
            rows.append(model.canvas_logits(canvas, torch.arange(stop) // block_length)[start:])
        return torch.cat(rows)[None]

    is_target = torch.arange(tokens.shape[1])[None] > 0
    exact = float(any_order_nats(serve, tokens, is_target, block_length=4, mask_id=model.spec.special.mask))
    score = model.score(text, num_subsets=8, seed=1)
    assert not score.is_exact
    # Fixed seed; four standard errors of 8 repetitions.
    assert abs(score.nats - exact) < 4 * score.standard_error
    assert score.standard_error < 0.1 * exact


def test_score_refuses_what_it_cannot_score(model):
    with pytest.raises(InputError, match="empty"):
        model.score("")
    with pytest.raises(InputError, match=str(MAX_LENGTH)):
        model.score(SOURCE * 10)
    hybrid = Model(model._denoiser, tiny_spec(Objective.HYBRID), model.tokenizer, name="hybrid")
    with pytest.raises(ConfigError, match="hybrid"):
        hybrid.score("a")


def test_a_context_may_be_shorter_than_the_checkpoints(folder):
    model = quicksilver.load(folder, device="cpu", max_length=40)
    assert model.max_length == 40
    assert quicksilver.load(folder, device="cpu", max_length=10**6).max_length == MAX_LENGTH
    with pytest.raises(ContextLengthError, match="40"):
        model.generate("x = 1\n" * 20, max_tokens=8)
    with pytest.raises(ConfigError, match="max_length"):
        quicksilver.load(folder, device="cpu", max_length=0)
