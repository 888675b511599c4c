"""Packed rows on hand-written documents, and what attention and targets make of padding."""

import numpy as np
import torch

from quicksilver.models.topology import Topology
from quicksilver.training.data.rows import pack_rows
from quicksilver.training.data.views import Document

PAD = 0


def document(token_ids: list[int], blocks: list[int], targets: list[int] | None = None) -> Document:
    is_target = np.ones(len(token_ids), dtype=bool) if targets is None else np.array(targets, dtype=bool)
    return Document(np.array(token_ids), is_target, np.array(blocks), np.ones(len(token_ids), dtype=np.float32))


def test_layout_of_a_row():
    rows = pack_rows(
        [[document([9, 50, 51, 52, 53], [0, 0, 1, 1, 2], [0, 1, 1, 1, 1]), document([9, 60], [0, 0])]], 9, PAD
    )
    assert rows.token_ids.tolist() == [[9, 50, 51, 52, 53, 9, 60, PAD, PAD]]
    assert rows.documents.tolist() == [[0, 0, 0, 0, 0, 1, 1, 2, 2]]
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 0, 1, 0, 1]]
    assert rows.blocks.tolist() == [[0, 0, 1, 1, 2, 0, 0, 0, 0]]
    assert rows.slots.tolist() == [[0, 0, 1, 1, 2, 3, 3, -1, -1]]
    assert rows.is_target.tolist() == [[False, True, True, True, True, True, True, False, False]]
    assert rows.num_targets == 6


def test_a_document_is_cut_at_the_end_of_its_row_and_later_ones_are_left_out():
    packed = [
        [document(list(range(50, 56)), [0, 0, 1, 1, 2, 2]), document([60, 61, 62], [0, 1, 2]), document([70], [0])]
    ]
    rows = pack_rows(packed, 8, PAD)
    assert rows.token_ids.tolist() == [[50, 51, 52, 53, 54, 55, 60, 61]]
    assert rows.documents.tolist() == [[0, 0, 0, 0, 0, 0, 1, 1]]
    assert rows.slots.tolist() == [[0, 0, 1, 1, 2, 2, 3, 4]]
    assert rows.num_targets == 8


def test_rows_do_not_touch_each_other():
    one, two = [document([50, 51, 52], [0, 0, 1])], [document([60], [0]), document([70, 71], [0, 1])]
    both = pack_rows([one, two], 4, PAD)
    for index, alone in enumerate((one, two)):
        single = pack_rows([alone], 4, PAD)
        for name in ("token_ids", "is_target", "documents", "positions", "blocks", "slots", "token_share"):
            assert torch.equal(getattr(both, name)[index], getattr(single, name)[0]), name


def test_padding_is_no_target_and_sees_no_document():
    rows = pack_rows([[document([50, 51, 52], [0, 0, 1])], [document([60, 61, 62, 63, 64], [0, 0, 1, 1, 2])]], 5, PAD)
    is_padding = rows.slots < 0
    assert is_padding.tolist() == [[False, False, False, True, True], [False] * 5]
    assert not (rows.is_target & is_padding).any()
    assert not rows.token_share[is_padding].any()
    for topology in (
        Topology.block_causal(rows.blocks, rows.documents),
        Topology.training_pair(rows.blocks, rows.documents),
    ):
        mask = topology.dense_mask()
        padding = is_padding if mask.shape[1] == 5 else torch.cat([is_padding, is_padding], dim=1)
        assert not mask[padding[:, :, None] != padding[:, None, :]].any()


def test_eos_fill_counts_as_one_token():
    scale = np.array([1, 1, 0.25, 0.25, 0.25, 0.25], dtype=np.float32)
    fill = Document(np.array([50, 51, 1, 1, 1, 1]), np.ones(6, dtype=bool), np.array([0, 0, 0, 0, 0, 0]), scale)
    assert pack_rows([[fill]], 6, PAD).num_targets == 3


def test_an_empty_row_is_padding():
    rows = pack_rows([[]], 4, PAD)
    assert rows.token_ids.tolist() == [[PAD] * 4]
    assert rows.num_targets == 0
    assert rows.slots.tolist() == [[-1] * 4]
