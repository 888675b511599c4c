"""Design contract 2: the trainer's forward over [noisy ⊕ clean] gives the logits of serving block by block.

Three plain servers are compared with it, in float64: one that recomputes everything for every block, one that keeps
keys and values in a list, and one that goes token by token as autoregressive models do. Tolerance 1e-5: logits are
handed out in float32.
"""

import itertools
from dataclasses import replace

import pytest
import torch

from quicksilver.api.network import FullRecompute, PairLogits
from quicksilver.models.attention import DenseAttention, TiledAttention
from quicksilver.models.layers import rotary_angles
from quicksilver.models.topology import Topology
from tests.tiny import hidden_of, logits_of, random_denoiser, random_tokens, tiny_config
from tests.tiny_checkpoints import tiny_spec

MASK = 2
LENGTH = 20


def noised(clean, blocks, seed=1):
    """Replace about half of the tokens by the mask, and keep block 1 as it is."""
    is_masked = torch.rand(clean.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(is_masked & (blocks != 1), MASK, clean)


def trained(denoiser, noisy, clean, blocks, documents=None, positions=None, *, has_causal_context=False):
    """Logits of the noisy half of one forward over 2L rows."""
    documents = torch.zeros_like(blocks) if documents is None else documents
    if positions is None:
        positions = torch.arange(clean.shape[1]).expand_as(clean)
    pair = Topology.training_pair(blocks, documents, has_causal_context=has_causal_context)
    logits = logits_of(denoiser, torch.cat([noisy, clean], 1), pair, torch.cat([positions, positions], 1))
    return logits[:, : clean.shape[1]]


def recomputed(denoiser, noisy, clean, block_length, has_causal_context):
    """Every block anew from [clean past, noisy block]; no cache and no second copy."""
    out = []
    for start in range(0, clean.shape[1], block_length):
        stop = min(start + block_length, clean.shape[1])
        canvas = torch.cat([clean[:, :start], noisy[:, start:stop]], 1)
        index = torch.arange(stop).expand_as(canvas)
        blocks = index.clamp(max=start) if has_causal_context else index // block_length
        out.append(logits_of(denoiser, canvas, Topology.block_causal(blocks))[:, start:])
    return torch.cat(out, 1)


class ListCache:
    """Keys and values of committed tokens, one growing pair of tensors per layer."""

    def __init__(self, denoiser, has_causal_context):
        self.denoiser = denoiser
        self.has_causal_context = has_causal_context
        self.past = [None] * denoiser.config.num_layers
        self.length = 0

    def forward(self, token_ids, *, is_commit):
        """Rows see the whole past and each other; a commit pass appends them to it."""
        config = self.denoiser.config
        hidden = self.denoiser.model.embed_tokens(token_ids)
        positions = self.length + torch.arange(token_ids.shape[1]).expand_as(token_ids)
        rotation = rotary_angles(positions, config.rotary, hidden.dtype)
        for index, layer in enumerate(self.denoiser.layers()):
            query, key, value = layer.project(hidden, rotation)
            if self.past[index] is not None:
                key = torch.cat([self.past[index][0], key], 2)
                value = torch.cat([self.past[index][1], value], 2)
            if is_commit:
                self.past[index] = (key, value)
            group = config.num_heads // config.num_kv_heads
            scores = query @ key.repeat_interleave(group, 1).mT / config.head_width**0.5
            if is_commit and self.has_causal_context:
                is_future = torch.ones_like(scores, dtype=torch.bool).triu(scores.shape[-1] - scores.shape[-2] + 1)
                scores = scores.masked_fill(is_future, -torch.inf)
            hidden = layer.finish(hidden, scores.softmax(-1) @ value.repeat_interleave(group, 1))
        if is_commit:
            self.length += token_ids.shape[1]
        return self.denoiser.logits(self.denoiser.model.norm(hidden))


def cached(denoiser, noisy, clean, block_length, has_causal_context):
    """Denoise each block over the cache, then commit its clean tokens in a second pass."""
    cache, out = ListCache(denoiser, has_causal_context), []
    for start in range(0, clean.shape[1], block_length):
        window = slice(start, min(start + block_length, clean.shape[1]))
        out.append(cache.forward(noisy[:, window], is_commit=False))
        cache.forward(clean[:, window], is_commit=True)
    return torch.cat(out, 1)


CONFIGS = {
    "qwen3": tiny_config(),
    "qwen2": tiny_config(has_qkv_bias=True, has_qk_norm=False, has_tied_embeddings=False),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("block_length", [1, 4, 6, LENGTH])
@pytest.mark.parametrize("has_causal_context", [False, True])
@pytest.mark.parametrize("server", [recomputed, cached])
def test_one_training_forward_equals_serving_block_by_block(server, has_causal_context, block_length, name):
    denoiser = random_denoiser(CONFIGS[name])
    clean = random_tokens(2, LENGTH)
    blocks = torch.arange(LENGTH).expand_as(clean) // block_length
    noisy = noised(clean, blocks)
    expected = server(denoiser, noisy, clean, block_length, has_causal_context)
    found = trained(denoiser, noisy, clean, blocks, has_causal_context=has_causal_context)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("block_length", [1, 4, 6, LENGTH])
@pytest.mark.parametrize("has_causal_context", [False, True])
def test_shifted_predictions_are_those_of_serving_block_by_block(has_causal_context, block_length):
    """The row before a token, with all earlier blocks committed: of a block's first token that row is committed too."""
    denoiser = random_denoiser()
    clean = random_tokens(2, LENGTH)
    blocks = torch.arange(LENGTH).expand_as(clean) // block_length
    noisy = noised(clean, blocks)
    logits = FullRecompute(denoiser, prediction_shift=1)
    expected = torch.zeros(2, LENGTH, denoiser.config.vocab_size)
    for row, at in itertools.product(range(2), range(LENGTH)):
        start = at // block_length * block_length
        stop = min(start + block_length, LENGTH)
        seen = torch.cat([clean[row, :start], noisy[row, start:stop]])
        index = torch.arange(stop)
        seen_blocks = index.clamp(max=start) if has_causal_context else index // block_length
        expected[row, at] = logits(seen, seen_blocks)[at]
    spec = replace(tiny_spec(), prediction_shift=1, has_causal_context=has_causal_context)
    found = PairLogits(denoiser, spec)(noisy, clean, block_length)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_the_equality_is_not_vacuous():
    """Another clean past, another noisy block or another block length must each change the logits."""
    denoiser = random_denoiser()
    clean = random_tokens(2, LENGTH)
    blocks = torch.arange(LENGTH).expand_as(clean) // 4
    noisy = noised(clean, blocks)
    logits = trained(denoiser, noisy, clean, blocks)
    other_past, other_draft = clean.clone(), noisy.clone()
    other_past[:, 0] = (clean[:, 0] + 1) % 61
    other_draft[:, 4] = (noisy[:, 4] + 1) % 61
    past_changes = (trained(denoiser, noisy, other_past, blocks) - logits).abs().amax(-1) > 1e-4
    assert not past_changes[:, :4].any()
    assert past_changes[:, 4:].all()
    draft_changes = (trained(denoiser, other_draft, clean, blocks) - logits).abs().amax(-1) > 1e-4
    assert draft_changes[:, 4:8].all()
    assert not draft_changes[:, :4].any()
    assert not draft_changes[:, 8:].any()
    assert not torch.allclose(trained(denoiser, noisy, clean, blocks // 2), logits, atol=1e-2)


def test_block_length_1_all_masked_is_the_autoregressive_chain():
    """Row i of the training forward is the prediction of token i from [x_0 .. x_(i-1), MASK] under causal attention."""
    denoiser = random_denoiser()
    clean = random_tokens(2, LENGTH)
    one_by_one = []
    for i in range(LENGTH):
        canvas = torch.cat([clean[:, :i], torch.full((2, 1), MASK)], 1)
        causal = Topology.block_causal(torch.arange(i + 1).expand_as(canvas))
        one_by_one.append(logits_of(denoiser, canvas, causal)[:, -1])
    expected = torch.stack(one_by_one, 1).log_softmax(-1)
    blocks = torch.arange(LENGTH).expand_as(clean)
    found = trained(denoiser, torch.full_like(clean, MASK), clean, blocks).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    likelihood = [x.gather(-1, clean[..., None]).sum((1, 2)) for x in (found, expected)]
    torch.testing.assert_close(likelihood[0], likelihood[1], rtol=1e-6, atol=0)


def test_packed_documents_equal_documents_alone():
    """Two documents in one row give what each gives in a row of its own, with positions and blocks of its own."""
    denoiser = random_denoiser()
    lengths = (13, LENGTH - 13)
    clean = random_tokens(1, LENGTH)
    index = [torch.arange(n) for n in lengths]
    positions = torch.cat(index)[None]
    blocks = torch.cat([i // 4 for i in index])[None]
    documents = torch.cat([torch.full((n,), d) for d, n in enumerate(lengths)])[None]
    noisy = noised(clean, blocks)
    packed = trained(denoiser, noisy, clean, blocks, documents, positions)
    for part in (slice(0, 13), slice(13, LENGTH)):
        alone = trained(denoiser, noisy[:, part], clean[:, part], blocks[:, part])
        torch.testing.assert_close(packed[:, part], alone, rtol=0, atol=1e-5)


def test_clean_half_is_what_the_prompt_gives():
    """The clean half never sees the noisy one: it equals a plain block-causal forward, so its keys may be cached."""
    denoiser = random_denoiser()
    clean = random_tokens(2, LENGTH)
    blocks = torch.arange(LENGTH).expand_as(clean) // 4
    positions = torch.arange(LENGTH).expand_as(clean)
    rows = torch.cat([noised(clean, blocks), clean], 1)
    pair = Topology.training_pair(blocks, torch.zeros_like(blocks))
    found = hidden_of(denoiser, rows, pair, torch.cat([positions, positions], 1))[:, LENGTH:]
    torch.testing.assert_close(found, hidden_of(denoiser, clean, Topology.block_causal(blocks)), rtol=0, atol=1e-9)


def test_with_a_causal_context_the_clean_half_is_an_autoregressive_model():
    denoiser = random_denoiser()
    clean = random_tokens(2, LENGTH)
    index = torch.arange(LENGTH).expand_as(clean)
    pair = Topology.training_pair(index // 4, torch.zeros_like(index), has_causal_context=True)
    rows = torch.cat([noised(clean, index // 4), clean], 1)
    found = hidden_of(denoiser, rows, pair, torch.cat([index, index], 1))[:, LENGTH:]
    torch.testing.assert_close(found, hidden_of(denoiser, clean, Topology.block_causal(index)), rtol=0, atol=1e-9)


def test_tiled_training_forward_and_gradients_equal_dense(monkeypatch):
    """Whole network: loss and every parameter's gradient, with tiles small enough that some are skipped."""
    monkeypatch.setattr("quicksilver.models.attention.TILE", 8)
    clean = random_tokens(2, LENGTH)
    blocks = torch.arange(LENGTH).expand_as(clean) // 4
    pair = Topology.training_pair(blocks, torch.arange(LENGTH).expand_as(clean) // 12)
    rows = torch.cat([noised(clean, blocks), clean], 1)
    positions = torch.arange(LENGTH).repeat(2).expand_as(rows)
    gradients = []
    for path in (DenseAttention, TiledAttention):
        denoiser = random_denoiser().requires_grad_(True)
        logits = denoiser.logits(denoiser(rows, positions, path(pair))[:, :LENGTH])
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), clean.flatten()).backward()
        gradients.append({name: p.grad for name, p in denoiser.named_parameters()})
    for name, dense in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], dense, rtol=0, atol=1e-7, msg=lambda m, n=name: f"{n}: {m}")
