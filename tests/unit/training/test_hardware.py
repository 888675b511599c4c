"""Precision as documented, and a peak that is a number."""

import pytest
import torch

from quicksilver.training import hardware
from quicksilver.training.hardware import matmul_peak, resolve_precision
from quicksilver.training.recipe import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("has_avx512_bf16", [False, True])
@pytest.mark.parametrize("has_amx", [False, True])
@pytest.mark.parametrize("gain", [0.6, 1.1, 2.0])
def test_auto_takes_bf16_only_where_the_cpu_multiplies_it_faster(monkeypatch, has_avx512_bf16, has_amx, gain):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    peaks = {Precision.BF16: gain * 1e9, Precision.FLOAT32: 1e9}
    monkeypatch.setattr(hardware, "matmul_peak", lambda precision, device, size: peaks[precision])
    is_bf16 = (has_avx512_bf16 or has_amx) and gain == 2.0
    assert resolve_precision(Precision.AUTO, CPU) is (Precision.BF16 if is_bf16 else Precision.FLOAT32)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FLOAT32])
def test_a_stated_precision_is_kept(precision):
    assert resolve_precision(precision, CPU) is precision


def test_auto_asks_the_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert resolve_precision(Precision.AUTO, torch.device("cuda")) is Precision.BF16


def test_the_peak_is_between_a_megaflop_and_an_exaflop(monkeypatch):
    # A small matrix: the figure's unit is under test, not this machine.
    monkeypatch.setattr(torch, "randn", lambda *size, **kwargs: torch.ones(64, 64))
    assert matmul_peak(Precision.FLOAT32, CPU) > 1e6


@pytest.mark.parametrize(("precision", "dtype"), [(Precision.BF16, torch.bfloat16), (Precision.FLOAT32, torch.float32)])
def test_the_peak_is_measured_in_the_precision_asked_for(monkeypatch, precision, dtype):
    seen = []
    multiply = torch.matmul
    monkeypatch.setattr(torch, "matmul", lambda a, b: (seen.append((a.dtype, a.shape)), multiply(a, b)))
    matmul_peak(precision, CPU, 32)
    assert set(seen) == {(dtype, (32, 32))}
