"""Training pairs and next-token batches against plain loops. Ids below 10 are special, text is 10 and up."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from quicksilver.diffusion.estimator import Weighting, spread_uniforms
from quicksilver.errors import ConfigError
from quicksilver.models.attention import DenseAttention
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.batch import cross_entropy_sums
from quicksilver.training.data.noising import Editor, NoiseConfig, NoiseDraw, autoregressive_batch, noise_training_pair
from quicksilver.training.data.rows import PackedRows, pack_rows
from quicksilver.training.data.views import Document, prompt_response
from tests.fakes import SPECIAL, fake_spec

VOCAB = 30
SENTINELS = frozenset(range(10)) - {SPECIAL.eos}


def documents(seed: int, sizes: tuple[int, ...], block_length: int = 4) -> list[Document]:
    rng = np.random.default_rng(seed)
    return [
        prompt_response(
            [np.array([SPECIAL.file]), rng.integers(10, VOCAB, size // 3)],
            rng.integers(10, VOCAB, size - size // 3),
            block_length,
            SPECIAL.eos if size % 2 else None,
            SENTINELS,
        )
        for size in sizes
    ]


def packed(length: int = 32) -> PackedRows:
    return pack_rows([documents(0, (9, 14)), documents(1, (20,)), documents(2, (5, 4, 7))], length, SPECIAL.pad)


def draw_of(rows: PackedRows, step: int = 3, seed: int = 1) -> NoiseDraw:
    num_rows, length = rows.token_ids.shape
    ids = torch.arange(num_rows)
    return NoiseDraw(seed, step, 100 * step + ids, spread_uniforms(num_rows, length, seed=seed, step=step))


def editor(config: NoiseConfig) -> Editor:
    counts = torch.ones(VOCAB, dtype=torch.float64)
    counts[:10] = 0
    return Editor(config, counts, 10)


def halves(batch, length: int):
    return batch.token_ids[:, :length], batch.token_ids[:, length:]


def at_rows(batch, values, shape) -> torch.Tensor:
    """Scatter values of the target rows into the whole batch."""
    out = torch.zeros(shape[0] * shape[1], dtype=values.dtype)
    out[batch.target_rows] = values
    return out.view(shape)


def test_exactly_k_targets_of_every_block_are_masked_and_nothing_else_changes():
    rows = packed()
    draw = draw_of(rows)
    batch = noise_training_pair(rows, draw, NoiseConfig(), fake_spec())
    noisy, clean = halves(batch, 32)
    assert torch.equal(clean, rows.token_ids)
    is_masked = noisy == SPECIAL.mask
    assert torch.equal(noisy[~is_masked], rows.token_ids[~is_masked])
    assert not (is_masked & ~rows.is_target).any()
    for row in range(3):
        for slot in range(int(rows.slots[row].max()) + 1):
            members = (rows.slots[row] == slot) & rows.is_target[row]
            size = int(members.sum())
            expected = min(math.floor(float(draw.slot_uniforms[row, slot]) * size) + 1, size)
            assert int((is_masked[row] & members).sum()) == expected


def test_targets_labels_and_weights_of_a_pair():
    rows = packed()
    draw = draw_of(rows)
    config = NoiseConfig(weighting=Weighting.ELBO)
    batch = noise_training_pair(rows, draw, config, fake_spec())
    noisy, _ = halves(batch, 32)
    expected = []
    for row, at in itertools.product(range(3), range(32)):
        if noisy[row, at] != SPECIAL.mask:
            continue
        block = [i for i in range(32) if rows.slots[row, i] == rows.slots[row, at] and rows.is_target[row, i]]
        masked = [i for i in block if noisy[row, i] == SPECIAL.mask]
        weight = len(block) / len(masked)
        expected.append((row * 64 + at, int(rows.token_ids[row, at]), weight))
    assert batch.target_rows.tolist() == [place for place, _, _ in expected]
    assert batch.labels.tolist() == [label for _, label, _ in expected]
    assert batch.weights.tolist() == pytest.approx([weight for _, _, weight in expected])
    # In figures all eos of a document count as one token; in the loss each is one.
    share = rows.token_share.flatten()[batch.target_rows % 64 + batch.target_rows // 64 * 32]
    assert share.min() < 1.0
    assert torch.allclose(batch.weights * share, batch.bound_weights)
    assert batch.num_targets == batch.num_bound_targets == rows.num_targets


def test_positions_and_topology_of_a_pair():
    rows = packed()
    batch = noise_training_pair(rows, draw_of(rows), NoiseConfig(), fake_spec())
    assert torch.equal(batch.positions, torch.cat([rows.positions] * 2, dim=1))
    mask = batch.topology.dense_mask()
    for row, q, k in itertools.product([0], range(64), range(64)):
        i, j = q % 32, k % 32
        same = rows.documents[row, i] == rows.documents[row, j]
        query_block, key_block = rows.blocks[row, i], rows.blocks[row, j]
        if q < 32:
            allowed = query_block == key_block if k < 32 else key_block < query_block
        else:
            allowed = k >= 32 and key_block <= query_block
        assert bool(mask[row, q, k]) == bool(same and allowed)


def test_noise_is_a_function_of_the_row_id_not_of_the_batch():
    rows = packed()
    draw = draw_of(rows)
    config = NoiseConfig(edit_rate=0.4, edit_block_rate=1.0)
    whole = noise_training_pair(rows, draw, config, fake_spec(), editor(config))
    for row in range(3):
        one = PackedRows(*(getattr(rows, name)[row : row + 1] for name in PackedRows.__slots__))
        single = NoiseDraw(draw.seed, draw.step, draw.row_ids[row : row + 1], draw.slot_uniforms[row : row + 1])
        alone = noise_training_pair(one, single, config, fake_spec(), editor(config))
        assert torch.equal(alone.token_ids[0], whole.token_ids[row])
        mine = whole.target_rows // 64 == row
        assert torch.equal(alone.target_rows, whole.target_rows[mine] - 64 * row)
        assert torch.equal(alone.weights, whole.weights[mine])


def test_edits_change_visible_targets_only_and_train_them():
    rows = packed()
    config = NoiseConfig(edit_rate=0.5, edit_block_rate=1.0, keep_weight=0.2)
    plain = noise_training_pair(rows, draw_of(rows), config, fake_spec())
    edited = noise_training_pair(rows, draw_of(rows), config, fake_spec(), editor(config))
    (noisy, clean), (unedited, _) = halves(edited, 32), halves(plain, 32)
    assert torch.equal(clean, rows.token_ids)
    assert torch.equal(noisy == SPECIAL.mask, unedited == SPECIAL.mask)
    is_masked = noisy == SPECIAL.mask
    is_wrong = (noisy != rows.token_ids) & ~is_masked
    assert is_wrong.sum() >= 5
    assert rows.is_target[is_wrong].all()
    assert (noisy[is_wrong] >= 10).all()
    weights = at_rows(edited, edited.weights, (3, 64))[:, :32]
    bound = at_rows(edited, edited.bound_weights, (3, 64))[:, :32]
    labels = at_rows(edited, edited.labels, (3, 64))[:, :32]
    assert torch.equal(labels[weights > 0], rows.token_ids[weights > 0])
    assert (weights[is_wrong] == 1.0).all()
    is_kept = (weights > 0) & ~is_masked & ~is_wrong
    assert is_kept.any()
    assert torch.allclose(weights[is_kept], torch.tensor(0.2))
    assert not bound[~is_masked].any()
    assert edited.num_bound_targets == 0
    # The masks themselves are trained as without edits.
    assert torch.equal(weights[is_masked], at_rows(plain, plain.weights, (3, 64))[:, :32][is_masked])


def test_drafts_are_masks_of_blocks_with_edits_and_change_nothing_else():
    rows = packed()
    spec = replace(fake_spec(), has_causal_context=True)
    base = NoiseConfig(edit_rate=0.3, next_token_weight=0.5)
    configs = [
        replace(base, own_rate=rate, edit_block_rate=blocks) for rate, blocks in ((0.0, 1.0), (1.0, 1.0), (1.0, 0.5))
    ]
    none, every, half = (noise_training_pair(rows, draw_of(rows), c, spec, editor(c)) for c in configs)
    assert none.is_drafted is None
    for name in ("token_ids", "target_rows", "labels", "weights", "bound_weights"):
        assert torch.equal(getattr(none, name), getattr(every, name))
    # Of the noisy half: its mask tokens, all of them where every block has edits and the rate is 1.
    assert torch.equal(every.is_drafted, none.token_ids.flatten()[none.target_rows] == SPECIAL.mask)
    drafted = at_rows(half, half.is_drafted, (3, 64))[:, :32]
    is_masked = half.token_ids[:, :32] == SPECIAL.mask
    blocks = [is_masked[row] & (rows.slots[row] == slot) for row in range(3) for slot in range(8)]
    drafted_of = [{*drafted[at // 8][block].tolist()} for at, block in enumerate(blocks) if block.any()]
    assert {True} in drafted_of
    assert {False} in drafted_of
    assert {True, False} not in drafted_of


def test_the_share_of_drafts():
    rows = pack_rows([documents(seed, (390,), 400) for seed in range(20)], 400, SPECIAL.pad)
    config = NoiseConfig(own_rate=0.3, edit_block_rate=1.0)
    batch = noise_training_pair(rows, draw_of(rows), config, fake_spec(), editor(config))
    num_masked = int((batch.token_ids == SPECIAL.mask).sum())
    # Some 4,000 masks: sigma 0.0073; 5 sigma.
    assert num_masked > 2000
    assert abs(float(batch.is_drafted.sum()) / num_masked - 0.3) < 0.05


def test_edit_rates():
    # One block of 400 visible or masked tokens per row; two rates within 5 sigma (sigma of a share of 2,000: 0.011).
    rng = np.random.default_rng(0)
    text = [
        [prompt_response([np.array([SPECIAL.file])], rng.integers(10, 1000, 399), 400, None, SENTINELS)]
        for _ in range(20)
    ]
    rows = pack_rows(text, 400, SPECIAL.pad)
    config = NoiseConfig(edit_rate=0.3, edit_block_rate=0.5)
    counts = torch.ones(1000, dtype=torch.float64)
    counts[:10] = 0
    batch = noise_training_pair(rows, draw_of(rows), config, fake_spec(), Editor(config, counts, 10))
    noisy, clean = halves(batch, 400)
    is_visible = (noisy != SPECIAL.mask) & rows.is_target
    in_response = rows.blocks == 1
    shares = [
        float(
            ((noisy != clean) & is_visible & in_response)[row].sum()
            / (is_visible & in_response)[row].sum().clamp(min=1)
        )
        for row in range(20)
    ]
    has_edits = [share > 0.05 for share in shares]
    # 10 of 20 blocks, sigma 2.2; a block's share is 0.3, its sigma below 0.05 for 100 visible tokens.
    assert 1 <= sum(has_edits) <= 19
    many = (is_visible & in_response).sum(dim=1) > 100
    assert all(abs(share - 0.3) < 0.2 for share, has, m in zip(shares, has_edits, many, strict=True) if has and m)


def test_next_token_loss_rides_on_the_clean_half_of_a_causal_context():
    rows = packed()
    spec = replace(fake_spec(), has_causal_context=True)
    plain = noise_training_pair(rows, draw_of(rows), NoiseConfig(), spec)
    batch = noise_training_pair(rows, draw_of(rows), NoiseConfig(next_token_weight=0.25), spec)
    twin = autoregressive_batch(rows)
    assert torch.equal(batch.token_ids, plain.token_ids)
    row, at = batch.target_rows // 64, batch.target_rows % 64
    is_clean = at >= 32
    assert torch.equal((row * 32 + at - 32)[is_clean], twin.target_rows)
    assert torch.equal(batch.labels[is_clean], twin.labels)
    assert torch.allclose(batch.weights[is_clean], 0.25 * twin.weights)
    assert not batch.bound_weights[is_clean].any()
    assert torch.equal(batch.weights[~is_clean], plain.weights)
    # A clean row must not see its label.
    mask = batch.topology.dense_mask()
    for r, q in zip(row[is_clean].tolist(), at[is_clean].tolist(), strict=True):
        assert not mask[r, q, 32:][q - 32 + 1 :].any()
        assert not mask[r, q, :32].any()


def test_autoregressive_labels_are_the_next_tokens_of_the_same_document():
    rows = packed()
    batch = autoregressive_batch(rows)
    expected = []
    for row, at in itertools.product(range(3), range(31)):
        is_same = rows.documents[row, at] == rows.documents[row, at + 1]
        if is_same and rows.is_target[row, at + 1]:
            expected.append((row * 32 + at, int(rows.token_ids[row, at + 1])))
    assert batch.target_rows.tolist() == [place for place, _ in expected]
    assert batch.labels.tolist() == [label for _, label in expected]
    assert (batch.weights == 1.0).all()
    assert torch.equal(batch.weights, batch.bound_weights)
    mask = batch.topology.dense_mask()
    for row, q, k in itertools.product(range(3), range(32), range(32)):
        assert bool(mask[row, q, k]) == bool(rows.documents[row, q] == rows.documents[row, k] and k <= q)


def nats(denoiser: Denoiser, token_ids: list[int], is_masked: tuple[bool, ...], start: int) -> list[float]:
    """Negative log-likelihood of each masked token of a block at the document's end, which sees all before it."""
    canvas = [SPECIAL.mask if m else t for t, m in zip(token_ids[start:], is_masked, strict=True)]
    ids = torch.tensor([token_ids[:start] + canvas])
    positions = torch.arange(len(token_ids))[None]
    topology = Topology.block_causal(torch.where(positions < start, 0, 1))
    log_p = denoiser.logits(denoiser(ids, positions, DenseAttention(topology)))[0].log_softmax(dim=-1)
    return [-float(log_p[start + i, token_ids[start + i]]) for i, m in enumerate(is_masked) if m]


