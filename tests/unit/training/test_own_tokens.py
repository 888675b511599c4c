"""The model's own tokens over masks, on a batch written by hand. Ids below 10 are special."""

from dataclasses import replace

import pytest
import torch

from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.training.batch import MicroBatch, cross_entropy_sums
from quicksilver.training.own_tokens import OwnTokens
from tests.fakes import SPECIAL

MASK, EXPAND, DELETE = SPECIAL.mask, SPECIAL.expand, SPECIAL.delete
OWN = OwnTokens(keep_weight=0.25, num_special=10, length_ids=(EXPAND, DELETE))


def batch_of(is_drafted: list[bool] | None) -> MicroBatch:
    """Two rows of five, a target at every mask and one at a visible token."""
    token_ids = torch.tensor([[20, MASK, MASK, 23, MASK], [MASK, MASK, 22, MASK, 24]])
    positions = torch.arange(5).expand(2, 5).contiguous()
    return MicroBatch(
        token_ids=token_ids,
        positions=positions,
        topology=Topology.block_causal(torch.zeros_like(positions), torch.zeros_like(positions)),
        target_rows=torch.tensor([1, 2, 3, 4, 5, 6, 8]),
        labels=torch.tensor([11, 12, 13, SPECIAL.eos, EXPAND, DELETE, 17]),
        weights=torch.full((7,), 3.0),
        bound_weights=torch.full((7,), 2.0),
        num_targets=7,
        num_bound_targets=0,
        is_drafted=None if is_drafted is None else torch.tensor(is_drafted),
    )


def test_own_tokens_replace_drafted_masks_and_set_their_weights():
    batch = batch_of([True, True, False, True, True, True, False])
    written = OWN.write(batch, torch.tensor([11, 19, 18, 15, DELETE]))
    # Right, wrong, not drafted, wrong at an end, at an expand, and a special token that is not written.
    assert written.token_ids.tolist() == [[20, 11, 19, 23, 18], [15, MASK, 22, MASK, 24]]
    assert written.weights.tolist() == [0.25, 1.0, 3.0, 1.0, 0.0, 3.0, 3.0]
    assert written.bound_weights.tolist() == [0.0, 0.0, 2.0, 0.0, 0.0, 2.0, 2.0]
    assert written.labels.tolist() == batch.labels.tolist()
    assert written.is_drafted is None
    assert batch.token_ids[0].tolist() == [20, MASK, MASK, 23, MASK]


def test_without_drafts_nothing_happens():
    batch = batch_of(None)
    assert OWN(denoiser(), batch) is batch
    nothing = OWN(denoiser(), batch_of([False] * 7))
    assert torch.equal(nothing.token_ids, batch.token_ids)
    assert torch.equal(nothing.weights, batch.weights)


def denoiser() -> Denoiser:
    config = DenoiserConfig(
        vocab_size=30, num_layers=1, model_width=16, num_heads=1, num_kv_heads=1, head_width=16, ffn_width=32
    )
    model = Denoiser(config)
    model.initialise(3)
    with torch.no_grad():
        # A mask looks a little like a word, or it would itself be the likeliest token.
        model.model.embed_tokens.weight[:10] = 0.5 * model.model.embed_tokens.weight[10:20]
    return model


def test_drafts_move_with_the_batch():
    moved = replace(batch_of([True] * 7)).to(torch.device("meta"))
    assert moved.is_drafted is not None
    assert moved.is_drafted.device.type == "meta"


# RMSNorm's fused kernel wants gains in bf16; under autocast they are float32 master weights.
@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("is_bf16", [False, True])
def test_the_first_pass_leaves_the_gradient_alone(is_bf16):
    # Autocast keeps the weights it has cast; those of a pass without gradient must not serve the loss.
    batch = batch_of([True, True, False, True, True, True, True])
    gradients = []
    for is_two_pass in (True, False):
        model = denoiser()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_bf16):
            if is_two_pass:
                written = OWN(model, batch)
                assert not torch.equal(written.token_ids, batch.token_ids)
            else:
                written = OWN(denoiser(), batch)
            cross_entropy_sums(model, written).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for one, two in zip(*gradients, strict=True):
        assert one is not None
        assert torch.equal(one, two)
