"""Edit noise and its sources of wrong tokens."""

import pytest
import torch

from quicksilver.diffusion.counter_rng import counter_uniform
from quicksilver.diffusion.edit import choose_replacements, edit_noise, swap_replacements, unigram_replacements
from quicksilver.errors import ConfigError

SPECIAL = torch.tensor([0, 1])


def grid(rows: int, length: int, seed: int):
    return counter_uniform(seed, torch.arange(rows)[:, None], torch.arange(length))


def test_rate_and_kept_sample_have_the_same_expected_size():
    # 40000 positions at rate 0.15: sigma of a share is 0.0018; 5 sigma.
    token_ids = torch.full((200, 200), 5)
    editable = torch.ones_like(token_ids, dtype=torch.bool)
    edited = edit_noise(token_ids, editable, token_ids + 1, grid(200, 200, 0), rate=0.15, special_ids=SPECIAL)
    assert float(edited.is_corrupted.float().mean()) == pytest.approx(0.15, abs=0.009)
    assert float(edited.is_kept_sample.float().mean()) == pytest.approx(0.15, abs=0.009)
    assert not (edited.is_corrupted & edited.is_kept_sample).any()
    assert torch.equal(edited.token_ids, torch.where(edited.is_corrupted, 6, 5))


def test_useless_replacements_are_dropped():
    token_ids = torch.tensor([[5, 5, 5, 5]])
    edited = edit_noise(
        token_ids,
        torch.tensor([[True, True, True, False]]),
        torch.tensor([[5, 1, 7, 7]]),
        torch.zeros(1, 4),
        rate=0.3,
        special_ids=SPECIAL,
    )
    assert edited.is_corrupted.tolist() == [[False, False, True, False]]
    assert edited.token_ids.tolist() == [[5, 5, 7, 5]]
    assert not edited.is_kept_sample.any()


def test_rate_may_differ_between_positions():
    token_ids = torch.full((1, 2), 5)
    rate = torch.tensor([[0.0, 0.5]], dtype=torch.float64)
    scores = torch.tensor([[0.0, 0.4]], dtype=torch.float64)
    edited = edit_noise(token_ids, token_ids > 0, token_ids + 1, scores, rate=rate, special_ids=SPECIAL)
    assert edited.is_corrupted.tolist() == [[False, True]]


@pytest.mark.parametrize("rate", [-0.1, 0.51])
def test_bad_rate(rate: float):
    ids = torch.full((1, 2), 5)
    with pytest.raises(ConfigError, match="edit rate"):
        edit_noise(ids, ids > 0, ids, torch.zeros(1, 2), rate=rate, special_ids=SPECIAL)


def test_unigram_replacements_follow_the_counts():
    # 40000 draws: sigma of a share is at most 0.0025; 5 sigma.
    counts = torch.tensor([0.0, 0.0, 3.0, 0.0, 1.0, 0.0])
    ids = unigram_replacements(counts, grid(200, 200, 4))
    shares = ids.flatten().bincount(minlength=6) / ids.numel()
    torch.testing.assert_close(shares, counts / 4, atol=0.0125, rtol=0)
    edges = unigram_replacements(counts, torch.tensor([[0.0, 0.75, 1.0]], dtype=torch.float64))
    assert edges.tolist() == [[2, 4, 4]]
    with pytest.raises(ConfigError, match="zero"):
        unigram_replacements(torch.zeros(3), torch.zeros(1, 1))


def test_swaps_permute_within_documents():
    token_ids = torch.arange(2 * 9).view(2, 9)
    documents = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1, -1], [3, 3, 3, 3, 3, 3, 4, 4, 4]])
    swapped = swap_replacements(token_ids, documents, grid(2, 9, 8))
    for row in range(2):
        for document in documents[row].unique():
            members = documents[row] == document
            assert sorted(swapped[row, members].tolist()) == sorted(token_ids[row, members].tolist())
    assert not torch.equal(swapped, token_ids)


def test_choice_of_sources():
    sources = torch.stack([torch.full((100, 100), i) for i in range(3)])
    chosen = choose_replacements(sources, (2.0, 1.0, 1.0), grid(100, 100, 2))
    # 10000 draws: sigma of a share is at most 0.005; 5 sigma.
    shares = chosen.flatten().bincount(minlength=3) / chosen.numel()
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.25, 0.25]), atol=0.025, rtol=0)
    with pytest.raises(ConfigError, match="share"):
        choose_replacements(sources, (1.0,), grid(100, 100, 2))
