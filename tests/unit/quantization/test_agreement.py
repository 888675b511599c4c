"""Decision agreement against examples counted by hand."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from quicksilver.errors import ConfigError, InputError
from quicksilver.models.topology import Topology
from quicksilver.quantization import OpenCanvas, compare, decision_agreement
from tests.tiny import TINY, logits_of, random_denoiser, random_tokens


def logits_from(*rows: tuple[float, ...]) -> Tensor:
    return torch.tensor(rows).log()


REFERENCE = logits_from((0.9, 0.05, 0.05), (0.8, 0.1, 0.1), (0.3, 0.6, 0.1), (0.2, 0.2, 0.6))
OTHER = logits_from((0.85, 0.1, 0.05), (0.1, 0.8, 0.1), (0.2, 0.75, 0.05), (0.5, 0.1, 0.4))


def test_counts_by_hand():
    # Best tokens 0 0 1 2 and 0 1 1 0. From 0.7: positions 0, 1 and 0, 1, 2; at 1 the tokens differ.
    found = decision_agreement(REFERENCE, OTHER, threshold=0.7)
    assert (found.num_open, found.num_same_argmax) == (4, 2)
    assert (found.num_reference, found.num_other, found.num_both) == (2, 3, 1)
    assert found.same_argmax == 0.5
    assert found.jaccard == pytest.approx(1 / 4)
    terms = [
        0.9 * math.log(0.9 / 0.85) + 0.05 * math.log(0.5),
        0.8 * math.log(8) + 0.1 * math.log(1 / 8),
        0.3 * math.log(1.5) + 0.6 * math.log(0.8) + 0.1 * math.log(2),
        0.2 * math.log(0.4) + 0.2 * math.log(2) + 0.6 * math.log(1.5),
    ]
    assert found.mean_kl == pytest.approx(sum(terms) / 4, rel=1e-5)


def test_forbidden_tokens_have_no_probability():
    # Without token 0, row 0 is (0.5, 0.5) against (2/3, 1/3), and row 3 is (0.25, 0.75) against (0.2, 0.8).
    forbidden = torch.tensor([True, False, False])
    found = decision_agreement(REFERENCE[[0, 3]], OTHER[[0, 3]], threshold=0.7, is_forbidden=forbidden)
    assert (found.num_reference, found.num_other, found.num_both, found.num_same_argmax) == (1, 1, 1, 2)
    kl = 0.5 * math.log(0.75) + 0.5 * math.log(1.5) + 0.25 * math.log(1.25) + 0.75 * math.log(0.75 / 0.8)
    assert found.sum_kl == pytest.approx(kl, rel=1e-5)


def test_the_threshold_itself_passes_and_ties_go_to_the_lowest_token():
    tied = torch.zeros(1, 4)
    found = decision_agreement(tied, tied + torch.tensor([0.0, 0.0, 0.0, 1e-3]), threshold=0.25)
    assert (found.num_reference, found.num_other, found.num_both) == (1, 1, 0)
    assert decision_agreement(tied, tied, threshold=0.2501).num_reference == 0


def test_equal_denoisers_agree_and_nothing_open_is_no_disagreement():
    same = decision_agreement(REFERENCE, REFERENCE, threshold=0.7)
    assert (same.same_argmax, same.jaccard, same.mean_kl) == (1.0, 1.0, 0.0)
    nothing = decision_agreement(REFERENCE[:0], OTHER[:0], threshold=0.7)
    assert (nothing.num_open, nothing.same_argmax, nothing.jaccard, nothing.mean_kl) == (0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, math.nan])
def test_a_threshold_out_of_range_is_an_error(threshold: float):
    with pytest.raises(ConfigError, match="threshold must lie in"):
        decision_agreement(REFERENCE, OTHER, threshold=threshold)


def test_forbidding_everything_is_an_error():
    with pytest.raises(ConfigError, match="all 3 tokens are forbidden"):
        decision_agreement(REFERENCE, OTHER, threshold=0.5, is_forbidden=torch.ones(3, dtype=torch.bool))


def _canvas(length: int, seed: int) -> OpenCanvas:
    return OpenCanvas(
        token_ids=random_tokens(1, length, seed)[0],
        block_ids=torch.arange(length) // 4,
        is_open=torch.arange(length) % 3 == 1,
    )


@pytest.mark.parametrize("shift", [0, 1])
def test_canvases_are_compared_one_by_one_and_summed(shift: int):
    one, other = random_denoiser(seed=1), random_denoiser(seed=1)
    with torch.no_grad():
        noise = torch.randn(TINY.vocab_size, TINY.model_width, generator=torch.Generator().manual_seed(9))
        other.model.embed_tokens.weight += 0.04 * noise
    canvases = [_canvas(30, 0), _canvas(41, 1)]
    expected = []
    for canvas in canvases:
        topology = Topology.block_causal(canvas.block_ids[None])
        # With shift 1 the row before an open position predicts it.
        index = [position - shift for position in range(len(canvas.token_ids)) if position % 3 == 1]
        rows = [logits_of(denoiser, canvas.token_ids[None], topology)[0, index] for denoiser in (one, other)]
        expected.append(decision_agreement(*rows, threshold=0.3))
    found = compare(one, other, canvases, threshold=0.3, prediction_shift=shift)
    counts = ("num_open", "num_same_argmax", "num_reference", "num_other", "num_both")
    assert {name: getattr(found, name) for name in counts} == {
        name: getattr(expected[0], name) + getattr(expected[1], name) for name in counts
    }
    assert found.sum_kl == pytest.approx(expected[0].sum_kl + expected[1].sum_kl)
    assert found.num_open == 24
    assert 0 < found.num_both < min(found.num_reference, found.num_other)
    assert found.num_same_argmax < found.num_open


def test_what_nothing_predicts_cannot_be_open():
    denoiser = random_denoiser()
    canvas = replace(_canvas(6, 0), is_open=torch.arange(6) == 0)
    compare(denoiser, denoiser, [canvas], threshold=0.5)
    with pytest.raises(InputError, match="nothing predicts the first position"):
        compare(denoiser, denoiser, [canvas], threshold=0.5, prediction_shift=1)
    with pytest.raises(ConfigError, match="must be 0 or 1, got 2"):
        compare(denoiser, denoiser, [canvas], threshold=0.5, prediction_shift=2)


def test_a_denoiser_agrees_with_itself():
    denoiser = random_denoiser()
    forbidden = torch.arange(TINY.vocab_size) < 5
    found = compare(denoiser, denoiser, [_canvas(9, 0)], threshold=0.1, is_forbidden=forbidden)
    assert found.num_reference == found.num_both > 0
    with pytest.raises(InputError, match="no canvas"):
        compare(denoiser, denoiser, [], threshold=0.5)
