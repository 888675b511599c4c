import dataclasses
import math

import numpy as np
import pytest
import torch

from quicksilver.api.network import FullRecompute, PairLogits
from quicksilver.diffusion.autoregressive import autoregressive_nats
from quicksilver.diffusion.likelihood import any_order_nats, chain_rule_nats
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.errors import ConfigError, InputError
from quicksilver.evaluation.likelihood import (
    LikelihoodConfig,
    Reading,
    Window,
    cut_windows,
    num_forwards,
    summarise,
    window_nats,
)
from quicksilver.models.denoiser import Denoiser
from tests.fake_documents import CharDocuments
from tests.tiny import TINY, random_denoiser, random_tokens
from tests.tiny_checkpoints import tiny_spec

MASK_SPEC = tiny_spec()
CAUSAL_SPEC = dataclasses.replace(MASK_SPEC, has_causal_context=True)
SHIFTED_SPEC = dataclasses.replace(CAUSAL_SPEC, prediction_shift=1)
AR_SPEC = tiny_spec(Objective.AUTOREGRESSIVE)
FILE, MASK = MASK_SPEC.special.file, MASK_SPEC.special.mask


def windows_of(*lengths: int, num_bytes: int = 7) -> list[Window]:
    return [
        Window(token_ids=random_tokens(1, length, seed=index)[0].numpy(), num_bytes=num_bytes, document=index)
        for index, length in enumerate(lengths)
    ]


def with_file_token(window: Window) -> tuple[torch.Tensor, torch.Tensor]:
    token_ids = torch.tensor([[FILE, *window.token_ids]])
    is_target = torch.ones_like(token_ids, dtype=torch.bool)
    is_target[:, 0] = False
    return token_ids, is_target


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return random_denoiser()


@pytest.fixture(scope="module")
def uniform() -> Denoiser:
    """All logits zero, because the tied table is."""
    denoiser = random_denoiser()
    denoiser.model.embed_tokens.weight.zero_()
    return denoiser


@pytest.mark.parametrize(
    ("spec", "reading", "num_choices"),
    [
        (MASK_SPEC, Reading.BOUND, TINY.vocab_size - 1),  # never the mask
        (MASK_SPEC, Reading.CHAIN, TINY.vocab_size - 1),
        (AR_SPEC, Reading.EXACT, TINY.vocab_size),
    ],
)
def test_uniform_logits_give_log_v_per_byte(uniform: Denoiser, spec: DiffusionSpec, reading: Reading, num_choices: int):
    windows, config = windows_of(9, 4, 30), LikelihoodConfig(block_length=4, batch_size=2)
    nats = window_nats(uniform, spec, windows, reading, config)
    # Every draw and every window is exact, not only their mean.
    expected = np.array([9, 4, 30]) * math.log(num_choices)
    np.testing.assert_allclose(nats, np.broadcast_to(expected, nats.shape), rtol=1e-6)
    summary = summarise(nats, windows, CharDocuments("", "", ""), reading, config)
    assert summary.bits_per_byte.value == pytest.approx(43 * math.log2(num_choices) / 21, rel=1e-6)
    assert summary.sampling_error == pytest.approx(0.0, abs=1e-6)
    assert (summary.num_tokens, summary.num_bytes, summary.num_windows, summary.num_files) == (43, 21, 3, 3)
    assert summary.bits_per_byte_by_package == {"pack": pytest.approx(summary.bits_per_byte.value)}


@pytest.mark.parametrize("block_length", [1, 3, 4, 64])
@pytest.mark.parametrize("spec", [MASK_SPEC, CAUSAL_SPEC, SHIFTED_SPEC])
def test_chain_rule_equals_the_plain_function(denoiser: Denoiser, spec: DiffusionSpec, block_length: int):
    windows = windows_of(11, 2, 7)
    nats = window_nats(
        denoiser, spec, windows, Reading.CHAIN, LikelihoodConfig(block_length=block_length, batch_size=2)
    )
    for window, found in zip(windows, nats[0], strict=True):
        token_ids, is_target = with_file_token(window)
        plain = chain_rule_nats(
            PairLogits(denoiser, spec), token_ids, is_target, block_length=block_length, mask_id=MASK
        )
        assert found == pytest.approx(float(plain.sum()), rel=1e-6)


@pytest.mark.parametrize("spec", [AR_SPEC, CAUSAL_SPEC, SHIFTED_SPEC])
def test_exact_equals_the_plain_function(denoiser: Denoiser, spec: DiffusionSpec):
    windows = windows_of(11, 2, 7)
    nats = window_nats(denoiser, spec, windows, Reading.EXACT, LikelihoodConfig(batch_size=3))
    for window, found in zip(windows, nats[0], strict=True):
        token_ids, is_target = with_file_token(window)
        logits = FullRecompute(denoiser, 1).raw(token_ids[0], torch.arange(token_ids.shape[1]))
        assert found == pytest.approx(float(autoregressive_nats(logits[None], token_ids, is_target, 1).sum()), rel=1e-6)


