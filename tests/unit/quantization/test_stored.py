"""Quantized layers written as plain tensors and read back: the very same products, and a clear refusal of others."""

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from quicksilver.errors import ConfigError
from quicksilver.quantization import Scheme
from quicksilver.quantization.convert import quantize_linear
from quicksilver.quantization.stored import restored, stored_parts
from tests.unit.quantization.test_convert import ON_CPU, needs


def layer(*, bias: bool, dtype: torch.dtype = torch.float32) -> nn.Linear:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(64, 48, bias=bias).requires_grad_(False)
    for parameter in linear.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return linear.to(dtype)


def empty_like(linear: nn.Linear) -> nn.Linear:
    empty = nn.Linear(64, 48, bias=linear.bias is not None, dtype=linear.weight.dtype).requires_grad_(False)
    if linear.bias is not None:
        empty.bias.copy_(linear.bias)
    return empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("scheme", ON_CPU)
def test_a_layer_read_back_from_a_file_multiplies_as_before(scheme, bias, dtype):
    needs(scheme)
    linear = layer(bias=bias, dtype=dtype)
    before = linear.weight.clone()
    parts = load(save({name: part.contiguous() for name, part in stored_parts(linear, scheme).items()}))
    assert torch.equal(linear.weight, before)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    found = restored(parts, scheme, empty_like(linear))(x)
    assert torch.equal(found, quantize_linear(linear, scheme)(x))


@pytest.mark.parametrize("scheme", ON_CPU)
def test_another_dtype_of_activations_is_as_good(scheme):
    needs(scheme)
    linear = layer(bias=True, dtype=torch.bfloat16)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    found = restored(stored_parts(linear, scheme), scheme, empty_like(linear).float())(x)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, quantize_linear(linear, scheme)(x.bfloat16()).float(), rtol=0.05, atol=0.3)


@pytest.mark.parametrize("scheme", ON_CPU)
def test_it_takes_the_bits_it_says(scheme):
    needs(scheme)
    bits = 4 if scheme is Scheme.INT4_WEIGHT else 8
    parts = stored_parts(layer(bias=False), scheme)
    codes = next(part for part in parts.values() if part.dtype in (torch.int8, torch.uint8))
    assert codes.nbytes * 8 == bits * 64 * 48


def test_parts_of_another_scheme_are_refused():
    needs(Scheme.INT8_WEIGHT)
    parts = stored_parts(layer(bias=False), Scheme.INT8_WEIGHT)
    with pytest.raises(ConfigError, match="stored as int8_dynamic has qdata, scale"):
        restored(parts, Scheme.INT8_DYNAMIC, layer(bias=False))
