"""The canvas value type."""

import torch

from quicksilver.decoding import NO_HOLE, Canvas, State


def parts() -> Canvas:
    prompt, first, second = (
        Canvas.of_prompt([2, 7]),
        Canvas.of_masks(2, mask_id=2, hole=0),
        Canvas.of_masks(3, mask_id=2, hole=1),
    )
    return Canvas.join([prompt, first, second, Canvas.of_prompt([8])])


def test_a_literal_mask_in_the_prompt_is_prompt() -> None:
    canvas = parts()
    assert canvas.token_ids.tolist() == [2, 7, 2, 2, 2, 2, 2, 8]
    assert canvas.is_masked.tolist() == [False, False, True, True, True, True, True, False]
    assert canvas.hole.tolist() == [NO_HOLE, NO_HOLE, 0, 0, 1, 1, 1, NO_HOLE]


def test_offsets_restart_in_every_hole() -> None:
    assert parts().offset.tolist() == [0, 0, 0, 1, 0, 1, 2, 0]
    assert len(Canvas.of_prompt([]).offset) == 0


def test_operations_return_new_values() -> None:
    canvas = parts()
    where = torch.arange(8) == 3
    tokens, confidence = torch.full((8,), 9), torch.full((8,), 0.5)
    drafted = canvas.commit(where, tokens, confidence, step=4, state=State.DRAFT)
    assert canvas.is_masked[3]
    assert (drafted.token_ids[3], drafted.state[3], drafted.confidence[3], drafted.step_committed[3]) == (9, 2, 0.5, 4)
    edited = drafted.edit(where, tokens + 1, confidence, step=5)
    assert (edited.token_ids[3], edited.num_edits[3], edited.state[3]) == (10, 1, State.DRAFT)
    remasked = edited.remask(where, 2)
    assert (remasked.token_ids[3], remasked.state[3], remasked.num_edits[3]) == (2, State.MASK, 2)
    final = edited.finalize(torch.ones(8, dtype=torch.bool))
    assert final.state.tolist() == [0, 0, 1, 3, 1, 1, 1, 0]


def test_take_repeats_and_drops() -> None:
    canvas = parts().take(torch.tensor([0, 2, 2, 3, 7]))
    assert canvas.state.tolist() == [0, 1, 1, 1, 0]
    assert canvas.offset.tolist() == [0, 0, 1, 2, 0]
