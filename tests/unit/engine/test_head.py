"""The tiled head gives every row what it would get alone."""

from dataclasses import replace

import pytest
import torch

from quicksilver.decoding.selection import likeliest_tokens, select
from quicksilver.engine import head
from quicksilver.engine.head import HeadParams, choose
from tests.tiny import TINY, random_denoiser


def params_of(count: int, num_sets: int) -> HeadParams:
    generator = torch.Generator().manual_seed(3)
    return HeadParams(
        is_forbidden=torch.rand(num_sets, TINY.vocab_size, generator=generator) < 0.3,
        is_withheld=torch.rand(num_sets, TINY.vocab_size, generator=generator) < 0.1,
        rule=torch.arange(count) % num_sets,
        watched=torch.arange(count)[:, None] + torch.tensor([0, 9, 20]),
        temperature=torch.arange(count) % 3 / 2,
        seed=torch.arange(count),
        positions=torch.arange(count) + 5,
        step=torch.arange(count) % 4,
        top_k=torch.full((count,), 7),
        top_p=torch.linspace(0.2, 1.0, count),
    )


def test_tiles_and_neighbours_change_nothing(monkeypatch):
    denoiser = random_denoiser(dtype=torch.float32)
    hidden = torch.randn(11, TINY.model_width, generator=torch.Generator().manual_seed(1))
    params = params_of(11, 3)
    whole, watched, *_ = choose(denoiser, hidden, params)
    expected = select(
        denoiser.logits(hidden),
        is_forbidden=params.is_forbidden[params.rule],
        is_withheld=params.is_withheld[params.rule],
        **{name: getattr(params, name) for name in ("temperature", "seed", "positions", "step", "top_k", "top_p")},
    )
    assert torch.equal(whole.token_ids, expected.token_ids)
    assert torch.equal(whole.confidence, expected.confidence)
    allowed = denoiser.logits(hidden).masked_fill(params.is_forbidden[params.rule], -torch.inf)
    for row in range(11):
        for column, token in enumerate((row, row + 9, row + 20)):
            assert torch.isclose(watched[row, column], torch.softmax(allowed[row], dim=0)[token])
    for tile in (1, 4):
        monkeypatch.setattr(head, "TILE_ELEMENTS", tile * TINY.vocab_size)
        tiled, tiled_watched, *_ = choose(denoiser, hidden, params)
        torch.testing.assert_close(tiled_watched, watched)
        assert torch.equal(tiled.token_ids, whole.token_ids)
        torch.testing.assert_close(tiled.confidence, whole.confidence)
        torch.testing.assert_close(tiled.entropy, whole.entropy)


def test_rows_that_ask_get_the_likeliest_tokens(monkeypatch):
    denoiser = random_denoiser(dtype=torch.float32)
    hidden = torch.randn(11, TINY.model_width, generator=torch.Generator().manual_seed(1))
    asked = torch.tensor([0, 0, 0, 0, 2, 0, 7, 0, 0, 0, 3])
    params = replace(params_of(11, 3), num_alternatives=asked)
    rules = {name: getattr(params, name)[params.rule] for name in ("is_forbidden", "is_withheld")}
    expected = likeliest_tokens(denoiser.logits(hidden), 7, **rules).tokens()
    # Tiles in which nobody asks, and tiles of different widths.
    monkeypatch.setattr(head, "TILE_ELEMENTS", 4 * TINY.vocab_size)
    found = choose(denoiser, hidden, params).candidates
    assert found.alternatives is not None
    for row, count in enumerate(asked.tolist()):
        named, wanted = found.alternatives.tokens()[row][:count], expected[row][:count]
        assert [token for token, _ in named] == [token for token, _ in wanted]
        assert [p for _, p in named] == pytest.approx([p for _, p in wanted], rel=1e-4)
    assert found.alternatives.tokens()[:4] == ((),) * 4
    assert params.need_logits() is not None
    assert choose(denoiser, hidden, params_of(11, 3))[0].alternatives is None


def test_never_more_logits_than_a_tile(monkeypatch):
    denoiser = random_denoiser(dtype=torch.float32)
    seen = []
    logits = denoiser.logits
    monkeypatch.setattr(denoiser, "logits", lambda hidden: seen.append(hidden.shape[0]) or logits(hidden))
    monkeypatch.setattr(head, "TILE_ELEMENTS", 4 * TINY.vocab_size)
    choose(denoiser, torch.randn(11, TINY.model_width), params_of(11, 1))
    assert seen == [4, 4, 3]
