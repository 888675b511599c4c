"""Quantized denoisers: near the float ones, alike whatever stands beside a row, and untouched where they must be."""

import copy
import logging
import sys

import pytest
import torch
from torch import nn

from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.topology import Topology
from quicksilver.quantization import Scheme, quantize
from quicksilver.quantization.convert import projections
from quicksilver.quantization.packed import PackedInt8Linear
from tests.tiny import logits_of, random_denoiser, random_tokens, tiny_config

# Widths that every scheme can cut; the head is untied so that it could be quantized by mistake.
WIDE = tiny_config(model_width=64, num_heads=4, num_kv_heads=2, head_width=16, ffn_width=96, has_tied_embeddings=False)
ON_CPU = (Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT, Scheme.INT4_WEIGHT)
# Standard deviation of the logits' errors over that of the logits. The greatest of seeds 0 to 11 was 0.086, 0.039 and
# 0.47: large, because three layers of random weights at this scale multiply every error.
BOUNDS = {Scheme.INT8_DYNAMIC: 0.12, Scheme.INT8_WEIGHT: 0.06, Scheme.INT4_WEIGHT: 0.6}


@pytest.fixture
def denoiser() -> Denoiser:
    return random_denoiser(WIDE, dtype=torch.float32)


def needs(scheme: Scheme) -> None:
    if scheme is not Scheme.INT8_DYNAMIC:
        pytest.importorskip("torchao")
    elif "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no fbgemm")


@torch.inference_mode()
def logits_on(denoiser: Denoiser, length: int = 20) -> torch.Tensor:
    blocks = torch.zeros(2, length, dtype=torch.int64)
    return logits_of(denoiser, random_tokens(2, length), Topology.block_causal(blocks))


