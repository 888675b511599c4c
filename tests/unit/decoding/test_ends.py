"""Where a text ends, by the probabilities of eos along a block."""

import pytest
import torch
from jaxtyping import Float, Int
from torch import Tensor

from quicksilver.decoding import FinishReason, SamplingParams, final_result, generate, make_policy
from quicksilver.decoding.canvas import State
from quicksilver.decoding.ends import hold_ends
from tests.fakes import SPECIAL, fake_spec, random_window

VOCAB = 24
EOS, MASK = SPECIAL.eos, SPECIAL.mask


class FilledBlock:
    """The posterior of texts of 0 to 15 tokens, all lengths and two tokens alike, in a block of 16 filled with eos."""

    def __call__(self, token_ids: Int[Tensor, " L"], block_ids: Int[Tensor, " L"]) -> Float[Tensor, "L V"]:
        ids = token_ids.tolist()
        longest = min((i for i, token in enumerate(ids) if token == EOS), default=15)
        shortest = max((i + 1 for i, token in enumerate(ids) if token not in (EOS, MASK)), default=0)
        probs = torch.full((len(ids), VOCAB), 1e-6)
        for i in range(len(ids)):
            ends = min(max((i - shortest + 1) / (longest - shortest + 1), 0.0), 1.0)
            probs[i, EOS] += ends
            probs[i, 10:12] += (1 - ends) / 2
        return probs.log()


@pytest.mark.parametrize("name", ["confidence_threshold", "dynamic_factor", "entropy_bound", "hierarchical"])
def test_a_text_does_not_shrink_to_nothing(name: str) -> None:
    params = SamplingParams(policy=make_policy(name), max_tokens=16, block_length=16)
    result = final_result(generate(FilledBlock(), fake_spec(), (), params))
    # The median is 8; near it eos is likelier than each of the two tokens.
    assert 6 <= len(result.token_ids) <= 8
    assert result.finish_reason is FinishReason.EOS


def window_of(confidence: list[float], ends: list[int], step: int = 1, drafts: tuple[int, ...] = ()):
    """One row of masks, with eos proposed at ``ends``."""
    window = random_window(0, 1, len(confidence))
    window.state[:] = State.MASK
    window.state[0, list(drafts)] = State.DRAFT
    window.candidate_ids[:] = 12
    window.candidate_ids[0, ends] = EOS
    window.confidence[0] = torch.tensor(confidence)
    window.margin[0] = torch.tensor(confidence)
    window.entropy[0] = 1 - torch.tensor(confidence)
    window.step[:] = step
    return window


def held(confidence: list[float], ends: list[int], step: int = 1, drafts: tuple[int, ...] = ()) -> list[float]:
    window = hold_ends(window_of(confidence, ends, step, drafts), EOS)
    assert torch.allclose(window.margin, window.confidence)
    assert torch.allclose(window.entropy, 1 - window.confidence)
    return window.confidence[0].tolist()


def test_an_end_is_no_surer_than_the_masks_in_front_of_it() -> None:
    assert held([0.5, 0.3, 0.8, 0.9], [2, 3]) == pytest.approx([0.5, 0.3, 0.3, 0.3])
    assert held([0.5, 0.9, 0.3, 0.2], [1, 3]) == pytest.approx([0.5, 0.5, 0.3, 0.2])
    assert held([0.9, 0.3], [0]) == pytest.approx([0.9, 0.3])


def test_a_draft_in_front_holds_nothing_back() -> None:
    assert held([0.1, 0.6, 0.9], [2], drafts=(0,)) == pytest.approx([0.1, 0.6, 0.6])


def test_the_median_is_sure_at_the_first_look_alone() -> None:
    assert held([0.2, 0.2, 0.6, 0.7], [2, 3], step=0) == pytest.approx([0.2, 0.2, 1.0, 0.2])
    assert held([0.2, 0.6, 0.4, 0.7], [1, 2, 3], step=0) == pytest.approx([0.2, 0.2, 0.2, 1.0])
    assert held([0.2, 0.6, 0.9], [1], step=0) == pytest.approx([0.2, 0.2, 0.9])


def test_the_median_looks_only_at_open_positions() -> None:
    window = window_of([0.2, 0.6, 0.0, 0.0], [1], step=0)
    window.state[0, 2:] = State.PROMPT
    assert hold_ends(window, EOS).confidence[0, 1] == 1.0


def test_windows_without_ends_are_left_alone() -> None:
    window = random_window(1, 2, 6)
    window.candidate_ids[window.candidate_ids == EOS] = 12
    assert hold_ends(window, EOS) is window
