"""Later looks must be surer than the first one to change a hole's length."""

import pytest
import torch

from quicksilver.decoding.canvas import Canvas
from quicksilver.decoding.lengths import HoleLength, length_changes
from quicksilver.diffusion.spec import DecodingDefaults
from quicksilver.errors import ConfigError

SURE, UNSURE = 0.9, 0.6


def changes(margin: float, *, delete: float, expand: float) -> list[int]:
    """The sum of changes of a hole of one mask at each of two equal looks; it is laid out anew between them."""
    entry = HoleLength(length=1, cap=8, changes_left=9, margin=margin)
    canvas = Canvas.of_masks(1, mask_id=2, hole=0)
    return [
        int(length_changes(canvas, torch.tensor([expand]), torch.tensor([delete]), [entry]).sum()) for _ in range(2)
    ]


@pytest.mark.parametrize(
    ("margin", "probability", "expected"),
    [
        (0.0, UNSURE, [1, 1]),
        (0.5, UNSURE, [1, 0]),  # from 0.5 + 0.5 * 0.5 = 0.75 on
        (0.5, SURE, [1, 1]),
        (1.0, SURE, [1, 0]),
    ],
)
def test_the_margin_holds_from_the_second_look_on(margin, probability, expected):
    assert changes(margin, delete=0.0, expand=probability) == expected
    assert changes(margin, delete=probability, expand=0.0) == [-change for change in expected]


@pytest.mark.parametrize("level", [0.2, 0.5, 0.9])
def test_a_sampled_level_moves_towards_certainty_on_its_own_side(level):
    entry = HoleLength(length=4, cap=8, changes_left=9, level=level, margin=0.25)
    assert (entry.delete_from, entry.expand_from) == pytest.approx((level, 1 - level))
    entry.has_been_seen = True
    assert entry.delete_from == pytest.approx(level + 0.25 * (1 - level))
    assert entry.expand_from == pytest.approx(1 - level + 0.25 * level)


def test_the_spec_refuses_margins_beyond_certainty():
    with pytest.raises(ConfigError, match="length_margin must lie in"):
        DecodingDefaults(length_margin=1.1)
