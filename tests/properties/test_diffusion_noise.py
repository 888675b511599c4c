"""Properties of noise that must hold for every input."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.edit import edit_noise
from quicksilver.diffusion.estimator import draw_counts, mask_exact_count, stratified_uniforms, target_counts
from quicksilver.diffusion.variable_length import LengthNoise, apply_length_tokens, length_noise, resized_noise

IDS = {"mask_id": 0, "expand_id": 1, "delete_id": 2}
FIRST_CONTENT_ID = 3


@st.composite
def holes(draw: st.DrawFn):
    content = draw(st.lists(st.integers(FIRST_CONTENT_ID, 20), max_size=24))
    is_masked = draw(st.lists(st.booleans(), min_size=len(content), max_size=len(content)))
    return torch.tensor(content, dtype=torch.int64), torch.tensor(is_masked, dtype=torch.bool)


def right_answers(content: torch.Tensor, stands_for: torch.Tensor) -> torch.Tensor:
    """What a perfect denoiser says at each canvas position, given how many tokens each stands for."""
    start = stands_for.cumsum(0) - stands_for
    token = torch.cat([content, content.new_zeros(1)])[start]
    return torch.where(stands_for == 0, IDS["delete_id"], torch.where(stands_for > 1, IDS["expand_id"], token))


@given(holes(), st.integers(0, 8), st.floats(0, 1), st.integers(0, 2**31))
def test_length_noise_round_trips(
    hole: tuple[torch.Tensor, torch.Tensor], num_extra: int, merge_probability: float, seed: int
):
    content, is_masked = hole
    uniforms = counter_uniform(seed, torch.arange(len(content)))
    noise = length_noise(content, is_masked, num_extra, uniforms, merge_probability, **IDS)
    assert int(noise.stands_for.sum()) == len(content)
    assert torch.equal(noise.labels, right_answers(content, noise.stands_for))
    assert torch.equal(noise.canvas_ids == IDS["mask_id"], noise.is_masked)
    assert noise.is_masked[noise.labels == IDS["delete_id"]].all()
    assert_undone(noise, content)


@given(st.integers(0, 40), st.lists(st.booleans(), min_size=1, max_size=9))
def test_a_resized_hole_round_trips(length: int, masked: list[bool]):
    content = 10 + torch.arange(length)
    noise = resized_noise(content, torch.tensor(masked), **IDS)
    assert int(noise.is_masked.sum()) == sum(masked)
    assert torch.equal(noise.labels, right_answers(content, noise.stands_for))
    assert_undone(noise, content)


def assert_undone(noise: LengthNoise, content: torch.Tensor) -> None:
    """A perfect denoiser restores the content in about log2 of the longest chain steps."""
    canvas, masked, stands_for = noise.canvas_ids, noise.is_masked, noise.stands_for
    for _ in range(1 + int(noise.stands_for.max() if len(noise.stands_for) else 0).bit_length()):
        answers = right_answers(content, stands_for)
        canvas, masked = apply_length_tokens(canvas, masked, answers, **IDS)
        # Every expanded position passes the larger half to its first mask.
        halves = [[s] if s == 1 else [] if s == 0 else [(s + 1) // 2, s // 2] for s in stands_for.tolist()]
        stands_for = torch.tensor([s for pair in halves for s in pair], dtype=torch.int64)
        assert len(canvas) == len(stands_for)
    assert torch.equal(canvas, content)
    assert not masked.any()


@given(st.integers(0, 2**31), st.floats(0, 0.5))
def test_edits_touch_only_editable_positions_and_leave_no_special_ids(seed: int, rate: float):
    shape = (3, 17)
    draws = [counter_uniform(seed, i, torch.arange(shape[0])[:, None], torch.arange(shape[1])) for i in range(4)]
    token_ids, replacements = (draws[0] * 8).long(), (draws[1] * 8).long()
    is_editable = draws[2] < 0.6
    special = torch.tensor([0, 1, 2])
    edited = edit_noise(token_ids, is_editable, replacements, draws[3], rate=rate, special_ids=special)
    changed = edited.token_ids != token_ids
    assert torch.equal(changed, edited.is_corrupted)
    assert not (changed & ~is_editable).any()
    assert not (edited.is_kept_sample & (~is_editable | changed)).any()
    assert not torch.isin(edited.token_ids[changed], special).any()


@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 5))
def test_every_block_gets_exactly_its_count(seed: int, num_rows: int, num_slots: int):
    length = 23
    draws = [counter_uniform(seed, i, torch.arange(num_rows)[:, None], torch.arange(length)) for i in range(3)]
    block_index = (draws[0] * (num_slots + 1)).long() - 1
    is_target = draws[1] < 0.7
    sizes = target_counts(block_index, is_target, num_slots)
    counts = draw_counts(stratified_uniforms(num_rows, num_slots, seed=seed, step=3), sizes)
    is_masked = mask_exact_count(block_index, is_target, counts, draws[2])
    assert torch.equal(target_counts(block_index, is_masked, num_slots), counts)
    assert not (is_masked & ~is_target).any()
    assert not (is_masked & (block_index < 0)).any()
    assert bool(((counts > 0) == (sizes > 0)).all())


@given(st.integers(0, 2**31), st.sampled_from([(8, 1), (8, 2), (8, 4), (12, 3)]))
def test_noise_of_a_row_does_not_depend_on_the_number_of_ranks(seed: int, split: tuple[int, int]):
    num_rows, num_ranks = split
    block_index = torch.arange(20).expand(num_rows, -1) // 5
    is_target = torch.ones_like(block_index, dtype=torch.bool)

    def noise_of(rows: torch.Tensor) -> torch.Tensor:
        u = stratified_uniforms(num_rows, 4, seed=seed, step=9)[rows]
        scores = counter_uniform(seed, 9, rows[:, None], torch.arange(20))
        counts = draw_counts(u, target_counts(block_index[rows], is_target[rows], 4))
        return mask_exact_count(block_index[rows], is_target[rows], counts, scores)

    whole = noise_of(torch.arange(num_rows))
    parts = [noise_of(torch.arange(rank, num_rows, num_ranks)) for rank in range(num_ranks)]
    for rank, part in enumerate(parts):
        assert torch.equal(part, whole[rank::num_ranks])
