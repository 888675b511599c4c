"""Length noise by hand-worked cases; the round trip is a property test."""

import pytest
import torch

from quicksilver.diffusion.variable_length import apply_length_tokens, length_noise, resized_noise
from quicksilver.errors import ConfigError

IDS = {"mask_id": 0, "expand_id": 1, "delete_id": 2}


def test_merges_chain_and_deletes_stand_apart():
    noise = length_noise(
        torch.tensor([10, 11, 12, 13, 14, 15, 16]),
        torch.tensor([True, True, True, False, True, True, True]),
        2,
        torch.tensor([0.1, 0.1, 0.1, 0.1, 0.9, 0.1, 0.1]),
        0.5,
        **IDS,
    )
    # 10, 11, 12 chain; 13 is visible; 14 stays alone; 15, 16 merge, and 16 does not merge into the first delete.
    assert noise.labels.tolist() == [1, 13, 14, 1, 2, 2]
    assert noise.canvas_ids.tolist() == [0, 13, 0, 0, 0, 0]
    assert noise.is_masked.tolist() == [True, False, True, True, True, True]
    assert noise.stands_for.tolist() == [3, 1, 1, 2, 0, 0]


def test_no_noise_is_plain_masking():
    content, is_masked = torch.tensor([10, 11, 12]), torch.tensor([True, True, False])
    noise = length_noise(content, is_masked, 0, torch.zeros(3), 0.0, **IDS)
    assert torch.equal(noise.labels, content)
    assert noise.canvas_ids.tolist() == [0, 0, 12]
    assert noise.is_masked.tolist() == [True, True, False]


def test_an_empty_hole_is_all_deletes():
    empty = torch.zeros(0, dtype=torch.int64)
    noise = length_noise(empty, empty.bool(), 3, torch.zeros(0), 0.5, **IDS)
    assert noise.labels.tolist() == [2, 2, 2]
    assert noise.is_masked.all()
    assert length_noise(empty, empty.bool(), 0, torch.zeros(0), 0.5, **IDS).labels.numel() == 0


def test_apply_ignores_predictions_at_visible_positions():
    canvas, masked = apply_length_tokens(
        torch.tensor([0, 7, 0, 0]), torch.tensor([True, False, True, True]), torch.tensor([1, 2, 2, 9]), **IDS
    )
    assert canvas.tolist() == [0, 0, 7, 9]
    assert masked.tolist() == [True, True, False, False]


def test_a_literal_mask_token_in_the_content_stays_visible():
    canvas, masked = apply_length_tokens(torch.tensor([0, 0]), torch.tensor([False, True]), torch.tensor([5, 6]), **IDS)
    assert canvas.tolist() == [0, 6]
    assert not masked.any()


def test_bad_parameters():
    with pytest.raises(ConfigError, match="num_extra"):
        length_noise(torch.tensor([5]), torch.tensor([True]), -1, torch.zeros(1), 0.5, **IDS)


@pytest.mark.parametrize(
    ("length", "labels"),
    [
        (0, [2, 2, 2, 2]),
        (3, [10, 11, 12, 2]),
        (4, [10, 11, 12, 13]),
        (6, [10, 11, 1, 1]),
        (8, [1, 1, 1, 1]),
        (11, [1, 1, 1, 1]),
    ],
)
def test_the_labels_of_a_first_canvas_tell_its_length(length, labels):
    noise = resized_noise(torch.arange(10, 10 + length), torch.ones(4, dtype=torch.bool), **IDS)
    assert noise.labels.tolist() == labels
    assert noise.canvas_ids.tolist() == [0] * 4
    assert noise.is_masked.all()
    assert noise.stands_for.sum() == length
    assert noise.stands_for.max() - noise.stands_for.min() <= 1


def test_a_first_canvas_needs_a_position():
    with pytest.raises(ConfigError, match="at least one position"):
        resized_noise(torch.arange(3), torch.ones(0, dtype=torch.bool), **IDS)


@pytest.mark.parametrize(
    ("length", "masked", "canvas", "labels"),
    [
        (2, "..M.", [10, 11, 0], [10, 11, 2]),  # the last position was decided: it is gone
        (3, "M..M", [0, 11, 12, 0], [10, 11, 12, 2]),
        (4, ".M..", [10, 0, 12, 13], [10, 11, 12, 13]),
        (6, "M.M.", [0, 11, 0, 14, 15], [10, 11, 1, 14, 15]),  # the last position stood for two tokens
        (9, "M..M", [0, 12, 13, 14, 15, 0], [1, 12, 13, 14, 15, 1]),
    ],
)
def test_decided_positions_show_all_they_stand_for(length, masked, canvas, labels):
    is_masked = torch.tensor([mark == "M" for mark in masked])
    noise = resized_noise(torch.arange(10, 10 + length), is_masked, **IDS)
    assert noise.canvas_ids.tolist() == canvas
    assert noise.labels.tolist() == labels
    assert noise.is_masked.tolist() == [token == 0 for token in canvas]
    assert noise.stands_for.sum() == length
