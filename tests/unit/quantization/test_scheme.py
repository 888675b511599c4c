"""What each scheme asks for is asked before anything is done, and errors name the remedy."""

import pytest
import torch

from quicksilver.errors import ConfigError
from quicksilver.quantization import Scheme, fast_dtype, quantize, require_device
from quicksilver.quantization import scheme as scheme_module
from tests.tiny import random_denoiser, tiny_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("scheme", "device", "message"),
    [
        (Scheme.FP8_DYNAMIC, "cpu", "runs on cuda, not on cpu; use int8_dynamic or int8_weight or int4_weight"),
        (Scheme.INT4_WEIGHT, "cuda", "runs on cpu, not on cuda; use int8_dynamic or int8_weight or fp8_dynamic"),
        (Scheme.INT8_WEIGHT, "meta", "runs on cpu and cuda, not on meta; move the denoiser to cpu or cuda"),
    ],
)
def test_a_wrong_device_is_named(scheme: Scheme, device: str, message: str):
    with pytest.raises(ConfigError, match=message):
        require_device(scheme, torch.device(device))


@pytest.mark.parametrize(
    ("scheme", "found", "is_enough"),
    [
        (Scheme.FP8_DYNAMIC, (8, 9), True),
        (Scheme.FP8_DYNAMIC, (9, 0), True),
        (Scheme.FP8_DYNAMIC, (8, 0), False),
        (Scheme.INT8_DYNAMIC, (7, 5), True),
        (Scheme.INT8_DYNAMIC, (7, 0), False),
        (Scheme.INT8_WEIGHT, (6, 0), True),
    ],
)
def test_compute_capability(monkeypatch: pytest.MonkeyPatch, scheme: Scheme, found: tuple[int, int], is_enough: bool):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: found)
    if is_enough:
        require_device(scheme, CUDA)
    else:
        with pytest.raises(ConfigError, match=rf"this GPU has {found[0]}\.{found[1]}; use int8_weight"):
            require_device(scheme, CUDA)


def test_a_torch_without_fbgemm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(type(torch.backends.quantized), "supported_engines", ["qnnpack"])
    with pytest.raises(ConfigError, match="lacks; use int8_weight"):
        require_device(Scheme.INT8_DYNAMIC, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_width": 48}, r"in-widths that are multiples of 32, model.layers.0.self_attn.q_proj has 48"),
        ({"model_width": 64, "num_kv_heads": 1}, r"out-widths that are multiples of 16, .*k_proj has 8"),
        ({"model_width": 64, "ffn_width": 80}, r"in-widths that are multiples of 32, .*down_proj has 80"),
    ],
)
def test_widths_that_do_not_divide_are_named(changes: dict[str, int], message: str):
    with pytest.raises(ConfigError, match=message):
        quantize(random_denoiser(tiny_config(**changes), dtype=torch.float32), Scheme.INT4_WEIGHT)


def test_int8_takes_any_width_on_a_cpu():
    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch has no fbgemm")
    quantize(random_denoiser(tiny_config(model_width=23, ffn_width=37), dtype=torch.float32), Scheme.INT8_DYNAMIC)


@pytest.mark.parametrize(
    ("scheme", "dtype", "message"),
    [
        (Scheme.INT8_DYNAMIC, torch.float64, "torch.float32 or torch.bfloat16, not torch.float64"),
        (Scheme.INT8_DYNAMIC, torch.float16, "not torch.float16"),
    ],
)
def test_a_wrong_dtype_is_named(scheme: Scheme, dtype: torch.dtype, message: str):
    with pytest.raises(ConfigError, match=message):
        quantize(random_denoiser(), scheme, dtype=dtype)


def test_fp8_needs_bf16():
    with pytest.raises(ConfigError, match="in torch.bfloat16, not torch.float32"):
        scheme_module.require_dtype(Scheme.FP8_DYNAMIC, torch.float32)


@pytest.mark.parametrize(
    ("has_bf16", "seconds", "expected"),
    [
        (False, 0.1, torch.float32),  # emulated: not even measured
        (True, 0.5, torch.bfloat16),
        (True, 0.9, torch.float32),
        (True, 1.7, torch.float32),
    ],
)
def test_bf16_is_taken_only_where_it_is_faster(
    monkeypatch: pytest.MonkeyPatch, has_bf16: bool, seconds: float, expected: torch.dtype
):
    """``seconds`` of bf16 beside one second of float32."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.setattr(scheme_module, "_product_seconds", lambda dtype: seconds if dtype is torch.bfloat16 else 1.0)
    assert fast_dtype(CPU) is expected
