"""From a denoiser to the same one in fewer bits."""

import copy
import logging
from types import ModuleType
from typing import Any

import torch
from torch import nn

from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser
from quicksilver.quantization.packed import PackedInt8Linear
from quicksilver.quantization.scheme import (
    INT4_GROUP,
    Scheme,
    fast_dtype,
    require_device,
    require_dtype,
    require_widths,
)


def quantize(denoiser: Denoiser, scheme: Scheme, *, dtype: torch.dtype | None = None) -> Denoiser:
    """A copy whose attention and feed-forward projections are quantized; the given denoiser stays as it was.

    Embeddings, norms and head, and all activations between the projections, are in ``dtype``. The copy is for inference
    only; ``stored`` is how a quantized checkpoint is kept.

    Args:
        denoiser: on the device where it will run.
        scheme: of the projections.
        dtype: float32 or bfloat16; None takes bfloat16 where it is fast, see ``fast_dtype``.

    Raises:
        ConfigError: device, dtype or widths do not suit the scheme; the denoiser is compiled or quantized already; or
            torchao is missing (only ``int8_dynamic`` on a CPU does without it).
    """
    device = denoiser.model.embed_tokens.weight.device
    require_device(scheme, device)
    dtype = fast_dtype(device) if dtype is None else dtype
    require_dtype(scheme, dtype)
    _require_plain(denoiser)
    for name, linear in projections(denoiser).items():
        require_widths(scheme, device, name, linear.in_features, linear.out_features)
    other = copy.deepcopy(denoiser).eval().requires_grad_(False).to(dtype)
    for name, linear in projections(other).items():
        other.set_submodule(name, quantize_linear(linear, scheme))
    return other


def quantize_linear(linear: nn.Linear, scheme: Scheme) -> nn.Module:
    """One layer in fewer bits, on its own device; ``linear`` itself is changed where torchao does it.

    Raises:
        ConfigError: torchao is missing and needed.
    """
    if scheme is Scheme.INT8_DYNAMIC and linear.weight.device.type == "cpu":
        return PackedInt8Linear(linear)
    torchao, config = torchao_config(scheme)
    holder = nn.Sequential(linear)
    torchao.quantize_(holder, config)
    return holder[0]


def projections(denoiser: Denoiser) -> dict[str, nn.Linear]:
    """The linear layers of attention and feed-forward by their full names. The head is not among them."""
    return {
        name: module
        for name, module in denoiser.named_modules()
        if name.startswith("model.layers.") and isinstance(module, nn.Linear)
    }


def _require_plain(denoiser: Denoiser) -> None:
    if denoiser.config.experts is not None:
        raise ConfigError(
            "a denoiser with experts cannot be quantized: their stacked matrices have no such kernel here"
        )
    if any("project" in vars(layer) for layer in denoiser.layers()):
        # A compiled part is bound to the layer it came from, so a copy would go on with the old weights.
        raise ConfigError("this denoiser is compiled; quantize it before compile_parts")
    if any(_is_quantized(module) for module in denoiser.modules()):
        raise ConfigError("this denoiser is quantized already; quantize the one it was made from")


def _is_quantized(module: nn.Module) -> bool:
    # torchao puts tensors of classes of its own where a Parameter was.
    is_replaced = isinstance(module, nn.Linear) and type(module.weight) is not nn.Parameter
    return is_replaced or isinstance(module, PackedInt8Linear)


def torchao_config(scheme: Scheme) -> tuple[ModuleType, Any]:
    """Torchao's quantization package and what it calls the scheme.

    Its recommended inductor settings are process-wide, so they are left to who compiles.

    Raises:
        ConfigError: torchao is not installed.
    """
    before = logging.root.manager.disable
    # torchao's import logs a warning for each CUDA library that it cannot load.
    logging.disable(logging.WARNING)
    try:
        from torchao import quantization as torchao
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
    except ImportError as error:
        raise ConfigError(f"{scheme} needs torchao: pip install 'quicksilver-lm[quant]'") from error
    finally:
        logging.disable(before)
    match scheme:
        case Scheme.INT8_DYNAMIC:
            config = torchao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False)
        case Scheme.INT8_WEIGHT:
            config = torchao.Int8WeightOnlyConfig(set_inductor_config=False)
        case Scheme.INT4_WEIGHT:
            config = PrototypeInt4WeightOnlyConfig(group_size=INT4_GROUP, set_inductor_config=False)
        case Scheme.FP8_DYNAMIC:
            config = torchao.Float8DynamicActivationFloat8WeightConfig(
                granularity=torchao.PerRow(), set_inductor_config=False
            )
    return torchao, config
