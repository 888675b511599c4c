"""In-place canvases: holes, lengths, weights, and their rows."""

import math

import numpy as np
import pytest
import torch

from quicksilver.diffusion.estimator import Weighting
from quicksilver.diffusion.spec import SpecialIds
from quicksilver.errors import ConfigError
from quicksilver.training.data.in_place import Canvas, InPlaceConfig, InPlaceNoise, in_place_batch
from quicksilver.training.data.noising import Editor, NoiseConfig, NoiseDraw
from quicksilver.training.data.views import ViewMix, Views
from quicksilver.training.data.windows import Piece
from tests.fakes import SPECIAL
from tests.training_runs import no_nodes

NEWLINE, MASK, EXPAND, DELETE = 10, SPECIAL.mask, SPECIAL.expand, SPECIAL.delete
TEXT = np.array([*range(20, 28), NEWLINE, *range(30, 37), NEWLINE, *range(40, 46), NEWLINE])


class UnitNormal(np.random.Generator):
    """A generator whose normal draws are 1."""

    def standard_normal(self) -> float:
        return 1.0


def noiser(weighting: Weighting = Weighting.ELBO, **config: float) -> InPlaceNoise:
    views = Views(ViewMix(), SPECIAL, frozenset(range(10)) - {1}, NEWLINE, list, str, (13, 14), no_nodes)
    return InPlaceNoise(views, SPECIAL, InPlaceConfig(**config), NoiseConfig(weighting=weighting))


def canvases(noise: InPlaceNoise, num: int = 60) -> list[Canvas]:
    return [noise(Piece(TEXT, False), seed / num, np.random.default_rng(seed)) for seed in range(num)]


def test_a_whole_document_is_one_hole_of_known_length():
    for seed, canvas in enumerate(canvases(noiser(whole_rate=1.0))):
        assert canvas.token_ids[0] == SPECIAL.canvas
        assert canvas.labels[1:].tolist() == TEXT.tolist()
        is_masked = canvas.token_ids == MASK
        assert torch.equal(canvas.token_ids[~is_masked][1:], canvas.labels[~is_masked][1:])
        # The count of the stratified draw u of n tokens is floor(u n) + 1, each weighing n / k.
        count = int(seed / 60 * len(TEXT)) + 1
        assert int(is_masked.sum()) == count
        assert canvas.weights[is_masked].tolist() == pytest.approx([len(TEXT) / count] * count)
        assert not canvas.weights[~is_masked].any()
        assert canvas.num_targets == len(TEXT)
        assert torch.equal(canvas.is_editable[1:], ~is_masked[1:])
        assert not canvas.is_editable[0]


def test_holes_of_known_length_have_no_length_labels():
    for canvas in canvases(noiser(whole_rate=0.0, known_length_rate=1.0)):
        assert canvas.labels[1:].tolist() == TEXT.tolist()
        assert not torch.isin(canvas.labels, torch.tensor([EXPAND, DELETE])).any()


def test_holes_of_unknown_length_get_both_length_labels():
    found = canvases(noiser(whole_rate=0.0, known_length_rate=0.0, start_rate=0.0, settled_rate=0.0))
    labels = torch.cat([canvas.labels for canvas in found])
    assert (labels == EXPAND).sum() > 20
    assert (labels == DELETE).sum() > 20
    for canvas in found:
        is_length = torch.isin(canvas.labels, torch.tensor([EXPAND, DELETE]))
        assert (canvas.token_ids[is_length] == MASK).all()


def test_holes_may_look_as_decoding_meets_them_first():
    found = canvases(noiser(whole_rate=0.0, known_length_rate=0.0, start_rate=1.0, settled_rate=0.0, start_length=6))
    holes = [(canvas, hole) for canvas in found for hole in segments(canvas)]
    for canvas, hole in holes:
        assert hole.stop - hole.start == 6
        assert (canvas.token_ids[hole] == MASK).all()
    labels = torch.cat([canvas.labels[hole] for canvas, hole in holes])
    assert min((labels == EXPAND).sum(), (labels == DELETE).sum()) > 20
    known = canvases(noiser(whole_rate=0.0, known_length_rate=1.0, start_rate=1.0, settled_rate=0.0))
    assert any(canvas.is_editable.any() for canvas in known)


def settled(content: torch.Tensor, uniform: float, seed: int, **config: float) -> Canvas:
    """One hole after the first look."""
    noise = noiser(whole_rate=0.0, start_rate=0.0, settled_rate=1.0, **config)
    return noise._hole(content, uniform, False, np.random.default_rng(seed))


