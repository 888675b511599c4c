"""Parts of tensors, of several at once and of parts: equal to the same part of all."""

import pytest
import torch
from safetensors.torch import save_file

from quicksilver.checkpoints.family import Joined, Part, Stack, Whole
from quicksilver.checkpoints.sharded import ShardedWeights
from quicksilver.errors import CheckpointError
from quicksilver.models.parallel import Cut

SOURCES = {
    "whole": Whole("a"),
    "rows of a fused tensor": Part("a", 2, 8),
    "columns of one": Part("a", 1, 5, axis=1),
    "stack": Stack((Whole("a"), Whole("b"), Whole("a"), Part("c", 4, 14))),
    "joined rows": Joined((Whole("a"), Part("c", 3, 6), Whole("b"))),
    "joined columns": Joined((Whole("a"), Part("b", 0, 2, axis=1)), axis=1),
    "joined stacks": Joined((Stack((Whole("a"), Whole("b"))), Stack((Whole("b"), Whole("a")))), axis=1),
}


@pytest.fixture
def weights(tmp_path):
    draw = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(rows, 6, generator=draw) for name, rows in (("a", 10), ("b", 10), ("c", 14))}
    save_file(tensors, tmp_path / "model.safetensors")
    with ShardedWeights(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize("name", SOURCES)
def test_a_cut_is_the_same_part_of_all(weights, name):
    source = SOURCES[name]
    every = weights.read(source)
    assert weights.shape(source) == list(every.shape)
    for axis, length in enumerate(every.shape):
        for start in range(length):
            for stop in range(start + 1, length + 1):
                found = weights.read(source, Cut(axis, start, stop, length))
                assert torch.equal(found, every.narrow(axis, start, stop - start))


def test_a_part_beyond_its_tensor_is_an_error(weights):
    with pytest.raises(CheckpointError, match="too small for 11"):
        weights.read(Part("a", 8, 11), Cut(0, 0, 3, 3))
    with pytest.raises(CheckpointError, match="differ in shape"):
        weights.shape(Stack((Whole("a"), Whole("c"))))
