"""Topologies against the rule written out as three nested loops."""

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings

from quicksilver.models.topology import Topology


def plain_mask(topology: Topology) -> torch.Tensor:
    """Who may see whom, one pair at a time, from the sentences of the module's docstring."""
    documents, blocks, noisy = (x.tolist() for x in (topology.documents, topology.blocks, topology.is_noisy))
    num_rows, length = topology.blocks.shape
    mask = torch.zeros(num_rows, length, length, dtype=torch.bool)
    for b in range(num_rows):
        for q in range(length):
            for k in range(length):
                if documents[b][q] != documents[b][k]:
                    continue
                if noisy[b][q] and noisy[b][k]:
                    mask[b, q, k] = blocks[b][q] == blocks[b][k]
                elif noisy[b][q]:
                    mask[b, q, k] = blocks[b][k] < blocks[b][q]
                elif not noisy[b][k]:
                    mask[b, q, k] = blocks[b][k] <= blocks[b][q]
    return mask


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 12))

    def ids(highest: int) -> torch.Tensor:
        row = st.lists(st.integers(0, highest), min_size=length, max_size=length)
        return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)))

    return Topology(ids(2), ids(3), ids(1).bool())


@given(topology=topologies())
@settings(max_examples=60)
def test_dense_mask_is_the_rule(topology):
    assert torch.equal(topology.dense_mask(), plain_mask(topology))


def test_all_zero_blocks_are_full_attention():
    assert Topology.block_causal(torch.zeros(2, 5, dtype=torch.int64)).dense_mask().all()


def test_single_token_blocks_are_causal_attention():
    mask = Topology.block_causal(torch.arange(6)[None]).dense_mask()
    assert torch.equal(mask[0], torch.ones(6, 6, dtype=torch.bool).tril())


def test_packed_documents_do_not_see_each_other():
    documents = torch.tensor([[0, 0, 0, 1, 1, 2]])
    mask = Topology.block_causal(torch.zeros(1, 6, dtype=torch.int64), documents).dense_mask()
    assert torch.equal(mask[0], torch.block_diag(torch.ones(3, 3), torch.ones(2, 2), torch.ones(1, 1)).bool())


def test_training_pair_written_out():
    """Blocks {0, 1} and {2, 3}: the 8 x 8 picture of BD3-LM's figure 2, noisy half first."""
    pair = Topology.training_pair(torch.tensor([[0, 0, 1, 1]]), torch.zeros(1, 4, dtype=torch.int64))
    expected = torch.tensor(
        [
            [1, 1, 0, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0, 0, 0],
            [0, 0, 1, 1, 1, 1, 0, 0],
            [0, 0, 1, 1, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 1, 0, 0],
            [0, 0, 0, 0, 1, 1, 1, 1],
            [0, 0, 0, 0, 1, 1, 1, 1],
        ]
    ).bool()
    assert torch.equal(pair.dense_mask()[0], expected)


def test_causal_context_written_out_for_ragged_blocks_of_packed_documents():
    """Draft rows see their block and all clean tokens before it; clean rows see themselves and what is before them."""
    documents, blocks = torch.tensor([[0, 0, 0, 1, 1, 1, 1]]), torch.tensor([[0, 0, 1, 0, 0, 0, 1]])
    found = Topology.training_pair(blocks, documents, has_causal_context=True).dense_mask()[0]
    expected = torch.zeros(14, 14, dtype=torch.bool)
    for q in range(7):
        for k in range(7):
            if documents[0, q] == documents[0, k]:
                expected[q, k] = blocks[0, q] == blocks[0, k]
                expected[q, 7 + k] = blocks[0, k] < blocks[0, q]
                expected[7 + q, 7 + k] = k <= q
    assert torch.equal(found, expected)


def test_training_pair_with_packed_documents_is_the_rule():
    documents = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 2], [0, 0, 1, 1, 1, 1, 1, 1]])
    blocks = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 0], [0, 1, 0, 0, 0, 1, 1, 2]])
    pair = Topology.training_pair(blocks, documents)
    assert torch.equal(pair.dense_mask(), plain_mask(pair))


@pytest.mark.parametrize("kind", ["full", "causal", "pair"])
def test_every_token_sees_itself(kind):
    """A row of the mask without a True would make softmax divide by zero."""
    blocks = {"full": torch.zeros(1, 7, dtype=torch.int64)}.get(kind, torch.arange(7)[None] // 2)
    topology = Topology.block_causal(blocks)
    if kind == "pair":
        topology = Topology.training_pair(blocks, torch.arange(7)[None] // 4)
    assert topology.dense_mask().diagonal(dim1=1, dim2=2).all()


def test_mask_mod_agrees_with_the_dense_mask_pair_by_pair():
    pair = Topology.training_pair(torch.arange(6)[None] // 2, torch.arange(6)[None] // 4)
    allowed, dense = pair.mask_mod(), pair.dense_mask()
    at = [torch.tensor(i) for i in range(12)]
    for q in range(12):
        for k in range(12):
            assert bool(allowed(at[0], at[0], at[q], at[k])) == bool(dense[0, q, k])
