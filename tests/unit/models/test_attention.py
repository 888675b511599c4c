"""Every attention path against softmax attention written out one query at a time in float64."""

import math

import pytest
import torch

from quicksilver.models import attention as attention_module
from quicksilver.models.attention import TILE, DenseAttention, TiledAttention, plan_attention
from quicksilver.models.topology import Topology


def plain_attention(query, key, value, mask):
    """Float64, one query row at a time; key and value head g serves queries g * group ... (g + 1) * group - 1."""
    out = torch.zeros_like(query, dtype=torch.float64)
    group = query.shape[1] // key.shape[1]
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            for t in range(query.shape[2]):
                seen = mask[b, t]
                scores = key[b, h // group, seen].double() @ query[b, h, t].double() / math.sqrt(query.shape[-1])
                out[b, h, t] = scores.softmax(0) @ value[b, h // group, seen].double()
    return out


def random_heads(length, *, num_rows=2, num_heads=4, num_kv_heads=2, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(num_rows, heads, length, width) for heads in (num_heads, num_kv_heads, num_kv_heads)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def named_topology(kind, length):
    """A batch of two rows; ``length`` counts all token rows, so a training pair has canvases of half of it."""
    index = torch.arange(length).expand(2, -1)
    half = torch.arange(length // 2).expand(2, -1)
    documents = torch.stack([torch.arange(length) // 11, torch.arange(length) // (length // 2 + 1)])
    match kind:
        case "full":
            return Topology.block_causal(torch.zeros_like(index))
        case "causal":
            return Topology.block_causal(index.clone())
        case "block_causal":
            return Topology.block_causal(index // 5)
        case "packed":
            return Topology.block_causal(index // 3, documents)
        case "training_pair":
            return Topology.training_pair(half // 4, torch.zeros_like(half))
        case "packed_training_pair":
            return Topology.training_pair(half // 4, documents[:, : length // 2])
        case "mixed":  # one row in place, one causal, as a batch of mixed views is
            return Topology.block_causal(torch.stack([torch.zeros(length, dtype=torch.int64), torch.arange(length)]))
    raise AssertionError(kind)


KINDS = ["full", "causal", "block_causal", "packed", "training_pair", "packed_training_pair", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
def test_dense_attention_is_masked_softmax(kind):
    topology = named_topology(kind, 22)
    query, key, value = random_heads(22)
    out = DenseAttention(topology)(query, key, value)
    expected = plain_attention(query, key, value, topology.dense_mask())
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tile", [4, 7, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_tiled_attention_equals_dense_with_gradients(kind, tile, monkeypatch):
    monkeypatch.setattr(attention_module, "TILE", tile)
    topology = named_topology(kind, 46)
    heads = random_heads(46)
    weight = torch.randn(heads[0].shape, generator=torch.Generator().manual_seed(1))
    results = []
    for path in (DenseAttention(topology), TiledAttention(topology)):
        out = path(*heads)
        results.append((out, *torch.autograd.grad((out * weight).sum(), heads)))
    for dense, tiled in zip(*results, strict=True):
        torch.testing.assert_close(tiled, dense, rtol=0, atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_training_in_bf16_equals_float32_up_to_rounding(kind, monkeypatch):
    """Measured against float32 on the same rounded inputs; bf16 keeps 8 bits."""
    monkeypatch.setattr(attention_module, "TILE", 16)
    topology = named_topology(kind, 46)
    rounded = [x.detach().bfloat16() for x in random_heads(46, num_heads=6, num_kv_heads=2)]
    exact, coarse = ([x.to(dtype).requires_grad_() for x in rounded] for dtype in (torch.float32, torch.bfloat16))
    weight = torch.randn(rounded[0].shape, generator=torch.Generator().manual_seed(1))
    results = []
    for path, heads in ((DenseAttention(topology), exact), (TiledAttention(topology), coarse)):
        out = path(*heads)
        results.append((out, *torch.autograd.grad((out.float() * weight).sum(), heads)))
    for reference, ours in zip(*results, strict=True):
        assert ours.dtype is torch.bfloat16
        error = (ours.float() - reference).detach()
        assert float(error.norm() / reference.detach().norm()) < 2**-6


def test_tiles_at_their_real_size_with_a_ragged_last_tile():
    topology = named_topology("packed_training_pair", 2 * TILE + 50)
    heads = random_heads(2 * TILE + 50, num_rows=2)
    torch.testing.assert_close(TiledAttention(topology)(*heads), DenseAttention(topology)(*heads), rtol=0, atol=2e-5)


def test_tiles_nobody_sees_are_skipped(monkeypatch):
    """Under causal attention tile i needs i + 1 key tiles: 10 of 16 are read."""
    monkeypatch.setattr(attention_module, "TILE", 4)
    read = []
    real = torch.nn.functional.scaled_dot_product_attention

    def counting(query, key, value, attn_mask):
        read.append(key.shape[2])
        return real(query, key, value, attn_mask=attn_mask)

    monkeypatch.setattr(attention_module.F, "scaled_dot_product_attention", counting)
    TiledAttention(named_topology("causal", 16))(*random_heads(16))
    assert read == [4, 8, 12, 16]


def test_grouped_queries_equal_repeated_heads():
    topology = named_topology("block_causal", 20)
    query, key, value = random_heads(20, num_heads=6, num_kv_heads=2)
    grouped = DenseAttention(topology)(query, key, value)
    repeated = DenseAttention(topology)(query, *(x.repeat_interleave(3, dim=1) for x in (key, value)))
    assert torch.equal(grouped, repeated)


def test_what_is_masked_has_no_influence():
    """Changing keys and values a query may not see changes nothing, not even a bit."""
    topology = named_topology("causal", 12)
    query, key, value = random_heads(12)
    changed_key, changed_value = key.detach().clone(), value.detach().clone()
    changed_key[:, :, 8:], changed_value[:, :, 8:] = 1e4, -1e4
    before = DenseAttention(topology)(query, key, value)
    after = DenseAttention(topology)(query, changed_key, changed_value)
    assert torch.equal(before[:, :, :8], after[:, :, :8])
    assert not torch.equal(before[:, :, 8:], after[:, :, 8:])


def test_plan_attention_tiles_only_long_rows():
    assert isinstance(plan_attention(named_topology("causal", 2 * TILE - 1)), DenseAttention)
    assert isinstance(plan_attention(named_topology("causal", 2 * TILE)), TiledAttention)