def test_settled_holes_have_about_their_own_length_too_long_as_often_as_too_short():
    content = torch.arange(20, 60)
    # All masked: the canvas has as many positions as were drawn.
    sizes = np.array([len(settled(content, 1.0 - 1e-9, seed).labels) for seed in range(400)])
    logs = np.log(sizes / 40)
    # Standard errors of mean and deviation are 0.0175 and 0.0124; 4 of them.
    assert abs(logs.mean()) < 0.07
    assert abs(logs.std() - 0.35) < 0.05
    assert {len(settled(content, 1.0 - 1e-9, seed, settled_spread=0.0).labels) for seed in range(9)} == {40}
    assert len(settled(torch.tensor([20]), 0.5, 0, settled_spread=0.1).labels) == 1


def test_settled_holes_show_what_is_decided():
    content = torch.arange(20, 50)
    found = [settled(content, seed / 200, seed) for seed in range(200)]
    for canvas in found:
        is_masked = canvas.token_ids == MASK
        assert torch.equal(canvas.is_editable, ~is_masked)
        assert torch.equal(canvas.token_ids[~is_masked], canvas.labels[~is_masked])
        # Tokens keep their order, and only expand stands for those that are missing.
        tokens = canvas.labels[canvas.labels >= 20]
        assert (tokens.diff() > 0).all()
        assert (len(tokens) == 30) == (not (canvas.labels == EXPAND).any())
        # By what the model sees, never by a label.
        assert canvas.weights[is_masked].tolist() == pytest.approx(
            [len(canvas.labels) / int(is_masked.sum())] * int(is_masked.sum())
        )
    labels = torch.cat([canvas.labels for canvas in found])
    visible = torch.cat([canvas.is_editable for canvas in found])
    assert min((labels == EXPAND).sum(), (labels == DELETE).sum(), visible.sum()) > 100


def test_a_lone_mask_at_the_end_of_a_settled_hole_is_as_often_deleted_as_its_length_says():
    # Two texts as alike as can be: n = 9 and n = 10, both on 10 positions. Were masks laid by labels, a lone mask at
    # the end would be ten times likelier where it is to be deleted.
    content = torch.arange(20, 30)
    lone = {9: 0, 10: 0}
    for size in lone:
        for seed in range(400):
            spread = math.log(10 / size)  # z = 1 gives 10 positions
            noise = noiser(whole_rate=0.0, start_rate=0.0, settled_rate=1.0, settled_spread=spread)
            canvas = noise._hole(content[:size], 0.05, False, UnitNormal(np.random.PCG64(seed)))
            lone[size] += (canvas.token_ids == MASK).tolist() == [False] * 9 + [True]
    # 40 expected, standard deviation 6; 5 of them.
    assert all(abs(count - 40) < 30 for count in lone.values())


def segments(canvas: Canvas) -> list[slice]:
    """The holes of a canvas: runs of masks and editable tokens. One visible token at least keeps them apart."""
    in_hole = [0, *(canvas.is_editable | (canvas.token_ids == MASK)).int().tolist(), 0]
    edges = [i for i in range(len(in_hole) - 1) if in_hole[i] != in_hole[i + 1]]
    return [slice(low, high) for low, high in zip(edges[::2], edges[1::2], strict=True)]


def test_labels_of_a_hole_weigh_alike():
    rates = {"whole_rate": 0.0, "known_length_rate": 0.0, "start_rate": 0.0, "settled_rate": 0.0, "extra_rate": 1.0}
    for canvas in canvases(noiser(**rates)):
        for hole in segments(canvas):
            labels, weights = canvas.labels[hole], canvas.weights[hole]
            is_delete, is_masked = labels == DELETE, canvas.token_ids[hole] == MASK
            assert 1 <= is_delete.sum() <= 16
            # A weight that depended on the label would bias the probability of delete, and so the length.
            num_masks = int(is_masked.sum())
            assert weights[is_masked].tolist() == pytest.approx([len(labels) / num_masks] * num_masks)
            assert not weights[~is_masked].any()
            # They stand at the hole's end.
            assert is_delete.tolist() == sorted(is_delete.tolist())


def test_share_of_whole_documents():
    found = canvases(noiser(whole_rate=0.4, known_length_rate=0.0, extra_rate=1.0), num=200)
    is_whole = [canvas.num_targets == len(TEXT) and not (canvas.labels == DELETE).any() for canvas in found]
    # sigma 0.035; 5 sigma.
    assert abs(np.mean(is_whole) - 0.4) < 0.175


def test_every_hole_has_a_count_of_its_own():
    counts = set()
    for canvas in canvases(noiser(whole_rate=0.0, known_length_rate=1.0, min_coverage=0.5), num=80):
        for hole in segments(canvas):
            size, count = hole.stop - hole.start, int((canvas.token_ids[hole] == MASK).sum())
            assert count >= 1
            assert canvas.weights[hole].max() == pytest.approx(size / count)
            if size >= 4:
                counts.add(count)
    assert len(counts) >= 3


def canvas_of(token_ids: list[int], labels: list[int], weights: list[float]) -> Canvas:
    ids = torch.tensor(token_ids)
    return Canvas(
        ids, torch.tensor(labels), torch.tensor(weights), (ids >= 10) & (ids < 90), num_targets=len(token_ids)
    )


