"""Precision as documented, and a peak that is a number."""

import pytest
import torch

from quicksilver.training.hardware import matmul_peak, resolve_precision
from quicksilver.training.recipe import Precision

CPU = torch.device("cpu")


@pytest.mark.parametrize("has_avx512_bf16", [False, True])
@pytest.mark.parametrize("has_amx", [False, True])
def test_auto_takes_bf16_only_where_the_cpu_multiplies_it(monkeypatch, has_avx512_bf16, has_amx):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: has_amx)
    expected = Precision.BF16 if has_avx512_bf16 or has_amx else Precision.FLOAT32
    assert resolve_precision(Precision.AUTO, CPU) is expected


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