@torch.no_grad()
def test_the_bound_averages_to_the_any_order_loss():
    # Brute force over all masked sets of one block of 3 behind a clean prompt, against 400 steps of the estimator.
    shape = DenoiserConfig(
        vocab_size=VOCAB, num_layers=1, model_width=16, num_heads=2, num_kv_heads=2, head_width=8, ffn_width=16
    )
    denoiser = Denoiser(shape)
    denoiser.initialise(0)
    generator = torch.Generator().manual_seed(0)
    for parameter in denoiser.parameters():
        parameter += 0.5 * torch.randn(parameter.shape, generator=generator)
    text = [SPECIAL.file, 12, 15, 11, 20, 13]
    document = Document(
        np.array(text), np.array([False] * 3 + [True] * 3), np.array([0, 0, 0, 1, 1, 1]), np.ones(6, dtype=np.float32)
    )
    exact = 0.0
    for size in (1, 2, 3):
        sets = [s for s in itertools.product([False, True], repeat=3) if sum(s) == size]
        exact += sum(3 / size * sum(nats(denoiser, text, s, 3)) for s in sets) / len(sets) / 3
    rows = pack_rows([[document]] * 8, 6, SPECIAL.pad)
    means = []
    for step in range(50):
        batch = noise_training_pair(rows, draw_of(rows, step), NoiseConfig(), fake_spec())
        assert batch.num_bound_targets == 24
        means.append(float(cross_entropy_sums(denoiser, batch).bound) / 8)
    sigma = np.std(means) / math.sqrt(50)
    assert abs(np.mean(means) - exact) < 4 * sigma
    assert sigma < 0.05 * exact


@pytest.mark.parametrize(
    "change",
    [{"edit_rate": 0.6}, {"edit_block_rate": 1.1}, {"keep_weight": -1.0}, {"own_rate": 1.5}, {"edit_start": 2.0}],
)
def test_bad_noise_is_an_error(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        NoiseConfig(**change)
