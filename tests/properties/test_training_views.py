"""Views and in-place canvases lose no text, whatever the source and the draws."""

import itertools

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quicksilver.diffusion.estimator import spread_uniforms
from quicksilver.diffusion.spec import Objective
from quicksilver.diffusion.variable_length import apply_length_tokens
from quicksilver.training.data.in_place import InPlaceConfig, InPlaceNoise
from quicksilver.training.data.noising import NoiseConfig
from quicksilver.training.data.syntax import SyntaxSpans
from quicksilver.training.data.views import ViewMix, Views, damage
from quicksilver.training.data.windows import Piece
from tests.training_runs import tiny_spec, tiny_tokenizer

SPECIAL = tiny_spec(Objective.MASK).special
SENTINELS = frozenset(range(48)) - {SPECIAL.eos}
texts = st.text(alphabet='ab_ (:=7\n\t"größ总数😀\u200d\ufffd', min_size=12, max_size=60)
seeds = st.integers(0, 2**32 - 1)


def views(**mix: float) -> Views:
    tokenizer = tiny_tokenizer()
    edit = (tokenizer.id_of("<edit_before>"), tokenizer.id_of("<edit_after>"))
    return Views(
        ViewMix(**mix),
        SPECIAL,
        SENTINELS,
        tokenizer.newline_id,
        tokenizer.encode,
        tokenizer.decode,
        edit,
        SyntaxSpans(tokenizer),
    )


def encoded(text: str) -> np.ndarray:
    return np.array(tiny_tokenizer().encode(text), dtype=np.int64)


@given(texts, seeds, st.floats(0, 1), st.sampled_from([0.0, 1.0]))
@settings(max_examples=150)
def test_prefix_middle_and_suffix_join_to_the_text(text, seed, char_cut_rate, ast_rate):
    split = views(char_cut_rate=char_cut_rate, ast_rate=ast_rate).cut(encoded(text), np.random.default_rng(seed))
    assert len(split.middle) > 0
    joined = np.concatenate([split.prefix, split.middle, split.suffix])
    assert tiny_tokenizer().decode(joined.tolist()) == text


@given(texts, seeds)
@settings(max_examples=50)
def test_character_cuts_keep_characters_whole(text, seed):
    tokenizer = tiny_tokenizer()
    text = text.replace("\ufffd", "a")
    split = views(char_cut_rate=1.0).cut(encoded(text), np.random.default_rng(seed))
    if not np.array_equal(np.concatenate([split.prefix, split.middle, split.suffix]), encoded(text)):
        parts = [tokenizer.decode(part.tolist()) for part in (split.prefix, split.middle, split.suffix)]
        assert "\ufffd" not in "".join(parts)
        assert "".join(parts) == text


@given(texts, seeds, st.floats(0.05, 0.9), st.sampled_from([0.0, 1.0]))
@settings(max_examples=100)
def test_holes_are_disjoint_apart_and_inside(text, seed, coverage, ast_rate):
    tokens = encoded(text)
    spans = views(ast_rate=ast_rate).holes(tokens, coverage, np.random.default_rng(seed))
    assert spans
    assert all(0 <= low < high <= len(tokens) for low, high in spans)
    assert all(stop < start for (_, stop), (start, _) in itertools.pairwise(spans))


@given(texts, seeds, st.sampled_from([1, 2, 4, 16]))
@settings(max_examples=100)
def test_every_view_is_a_sound_document(text, seed, block_length):
    piece = Piece(encoded(text), bool(seed % 2))
    for document in views().block_causal(piece, block_length, np.random.default_rng(seed)):
        arrays = (document.token_ids, document.is_target, document.blocks, document.token_share)
        assert len({len(array) for array in arrays}) == 1
        steps = np.diff(document.blocks)
        assert document.blocks[0] == 0
        assert set(steps.tolist()) <= {0, 1}
        assert np.bincount(document.blocks).max() <= block_length
        assert not document.is_target[np.isin(document.token_ids, list(SENTINELS))].any()
        is_eos = document.token_ids == SPECIAL.eos
        assert document.is_target[is_eos].all()
        # All eos of a document count as one token, and end it.
        if is_eos.any():
            assert abs(float(document.token_share[is_eos].sum()) - 1) < 1e-5
            assert is_eos[np.argmax(is_eos) :].all()
        assert (document.token_share[~is_eos] == 1).all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=30), seeds)
def test_damage_never_fails_and_is_small(tokens, seed):
    clean = np.array(tokens, dtype=np.int64)
    damaged = damage(clean, 0, np.random.default_rng(seed))
    num_lines = tokens.count(0) + 1
    longest = max((len(line) for line in np.split(clean, np.flatnonzero(clean == 0) + 1)), default=1)
    assert abs(len(damaged) - len(clean)) <= max(longest, 1)
    if len(damaged) == len(clean) and num_lines == 1:
        assert (damaged != clean).sum() <= 1
    assert set(damaged.tolist()) <= set(tokens)


def undo(canvas, labels, is_masked) -> list[int]:
    """Write the labels back, as a sampler with a perfect denoiser would; expand labels become two masks."""
    out, _ = apply_length_tokens(
        canvas, is_masked, labels, mask_id=SPECIAL.mask, expand_id=SPECIAL.expand, delete_id=SPECIAL.delete
    )
    return out.tolist()


@given(texts, seeds, st.floats(0, 0.999999))
@settings(max_examples=150)
def test_undoing_an_in_place_canvas_restores_its_document(text, seed, uniform):
    tokens = encoded(text)
    noise = InPlaceNoise(views(), SPECIAL, InPlaceConfig(max_merge_rate=0.7, max_extra=3), NoiseConfig())
    canvas = noise(Piece(tokens, False), uniform, np.random.default_rng(seed))
    assert canvas.token_ids[0] == SPECIAL.canvas
    is_masked = canvas.token_ids == SPECIAL.mask
    assert torch.equal(is_masked, canvas.weights > 0)
    restored = undo(canvas.token_ids[1:], canvas.labels[1:], is_masked[1:])
    assert_matches(restored, tokens.tolist())


def assert_matches(restored: list[int], truth: list[int]) -> None:
    """Equal, where each pair of masks (an expand label) stands for two or more tokens: a tiny regular match."""
    # reachable[j]: the canvas so far may stand for the first j tokens.
    reachable = {0}
    at = 0
    while at < len(restored):
        if restored[at] == SPECIAL.mask:
            at += 2  # apply_length_tokens wrote two masks for one expand label
            reachable = {k for j in reachable for k in range(j + 2, len(truth) + 1)}
        else:
            reachable = {j + 1 for j in reachable if j < len(truth) and truth[j] == restored[at]}
            at += 1
    assert len(truth) in reachable


@given(st.integers(1, 6), st.integers(1, 12), seeds)
@settings(max_examples=30)
def test_draws_do_not_depend_on_the_number_of_slots(num_rows, num_slots, seed):
    few, many = (spread_uniforms(num_rows, n, seed=seed, step=1) for n in (num_slots, num_slots + 5))
    assert torch.equal(few, many[:, :num_slots])
