"""Rotary positions and layers against their definitions."""

import torch

from quicksilver.models.attention import DenseAttention
from quicksilver.models.layers import DenoiserLayer, SelfAttention, _rotate, rotary_angles
from quicksilver.models.topology import Topology
from tests.tiny import tiny_config


def test_rotation_is_a_complex_product_of_the_two_halves():
    positions = torch.tensor([[0, 1, 5, 700]])
    x = torch.randn(1, 2, 4, 8, generator=torch.Generator().manual_seed(0))
    rotated = _rotate(x, rotary_angles(positions, tiny_config().rotary, torch.float32))
    for t, position in enumerate(positions[0].tolist()):
        for j in range(4):
            turn = torch.polar(torch.tensor(1.0), torch.tensor(position * 10_000.0 ** (-2 * j / 8)))
            expected = torch.complex(x[0, :, t, j], x[0, :, t, j + 4]) * turn
            found = torch.complex(rotated[0, :, t, j], rotated[0, :, t, j + 4])
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_scores_depend_on_distance_only():
    query, key = (torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(s)) for s in (0, 1))

    def score(at_query: int, at_key: int) -> float:
        turn = [
            rotary_angles(torch.tensor([[at]]), tiny_config(head_width=16).rotary, torch.float32)
            for at in (at_query, at_key)
        ]
        return float((_rotate(query, turn[0]) * _rotate(key, turn[1])).sum())

    assert abs(score(7, 3) - score(104, 100)) < 1e-4
    assert abs(score(7, 3) - score(8, 3)) > 1e-3


def test_query_and_key_norms_come_before_rotation():
    """With unit gains every rotated query and key has root mean square 1, whatever the input's scale."""
    config = tiny_config()
    layer = SelfAttention(config, config.attention(0))
    x = 30.0 * torch.randn(2, 5, config.model_width, generator=torch.Generator().manual_seed(0))
    rotation = rotary_angles(torch.arange(5).expand(2, -1), config.rotary, x.dtype)
    query, key, value = layer.project(x, rotation)
    for heads in (query, key):
        torch.testing.assert_close(heads.square().mean(-1), torch.ones(heads.shape[:-1]), rtol=0, atol=1e-3)
    assert query.shape == (2, config.num_heads, 5, config.head_width)
    assert key.shape == value.shape == (2, config.num_kv_heads, 5, config.head_width)


def test_a_layer_sees_positions_only_through_differences():
    """Shifting all positions by a constant leaves a layer's output as it was."""
    config = tiny_config()
    layer = DenoiserLayer(config, 0)
    x = torch.randn(1, 6, config.model_width, generator=torch.Generator().manual_seed(0))
    attention = DenseAttention(Topology.block_causal(torch.zeros(1, 6, dtype=torch.int64)))
    out = [
        layer(x, rotary_angles(start + torch.arange(6)[None], config.rotary, x.dtype), attention) for start in (0, 50)
    ]
    torch.testing.assert_close(out[0], out[1], rtol=0, atol=1e-5)