@pytest.mark.parametrize("spec", [MASK_SPEC, CAUSAL_SPEC, SHIFTED_SPEC])
def test_bound_estimates_the_enumeration_of_all_orders(denoiser: Denoiser, spec: DiffusionSpec):
    windows = windows_of(7, 3)
    config = LikelihoodConfig(block_length=4, num_samples=60, batch_size=2)
    nats = window_nats(denoiser, spec, windows, Reading.BOUND, config)
    for window, draws in zip(windows, nats.T, strict=True):
        token_ids, is_target = with_file_token(window)
        exact = any_order_nats(PairLogits(denoiser, spec), token_ids, is_target, block_length=4, mask_id=MASK)
        error = draws.std(ddof=1) / math.sqrt(len(draws))
        assert 0 < error < 0.06 * float(exact)  # sharp enough to notice a wrong weight
        assert abs(draws.mean() - float(exact)) < 4 * error
    summary = summarise(nats, windows, CharDocuments("", ""), Reading.BOUND, config)
    totals = nats.sum(axis=1) / math.log(2) / 14
    assert summary.sampling_error == pytest.approx(totals.std(ddof=1) / math.sqrt(60))


def test_blocks_of_one_token_have_one_likelihood(denoiser: Denoiser):
    windows, config = windows_of(9), LikelihoodConfig(block_length=1, num_samples=2)
    bound = window_nats(denoiser, MASK_SPEC, windows, Reading.BOUND, config)
    chain = window_nats(denoiser, MASK_SPEC, windows, Reading.CHAIN, config)
    np.testing.assert_allclose(bound, np.repeat(chain, 2, axis=0), rtol=1e-9)


@pytest.mark.parametrize(
    ("spec", "reading"), [(MASK_SPEC, Reading.BOUND), (MASK_SPEC, Reading.CHAIN), (AR_SPEC, Reading.EXACT)]
)
def test_batches_and_padding_change_nothing(denoiser: Denoiser, spec: DiffusionSpec, reading: Reading):
    windows = windows_of(13, 2, 9, 5)
    one, many = (
        window_nats(denoiser, spec, windows, reading, LikelihoodConfig(block_length=4, batch_size=size))
        for size in (1, 4)
    )
    np.testing.assert_allclose(one, many, rtol=1e-6)


def test_progress_adds_up(denoiser: Denoiser):
    windows, config = windows_of(9, 2, 5), LikelihoodConfig(block_length=4, num_samples=3, batch_size=2)
    for spec, reading in ((MASK_SPEC, Reading.BOUND), (MASK_SPEC, Reading.CHAIN), (AR_SPEC, Reading.EXACT)):
        steps: list[int] = []
        window_nats(denoiser, spec, windows, reading, config, steps.append)
        assert sum(steps) == num_forwards(windows, reading, config)


def test_windows_cover_every_token_once():
    documents = CharDocuments("abcdefg", "", "xyz")
    bytes_of_token = np.ones(200, dtype=np.int64)
    bytes_of_token[ord("c")] = 5
    windows = cut_windows(documents, bytes_of_token, length=4)
    assert ["".join(map(chr, window.token_ids)) for window in windows] == ["abc", "def", "g", "xyz"]
    assert [window.num_bytes for window in windows] == [7, 3, 1, 3]
    assert [window.document for window in windows] == [0, 0, 0, 2]


def test_windows_reject_another_vocabulary():
    with pytest.raises(InputError, match="token 103"):
        cut_windows(CharDocuments("abcdefg"), np.ones(100, dtype=np.int64), length=4)
    with pytest.raises(ConfigError, match="at least 2"):
        cut_windows(CharDocuments("a"), np.ones(200, dtype=np.int64), length=1)


@pytest.mark.parametrize(
    ("spec", "reading", "message"),
    [
        (AR_SPEC, Reading.BOUND, "exact"),
        (MASK_SPEC, Reading.EXACT, "bound, chain, not exact"),
        (tiny_spec(Objective.UNIFORM), Reading.BOUND, "uniform"),
    ],
)
def test_a_reading_the_checkpoint_has_not_is_an_error(
    denoiser: Denoiser, spec: DiffusionSpec, reading: Reading, message: str
):
    with pytest.raises(ConfigError, match=message):
        window_nats(denoiser, spec, windows_of(4), reading, LikelihoodConfig())


def test_an_in_place_checkpoint_has_no_left_to_right_likelihood(denoiser: Denoiser):
    spec = DiffusionSpec(objective=Objective.MASK, special=MASK_SPEC.special, layouts=(Layout.IN_PLACE,))
    with pytest.raises(ConfigError, match="left-to-right"):
        window_nats(denoiser, spec, windows_of(4), Reading.BOUND, LikelihoodConfig())
