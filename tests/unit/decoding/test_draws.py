"""Draws of decoding."""

import torch

from quicksilver.decoding.draws import Purpose, draw, draw_for_each


def test_draws_for_several_purposes_are_those_of_each():
    purposes = (Purpose.PAIR, Purpose.CLASS, Purpose.TOKEN)
    positions = torch.tensor([0, 3, (7 << 32) | 5])
    found = draw_for_each(purposes, 11, positions, 4)
    for at, purpose in enumerate(purposes):
        assert torch.equal(found[:, at], draw(purpose, torch.tensor(11), positions, torch.tensor(4)))
