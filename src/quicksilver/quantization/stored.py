"""Quantized layers on disk: plain tensors of codes and scales, so that a checkpoint needs no original beside it.

What a kernel makes of them (fbgemm's and tinygemm's packing) depends on the CPU and is made anew at loading.
"""

import copy
from collections.abc import Mapping
from typing import Any, Final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from quicksilver.errors import ConfigError
from quicksilver.quantization.convert import quantize_linear
from quicksilver.quantization.packed import PackedInt8Linear, weight_codes
from quicksilver.quantization.scheme import INT4_GROUP, Scheme

_WIDE: Final = (torch.float32, torch.bfloat16)
CODES: Final = "codes"
SCALE: Final = "scale"


def stored_parts(linear: nn.Linear, scheme: Scheme) -> dict[str, Tensor]:
    """A layer's quantized weight as plain tensors by name; its bias is not among them.

    Args:
        linear: on the device where the scheme runs; left as it is.
        scheme: see ``Scheme``.
    """
    if scheme is Scheme.INT8_DYNAMIC and linear.weight.device.type == "cpu":
        codes, scale = weight_codes(linear.weight)
        return {CODES: codes, SCALE: scale}
    quantized: Any = quantize_linear(copy.deepcopy(linear), scheme).weight  # a tensor of a class of torchao's
    names, _ = quantized.__tensor_flatten__()
    parts = {name: getattr(quantized, name) for name in names if getattr(quantized, name) is not None}
    if scheme is Scheme.INT4_WEIGHT:
        parts["qdata"] = _int4_codes(linear.weight, parts["scale_and_zero"])
    return parts


def restored(parts: Mapping[str, Tensor], scheme: Scheme, empty: nn.Linear) -> nn.Module:
    """The layer that ``stored_parts`` was given.

    Args:
        parts: its tensors, on the device where the layer will run.
        scheme: the same.
        empty: a layer of its widths, device and dtype, with its bias; its weight does not matter and is lost.

    Raises:
        ConfigError: the parts are not of this scheme, or were made for another device.
    """
    if scheme is Scheme.INT8_DYNAMIC and empty.weight.device.type == "cpu":
        _require(parts, {CODES, SCALE}, scheme)
        return PackedInt8Linear.of_codes(parts[CODES], parts[SCALE], empty.bias)
    dtype = empty.weight.dtype
    nn.init.zeros_(empty.weight)
    layer = quantize_linear(empty, scheme)
    weight: Any = layer.weight
    names, attributes = weight.__tensor_flatten__()
    present = {name for name in names if getattr(weight, name) is not None}
    _require(parts, present, scheme)
    # Scales follow the activations' dtype, which may be another one than at quantizing.
    found = {name: part.to(dtype) if part.dtype in _WIDE else part for name, part in parts.items()}
    if scheme is Scheme.INT4_WEIGHT:
        found["qdata"] = _int4_packed(parts["qdata"])
    inner = {name: found.get(name) for name in names}
    value = type(weight).__tensor_unflatten__(inner, attributes, weight.size(), weight.stride())
    layer.weight = nn.Parameter(value, requires_grad=False)
    return layer


def _require(parts: Mapping[str, Tensor], names: set[str], scheme: Scheme) -> None:
    if set(parts) != names:
        raise ConfigError(
            f"a layer stored as {scheme} has {', '.join(sorted(parts))}, but here {', '.join(sorted(names))} are "
            "needed: it was quantized for another kind of device; quantize the original for this one"
        )


def _int4_codes(weight: Float[Tensor, "O I"], scale_and_zero: Float[Tensor, "groups O 2"]) -> UInt8[Tensor, "O half"]:
    """Two codes of 0 to 15 in a byte, the even column's in the low half. By tinygemm's grid, whose middle is code 8."""
    scale, zero = scale_and_zero.movedim(0, 1).to(weight.dtype).unbind(-1)
    groups = weight.detach().unflatten(1, (-1, INT4_GROUP))
    least = (zero - 8 * scale)[..., None]
    codes = ((groups - least) / scale[..., None]).round().clamp(0, 15).to(torch.uint8).flatten(1)
    return codes[:, ::2] | (codes[:, 1::2] << 4)


def _int4_packed(codes: UInt8[Tensor, "O half"]) -> Tensor:
    pairs = torch.stack([codes & 15, codes >> 4], dim=-1).flatten(1)
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(pairs.to(torch.int32), 1)
