"""FlexAttention and compiled layers against the dense, eager path."""

import shutil

import pytest
import torch
from torch.nn.attention.flex_attention import create_mask

from quicksilver.models.attention import CompiledFlexAttention, DenseAttention, TiledAttention
from quicksilver.models.topology import Topology
from tests.tiny import random_denoiser, random_tokens, tiny_config

# torch.compile instantiates autograd functions itself when it traces create_block_mask.
torch_warns = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs g++")


def packed_pair(half, device="cpu"):
    index = torch.arange(half, device=device).expand(2, -1)
    return Topology.training_pair(index // 8, index // torch.tensor([[half // 2], [half // 3]], device=device))


@pytest.mark.parametrize("half", [16, 75])
def test_mask_mod_evaluates_to_the_dense_mask_in_torchs_own_evaluator(half):
    pair = packed_pair(half)
    allowed = pair.mask_mod()
    # torch counts the arguments of a plain function; the shape checks wrap ours.
    mask = create_mask(lambda b, h, q, k: allowed(b, h, q, k), 2, 1, 2 * half, 2 * half, device="cpu")
    assert torch.equal(mask[:, 0], pair.dense_mask())


@pytest.mark.compiled
@pytest.mark.slow
@needs_compiler
@torch_warns
def test_flex_attention_on_a_cpu_equals_dense_attention():
    pair = packed_pair(64)
    generator = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, n, 128, 16, generator=generator) for n in (4, 2, 2)]
    with torch.no_grad():
        torch.testing.assert_close(CompiledFlexAttention(pair)(*heads), DenseAttention(pair)(*heads), rtol=0, atol=1e-5)


@pytest.mark.gpu
@pytest.mark.compiled
@torch_warns
@pytest.mark.parametrize("half", [128, 200])
def test_flex_attention_equals_dense_attention_with_gradients(half):
    pair = packed_pair(half, "cuda")
    generator = torch.Generator("cuda").manual_seed(0)
    heads = [torch.randn(2, n, 2 * half, 32, device="cuda", generator=generator, requires_grad=True) for n in (4, 2, 2)]
    weight = torch.randn(2, 4, 2 * half, 32, device="cuda", generator=generator)
    results = []
    for path in (DenseAttention(pair), CompiledFlexAttention(pair)):
        out = path(*heads)
        results.append((out, *torch.autograd.grad((out * weight).sum(), heads)))
    for dense, flex in zip(*results, strict=True):
        # TF32 products inside the kernel: 10 bits of mantissa.
        torch.testing.assert_close(flex, dense, rtol=1e-2, atol=1e-2)


@pytest.mark.compiled
@pytest.mark.slow
@needs_compiler
def test_compiled_layers_equal_eager_ones_with_gradients():
    clean = random_tokens(2, 24)
    pair = Topology.training_pair(torch.arange(24).expand(2, -1) // 4, torch.zeros(2, 24, dtype=torch.int64))
    rows, positions = torch.cat([clean, clean], 1), torch.arange(24).repeat(2).expand(2, -1)
    results = []
    for is_compiled in (False, True):
        denoiser = random_denoiser(tiny_config(num_layers=1), dtype=torch.float32).requires_grad_(True)
        if is_compiled:
            for layer in denoiser.layers():
                layer.compile_parts()
        out = denoiser(rows, positions, TiledAttention(pair))
        out.square().mean().backward()
        gradients = {name: p.grad for name, p in denoiser.named_parameters()}
        results.append((out.detach(), gradients))
    torch.testing.assert_close(results[1][0], results[0][0], rtol=1e-4, atol=1e-4)
    for name, eager in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], eager, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