def draw_of(num_rows: int, seed: int = 1) -> NoiseDraw:
    return NoiseDraw(seed, 3, 7 + torch.arange(num_rows), torch.zeros(num_rows, 1, dtype=torch.float64))


def test_rows_of_canvases():
    one = canvas_of([8, 50, MASK, 90], [8, 50, 51, 90], [0, 0, 2.0, 0])
    two = canvas_of([8, MASK, MASK, 60], [8, 61, DELETE, 60], [0, 1.5, 0.5, 0])
    batch = in_place_batch([[one, two], [two]], 7, SPECIAL.pad, draw_of(2))
    pad = SPECIAL.pad
    assert batch.token_ids.tolist() == [[8, 50, MASK, 90, 8, MASK, MASK], [8, MASK, MASK, 60, pad, pad, pad]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 2], [0, 1, 2, 3, 0, 1, 2]]
    assert batch.target_rows.tolist() == [2, 5, 6, 8, 9]
    assert batch.labels.tolist() == [51, 61, DELETE, 61, DELETE]
    assert batch.weights.tolist() == [2.0, 1.5, 0.5, 1.5, 0.5]
    assert not batch.bound_weights.any()
    assert (batch.num_targets, batch.num_bound_targets) == (12, 0)
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1]])
    assert torch.equal(batch.topology.dense_mask(), documents[:, :, None] == documents[:, None, :])


def test_edits_touch_visible_hole_tokens_only():
    tokens = [8, *range(50, 88), MASK]
    canvas = canvas_of(tokens, [8, *range(50, 88), 70], [0.0] * 39 + [1.0])
    config = NoiseConfig(edit_rate=0.4, edit_block_rate=1.0, keep_weight=0.25)
    counts = torch.ones(90, dtype=torch.float64)
    counts[:10] = 0
    frozen = Canvas(canvas.token_ids, canvas.labels, canvas.weights, torch.zeros(40, dtype=torch.bool), num_targets=39)
    batch = in_place_batch([[canvas], [frozen]], 42, SPECIAL.pad, draw_of(2), Editor(config, counts, 10))
    assert batch.token_ids[1, :40].tolist() == tokens
    changed = (batch.token_ids[0, :40] != torch.tensor(tokens)).nonzero()[:, 0].tolist()
    assert len(changed) >= 5
    assert all(10 <= batch.token_ids[0, i] < 90 and 0 < i < 39 for i in changed)
    weights = dict(zip(batch.target_rows.tolist(), batch.weights.tolist(), strict=True))
    labels = dict(zip(batch.target_rows.tolist(), batch.labels.tolist(), strict=True))
    assert all(weights[i] == 1.0 and labels[i] == tokens[i] for i in changed)
    kept = [i for i in weights if i < 39 and i not in changed]
    assert kept
    assert all(weights[i] == 0.25 and labels[i] == tokens[i] for i in kept)
    assert weights[39] == 1.0
    assert labels[39] == 70
    assert [i for i in weights if i >= 42] == [42 + 39]


def test_drafts_are_masks():
    canvas = canvas_of(
        [8, *range(50, 88), MASK, MASK, MASK], [8, *range(50, 88), 70, EXPAND, DELETE], [0.0] * 39 + [1.0] * 3
    )
    counts = torch.ones(90, dtype=torch.float64)
    config = NoiseConfig(edit_rate=0.4, edit_block_rate=1.0, own_rate=1.0)
    batch = in_place_batch([[canvas]], 44, SPECIAL.pad, draw_of(1), Editor(config, counts, 10))
    # Whatever their label: else the masks that stay would tell it.
    assert batch.target_rows[batch.is_drafted].tolist() == [39, 40, 41]
    assert len(batch.target_rows) > 3
    without = in_place_batch([[canvas]], 44, SPECIAL.pad, draw_of(1))
    assert without.is_drafted is None


def test_a_spec_without_length_tokens_is_an_error():
    special = SpecialIds(pad=0, eos=1, mask=2, canvas=8)
    views = Views(ViewMix(), special, frozenset(), NEWLINE, list, str, (13, 14), no_nodes)
    with pytest.raises(ConfigError, match="expand and delete"):
        InPlaceNoise(views, special, InPlaceConfig(), NoiseConfig())


@pytest.mark.parametrize(
    "config",
    [
        {"whole_rate": 1.5},
        {"min_coverage": 0.6, "max_coverage": 0.5},
        {"known_length_rate": -0.1},
        {"start_rate": 0.5, "settled_rate": 0.6},
        {"settled_rate": -0.1},
        {"settled_spread": -1.0},
    ],
)
def test_bad_configs_are_errors(config):
    with pytest.raises(ConfigError):
        InPlaceConfig(**config)
