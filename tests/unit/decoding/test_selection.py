"""The head: greedy ties, forbidden tokens, Gumbel sampling and its independence of neighbours."""

import math

import pytest
import torch
from torch import Tensor

from quicksilver.decoding import Candidates, select
from quicksilver.decoding.draws import Purpose, draw


def call(
    logits: Tensor,
    temperature: float = 0.0,
    forbidden: tuple[int, ...] = (),
    seed: int = 3,
    positions: Tensor | None = None,
    step: int = 0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Candidates:
    count = logits.shape[0]
    is_forbidden = torch.zeros(1, logits.shape[1], dtype=torch.bool)
    is_forbidden[0, list(forbidden)] = True
    return select(
        logits,
        is_forbidden=is_forbidden,
        temperature=torch.full((count,), temperature),
        seed=torch.full((count,), seed),
        positions=torch.arange(count) if positions is None else positions,
        step=torch.full((count,), step),
        top_k=None if top_k is None else torch.full((count,), top_k),
        top_p=None if top_p is None else torch.full((count,), top_p),
    )


def test_greedy_takes_the_lowest_id_among_equals() -> None:
    logits = torch.tensor([[1.0, 5.0, 5.0, 2.0], [0.0, 0.0, 0.0, 0.0]])
    assert call(logits).token_ids.tolist() == [1, 0]
    assert call(logits, forbidden=(0, 1)).token_ids.tolist() == [2, 2]


@pytest.mark.parametrize("vocab_size", [1, 2, 64, 65, 128, 192])
def test_the_best_and_the_second_best_wherever_they_stand(vocab_size: int) -> None:
    """Within one tile, in two tiles, equal or not; few values, so that ties are common."""
    generator = torch.Generator().manual_seed(vocab_size)
    logits = torch.randint(-3, 60, (200, vocab_size), generator=generator) / 8.0
    found = call(logits, forbidden=(5, 70) if vocab_size > 70 else ())
    for row, values in enumerate(logits.tolist()):
        allowed = {i: math.exp(v) for i, v in enumerate(values) if vocab_size <= 70 or i not in (5, 70)}
        ranked = sorted(allowed, key=lambda i: (-allowed[i], i))
        second = allowed[ranked[1]] if vocab_size > 1 else 0.0
        total = sum(allowed.values())
        assert found.token_ids[row] == ranked[0]
        assert found.confidence[row].item() == pytest.approx(allowed[ranked[0]] / total)
        assert found.margin[row].item() == pytest.approx((allowed[ranked[0]] - second) / total, abs=1e-7)


def test_numbers_are_those_of_the_softmax_over_allowed_tokens() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.2, 0.2, 0.1]]))
    found = call(logits, forbidden=(0,))
    assert found.token_ids.tolist() == [1]
    assert found.confidence.item() == pytest.approx(0.4)
    assert found.margin.item() == pytest.approx(0.0, abs=1e-6)
    assert found.entropy.item() == pytest.approx(-2 * 0.4 * math.log(0.4) - 0.2 * math.log(0.2), rel=1e-5)


def test_only_one_allowed_token_is_certain() -> None:
    found = call(torch.zeros(1, 3), temperature=1.0, forbidden=(0, 2))
    assert (found.token_ids.item(), found.confidence.item(), found.entropy.item()) == (1, 1.0, 0.0)


def test_confidence_of_a_sample_is_at_temperature_one() -> None:
    logits = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
    found = call(logits, temperature=2.5)
    expected = torch.softmax(logits, dim=-1).gather(-1, found.token_ids[:, None])[:, 0]
    assert torch.allclose(found.confidence, expected)
    assert (found.token_ids != found.argmax_ids).any()


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_samples_follow_the_softmax(temperature: float) -> None:
    # Seed 11, 40,000 draws: the standard error of a share is at most 0.0025; 0.0125 is five of them.
    probs = torch.tensor([0.45, 0.3, 0.2, 0.05])
    found = call(probs.log().expand(40_000, 4), temperature=temperature, seed=11)
    share = torch.bincount(found.token_ids, minlength=4) / 40_000
    expected = torch.softmax(probs.log() / temperature, dim=-1)
    assert (share - expected).abs().max() < 0.0125


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    logits = torch.randn(32, 50, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(32) * 7
    together = call(logits, temperature=1.0, positions=positions)
    for row in range(32):
        alone = call(logits[row : row + 1], temperature=1.0, positions=positions[row : row + 1])
        assert alone.token_ids.item() == together.token_ids[row].item()
        assert alone.confidence.item() == together.confidence[row].item()


def test_rows_mix_greedy_and_sampled() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(2))
    temperature = torch.tensor([0.0, 3.0] * 4)
    found = select(
        logits,
        is_forbidden=torch.zeros(1, 50, dtype=torch.bool),
        temperature=temperature,
        seed=torch.arange(8),
        positions=torch.arange(8),
        step=torch.zeros(8, dtype=torch.int64),
    )
    assert torch.equal(found.token_ids[::2], found.argmax_ids[::2])
    assert (found.token_ids[1::2] != found.argmax_ids[1::2]).any()


def test_draws_change_with_seed_position_and_step() -> None:
    logits = torch.zeros(64, 100)
    base = call(logits, temperature=1.0).token_ids
    assert (base != call(logits, temperature=1.0, seed=4).token_ids).sum() > 50
    assert (base != call(logits, temperature=1.0, step=1).token_ids).sum() > 50
    assert (base != call(logits, temperature=1.0, positions=torch.arange(64) + 64).token_ids).sum() > 50
    assert base.unique().shape[0] > 30


def test_top_k_and_top_p_keep_the_likeliest() -> None:
    logits = torch.log(torch.tensor([0.4, 0.3, 0.2, 0.1])).expand(500, 4)
    assert set(call(logits, temperature=1.0, top_k=2).token_ids.tolist()) == {0, 1}
    assert set(call(logits, temperature=1.0, top_p=0.65).token_ids.tolist()) == {0, 1}
    assert set(call(logits, temperature=1.0, top_p=0.95).token_ids.tolist()) == {0, 1, 2, 3}
    assert set(call(logits, temperature=1.0, top_k=3, top_p=0.75).token_ids.tolist()) == {0, 1}
    assert set(call(logits, temperature=1.0, top_p=0.01).token_ids.tolist()) == {0}


def test_forbidden_tokens_are_never_sampled() -> None:
    found = call(torch.zeros(2000, 5), temperature=5.0, forbidden=(0, 3))
    assert set(found.token_ids.tolist()) == {1, 2, 4}


def test_purposes_draw_independently() -> None:
    key = (torch.tensor(1), torch.arange(2000), torch.tensor(0))
    order, noise = draw(Purpose.ORDER, *key), draw(Purpose.NOISE, *key)
    # 2,000 pairs: the standard error of a correlation of independent draws is 0.022; 0.1 is more than four.
    assert torch.corrcoef(torch.stack([order, noise]))[0, 1].abs() < 0.1