@pytest.mark.parametrize("scheme", ON_CPU)
def test_logits_stay_close_and_the_given_denoiser_stays_as_it_was(denoiser: Denoiser, scheme: Scheme):
    needs(scheme)
    before = copy.deepcopy(denoiser.state_dict())
    expected = logits_on(denoiser)
    other = quantize(denoiser, scheme, dtype=torch.float32)
    assert all(type(linear) is nn.Linear for linear in projections(denoiser).values())
    assert {name: value.tolist() for name, value in denoiser.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    error = (logits_on(other) - expected).std() / expected.std()
    assert 0 < error < BOUNDS[scheme]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("scheme", ON_CPU)
def test_only_projections_are_quantized_and_the_rest_has_the_dtype(
    denoiser: Denoiser, scheme: Scheme, dtype: torch.dtype
):
    needs(scheme)
    other = quantize(denoiser, scheme, dtype=dtype)
    rest = {name: value for name, value in other.named_parameters() if type(value) is nn.Parameter}
    expected = {name: value.to(dtype) for name, value in denoiser.named_parameters() if "_proj." not in name}
    assert rest.keys() == expected.keys()
    assert all(torch.equal(rest[name], value) for name, value in expected.items())
    assert logits_on(other).dtype == torch.float32
    assert not any(value.requires_grad for value in other.parameters())


def test_int8_weights_are_the_dequantized_ones(denoiser: Denoiser):
    """Against weights rounded by hand to 255 steps between minus and plus the greatest of each output."""
    needs(Scheme.INT8_WEIGHT)
    expected = copy.deepcopy(denoiser)
    for linear in projections(expected).values():
        step = linear.weight.abs().amax(dim=1, keepdim=True) / 127.5
        # By the inverse as torchao does: the greatest lies on the border of two integers.
        codes = (linear.weight * (1 / step)).round().clamp(-128, 127)
        linear.weight = nn.Parameter(codes * step, requires_grad=False)
    found = quantize(denoiser, Scheme.INT8_WEIGHT, dtype=torch.float32)
    assert torch.allclose(logits_on(found), logits_on(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("has_bias", [False, True])
def test_a_packed_layer_is_the_sum_of_rounded_products(has_bias: bool):
    """Against exact integer sums in int64, at an outlier of 100 and a row of zeros too."""
    needs(Scheme.INT8_DYNAMIC)
    generator = torch.Generator().manual_seed(4)
    linear = nn.Linear(48, 24, bias=has_bias).requires_grad_(False)
    linear.weight.copy_(torch.randn(24, 48, generator=generator))
    x = torch.randn(3, 5, 48, generator=generator)
    x[0, 0, 7], x[1, 1] = 100.0, 0.0
    steps = x.abs().amax(dim=-1, keepdim=True).clamp_min(1e-30) / 127
    weight_steps = linear.weight.abs().amax(dim=1) / 63
    sums = (x / steps).round().long() @ (linear.weight / weight_steps[:, None]).round().long().T
    expected = sums.double() * steps * weight_steps + (linear.bias if has_bias else 0.0)
    found = PackedInt8Linear(linear)(x)
    # A product that lies on the border of two integers may fall to either: one step of one factor.
    assert (found - expected).abs().max() <= 1.01 * (63 * steps * weight_steps).max()
    assert ((found - expected).abs() < 1e-4).double().mean() > 0.99
    assert torch.equal(found[1, 1], linear.bias if has_bias else torch.zeros(24))


def test_the_extremes_do_not_saturate():
    """Without VNNI pairs of products are added in 16 bits: full ranges on both sides would be cut off there."""
    needs(Scheme.INT8_DYNAMIC)
    linear = nn.Linear(64, 16, bias=False).requires_grad_(False)
    linear.weight.fill_(1.0)
    found = PackedInt8Linear(linear)(torch.tensor([1.0, -1.0])[:, None].expand(2, 64))
    assert torch.allclose(found, torch.tensor([64.0, -64.0])[:, None].expand(2, 16))


def test_a_row_does_not_depend_on_its_neighbours(denoiser: Denoiser):
    """Bit for bit: one outlier or one row more must not change what another request gets."""
    needs(Scheme.INT8_DYNAMIC)
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(37, 64, generator=generator) * torch.logspace(-3, 3, 37)[:, None]
    layer = quantize(denoiser, Scheme.INT8_DYNAMIC, dtype=torch.float32).layers()[0].self_attn.q_proj
    assert isinstance(layer, PackedInt8Linear)
    whole = layer(x)
    assert all(torch.equal(layer(x[row : row + 1])[0], whole[row]) for row in range(37))
    assert torch.equal(layer(x[5:20]), whole[5:20])


def test_packing_leaves_the_engine_of_the_process(denoiser: Denoiser):
    needs(Scheme.INT8_DYNAMIC)
    before = torch.backends.quantized.engine
    quantize(denoiser, Scheme.INT8_DYNAMIC, dtype=torch.float32)
    assert torch.backends.quantized.engine == before
    assert logging.root.manager.disable == 0


def test_without_torchao_the_error_says_how_to_get_it(denoiser: Denoiser, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ConfigError, match=r"int8_weight needs torchao: pip install 'quicksilver-lm\[quant\]'"):
        quantize(denoiser, Scheme.INT8_WEIGHT)
    assert logging.root.manager.disable == 0


@pytest.mark.parametrize("scheme", ON_CPU)
def test_quantizing_twice_is_an_error(denoiser: Denoiser, scheme: Scheme):
    needs(scheme)
    with pytest.raises(ConfigError, match="quantized already"):
        quantize(quantize(denoiser, scheme), scheme)


def test_a_compiled_denoiser_is_an_error(denoiser: Denoiser):
    denoiser.compile_parts()
    with pytest.raises(ConfigError, match="before compile_parts"):
        quantize(denoiser, Scheme.INT8_DYNAMIC)


@pytest.mark.gpu
@pytest.mark.parametrize("scheme", [Scheme.INT8_DYNAMIC, Scheme.INT8_WEIGHT, Scheme.FP8_DYNAMIC])
def test_on_cuda_logits_stay_close(denoiser: Denoiser, scheme: Scheme):
    pytest.importorskip("torchao")
    if scheme is Scheme.FP8_DYNAMIC and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("fp8 needs compute capability 8.9")
    expected = logits_on(denoiser)
    other = quantize(denoiser.to("cuda"), scheme, dtype=torch.bfloat16)
    blocks = torch.zeros(2, 20, dtype=torch.int64, device="cuda")
    with torch.inference_mode():
        positions = torch.arange(20, device="cuda").expand(2, -1)
        found = logits_of(other, random_tokens(2, 20).to("cuda"), Topology.block_causal(blocks), positions)
    # fp8 keeps four significant bits; bf16 alone rounds to eight.
    assert (found.cpu() - expected).std() / expected.std() < (0.6 if scheme is Scheme.FP8_DYNAMIC else 0.15)
