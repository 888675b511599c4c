"""The Triton kernels agree with torch's paths: on a GPU, and anywhere in Triton's interpreter.

Triton decides at its import whether it interprets, so those tests run in a process of their own.
"""

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from quicksilver.decoding.adjustments import Adjustments
from quicksilver.decoding.selection import Candidates, select
from quicksilver.engine import kernels
from quicksilver.engine.attention import PagedAttention, PageMemory, RequestRows
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.head import HeadParams, choose
from quicksilver.engine.kernels import attention as kernel_attention
from quicksilver.engine.kernels import head as kernel_head
from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.errors import EngineError
from tests.engine_requests import random_request
from tests.fakes import fake_spec
from tests.tiny import TINY, random_denoiser, tiny_config

IS_INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
needs_triton = pytest.mark.skipif(not kernels.is_installed(), reason="needs Triton: pip install triton")
elsewhere = pytest.mark.skipif(not IS_INTERPRETED, reason="runs in the process of test_the_interpreter_agrees")
on_devices = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=[needs_triton, elsewhere]), pytest.param("cuda", marks=pytest.mark.gpu)]
)
TOLERANCE = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
"""Absolute and relative. The order of sums; below float32 the rounding of weights and results to 11 or 8 bits."""
on_dtypes = pytest.mark.parametrize(
    ("device", "dtype"),
    [
        pytest.param(device, dtype, marks=marks, id=f"{device}-{str(dtype).removeprefix('torch.')}")
        for device, marks in (("cpu", [needs_triton, elsewhere]), ("cuda", [pytest.mark.gpu]))
        for dtype in TOLERANCE
        # The interpreter multiplies the bits of bf16 as if they were integers.
        if device == "cuda" or dtype is not torch.bfloat16
    ],
)
SIZE = 4


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="this is that process")
def test_the_interpreter_agrees():
    settings = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    command = [sys.executable, "-m", "pytest", __file__, "-m", "not gpu", "-p", "no:cacheprovider"]
    root = Path(__file__).parents[3]
    ran = subprocess.run(command, env=settings | {"TRITON_INTERPRET": "1"}, cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]


@needs_triton
@pytest.mark.slow
@pytest.mark.skipif(IS_INTERPRETED, reason="the interpreter compiles nothing")
@pytest.mark.parametrize("capability", [80, 90])
def test_kernels_compile_for_gpus(capability):
    """As far as a machine without a GPU can tell: types, shapes and the shared memory of a small one."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    floats = dict.fromkeys(("query", "keys", "values", "out", "hidden", "weight"), "*bf16")
    ints = dict.fromkeys(("limits", "pages", "tiles", "ids"), "*i32")
    other = {"scale": "fp32", "kinds": "*i8", "sets": "*i64", "temperature": "*fp32", "state": "*i64", "found": "*fp64"}
    types = floats | ints | other
    attention = {"GROUP": 2, "WIDTH": 128, "PADDED": 128, "PAGE": 16, "LANES": 64, "KEYS": 64}
    sizes = {name: getattr(kernel_head, name) for name in ("ROWS", "TOKENS", "DEPTH", "SPAN")}
    head = sizes | {"IS_SAMPLED": True, "HAS_ENTROPY": True}
    # As launched for a real model: rows start at multiples of 16 elements.
    aligned = {"hidden", "weight", "kinds", "vocab_size", "depth", "hidden_row", "weight_row"}
    for kernel, constants, num_warps in ((kernel_attention._attend, attention, 4), (kernel_head._scan, head, 8)):
        names = kernel.arg_names
        signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
        attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in names if name in aligned}
        source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
        options = {"num_warps": num_warps, "num_stages": 2}
        compiled = compile_kernel(source, target=GPUTarget("cuda", capability, 32), options=options)
        assert compiled.metadata.shared < 99 * 1024


@pytest.mark.skipif(IS_INTERPRETED, reason="has nothing to do with the interpreter")
def test_the_engine_does_not_import_triton():
    code = "import sys, quicksilver.engine.engine, quicksilver.engine.runner; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_where_kernels_are_used(monkeypatch):
    monkeypatch.setattr(kernels, "is_installed", lambda: True)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.are_used(torch.zeros(1))
    assert not kernels.are_used(torch.zeros(1, dtype=torch.float64))
    assert not kernels.are_used(torch.zeros(1, dtype=torch.bfloat16))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert not kernels.are_used(torch.zeros(1))


@pytest.fixture
def torch_only(monkeypatch):
    """Calls a function with the kernels switched off."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            patch.setattr(kernels, "are_used", lambda _: False)
            return function(*args)

    return call


def random_requests(draw: random.Random, pool: PagePool, memory: PageMemory, count: int) -> list[RequestRows]:
    """Chunks with and without windows, block grids, causal windows, canvases in place; pages that do not follow."""
    taken = pool.take(20)
    pool.release(draw.sample(taken, 12))
    requests, at = [], 0
    for _ in range(count):
        num_cached, num_context, num_window = draw.randint(0, 21), draw.randint(0, 9), draw.randint(0, 7)
        total, columns = num_cached + num_context + num_window, None
        if draw.random() < 0.2 and num_window:
            columns = torch.tensor(sorted(draw.sample(range(num_window), draw.randint(1, num_window))))
        num_rows = num_context + (num_window if columns is None else len(columns))
        if num_rows == 0:
            continue
        rows = slice(at, at + num_rows)
        at = rows.stop
        if draw.random() < 0.2 and columns is None:
            requests.append(RequestRows(rows=rows, slots=None))
            continue
        table = PageTable(pool)
        table.reserve(total)
        block = draw.choice([None, 1, 3, 4])
        requests.append(
            RequestRows(
                rows=rows,
                slots=memory.slots(table, total),
                num_cached=num_cached,
                num_context=num_context,
                has_causal_window=draw.random() < 0.3 and columns is None,
                columns=columns,
                context_blocks=None if block is None else torch.arange(num_cached + num_context) // block,
            )
        )
    return requests


def attention_case(device: str, heads: tuple[int, int, int], dtype: torch.dtype, seed: int, count: int = 5):
    """Memory full of random numbers, requests, and the packed rows with two idle ones behind them."""
    num_heads, num_kv_heads, width = heads
    config = tiny_config(num_layers=1, num_heads=num_heads, num_kv_heads=num_kv_heads, head_width=width)
    pool = PagePool(96, SIZE)
    memory = PageMemory(config, pool, dtype, torch.device(device))
    requests = random_requests(random.Random(seed), pool, memory, count)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    for each in (memory.keys[0], memory.values[0]):
        each.copy_(normal(*each.shape))
    num_rows = requests[-1].rows.stop + 2
    # Heads lie inside rows, as projections leave them.
    return memory, requests, [normal(1, num_rows, count, width).transpose(1, 2) for count in heads[:2] + heads[1:2]]


def attend(memory, requests, packed, *, is_strict=False):
    return PagedAttention(memory, requests, is_strict=is_strict)(*packed)


@on_dtypes
@pytest.mark.parametrize("heads", [(4, 2, 8), (6, 2, 24), (3, 3, 16), (8, 1, 128), (7, 1, 64)])
def test_attention_of_any_requests_is_torchs(device, heads, dtype, torch_only):
    for seed in range(3):
        memory, requests, packed = attention_case(device, heads, dtype, seed)
        expected = torch_only(attend, memory, requests, packed)
        found = attend(memory, requests, packed)
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
        assert not found[:, :, requests[-1].rows.stop :].any()


@on_devices
def test_attention_over_several_tiles_of_rows_and_keys(device, torch_only):
    memory, _, _ = attention_case(device, (4, 2, 8), torch.float32, seed=0)
    slots = torch.randperm(96, generator=torch.Generator().manual_seed(1)).repeat_interleave(SIZE) * SIZE
    slots = (slots + torch.arange(SIZE).repeat(96))[:299]
    request = RequestRows(slice(0, 90), slots, num_cached=209, num_context=70, context_blocks=torch.arange(279) // 9)
    packed = [torch.randn(1, heads, 90, 8, device=device) * 3 for heads in (4, 2, 2)]
    expected = torch_only(attend, memory, [request], packed)
    torch.testing.assert_close(attend(memory, [request], packed), expected, atol=1e-5, rtol=1e-5)


@on_devices
def test_a_rows_attention_is_the_same_to_the_last_bit_in_any_company(device):
    memory, requests, packed = attention_case(device, (4, 2, 16), torch.float32, seed=4)
    together = attend(memory, requests, packed)
    for each in requests:
        alone = replace(each, rows=slice(0, each.rows.stop - each.rows.start))
        found = attend(memory, [alone], [part[:, :, each.rows] for part in packed])
        assert torch.equal(found, together[:, :, each.rows])


def test_rows_see_a_beginning_of_their_request():
    blocks = torch.tensor([0, 0, 1, 1, 1, 2])
    request = RequestRows(slice(3, 9), torch.arange(8), num_cached=2, num_context=4, context_blocks=blocks)
    assert request.limits().tolist() == [5, 5, 5, 6, 8, 8]
    assert replace(request, context_blocks=None).limits().tolist() == [3, 4, 5, 6, 8, 8]
    assert replace(request, has_causal_window=True).limits().tolist() == [5, 5, 5, 6, 7, 8]
    with pytest.raises(EngineError, match="fall"):
        replace(request, context_blocks=blocks.flip(0)).limits()


def head_params(num_rows: int, vocab_size: int, device: str, **changes: object) -> HeadParams:
    generator = torch.Generator().manual_seed(3)
    number = torch.arange(num_rows)
    params = {
        "is_forbidden": torch.rand(3, vocab_size, generator=generator) < 0.3,
        "is_withheld": torch.rand(3, vocab_size, generator=generator) < 0.1,
        "rule": number % 3,
        "temperature": number % 4 / 3,
        "seed": number * 7919 - 20,
        "positions": number + 2**33,
        "step": number % 4,
        "watched": number[:, None] + torch.tensor([0, 9, 20]),
    } | changes
    return HeadParams(**{k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in params.items()})


def assert_same_candidates(found: Candidates, expected: Candidates, tolerance: float = 1e-5) -> None:
    assert torch.equal(found.argmax_ids, expected.argmax_ids)
    assert torch.equal(found.token_ids, expected.token_ids)
    for name in ("confidence", "margin", "entropy"):
        pair = getattr(found, name), getattr(expected, name)
        torch.testing.assert_close(*pair, atol=tolerance, rtol=tolerance, equal_nan=True, msg=lambda m, n=name: n + m)


@pytest.fixture
def small_spans(monkeypatch):
    """So that a small vocabulary has several, of two tiles."""
    monkeypatch.setattr(kernel_head, "SPAN", 2 * kernel_head.TOKENS)


@on_dtypes
@pytest.mark.parametrize("has_entropy", [True, False])
@pytest.mark.usefixtures("small_spans")
def test_candidates_are_torchs(device, dtype, has_entropy):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, 72, generator=generator).to(device, dtype) / 3 for n in (37, 301))
    params = head_params(37, 301, device, has_entropy=has_entropy)
    found, watched = kernel_head.choose(hidden, weight, **params.packed())
    logits = (hidden.double() @ weight.double().T).to(dtype).float()
    assert_same_candidates(found, select(logits, **params.rows(0, 37)), TOLERANCE[dtype])
    allowed = logits.masked_fill(params.is_forbidden[params.rule], -torch.inf)
    expected = torch.softmax(allowed, dim=-1).gather(1, params.watched)
    torch.testing.assert_close(watched, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@on_devices
@pytest.mark.usefixtures("small_spans")
def test_ties_go_to_the_lowest_token_in_and_across_tiles(device):
    # Small integers have exact products: equal logits everywhere.
    generator = torch.Generator().manual_seed(2)
    hidden, weight = (torch.randint(-1, 2, (n, 4), generator=generator).float().to(device) for n in (40, 301))
    params = head_params(40, 301, device, temperature=torch.zeros(40))
    found, _ = kernel_head.choose(hidden, weight, **params.packed())
    expected = select(hidden @ weight.T, **params.rows(0, 40))
    assert int((expected.margin == 0).sum()) > 35
    assert_same_candidates(found, expected)
    assert torch.equal(found.margin == 0, expected.margin == 0)


@on_devices
@pytest.mark.usefixtures("small_spans")
def test_noise_is_that_of_the_counters(device):
    hidden, weight = torch.zeros(64, 4, device=device), torch.zeros(301, 4, device=device)
    params = head_params(64, 301, device, temperature=torch.ones(64))
    found, _ = kernel_head.choose(hidden, weight, **params.packed())
    # Equal logits: the noise alone decides.
    assert_same_candidates(found, select(hidden @ weight.T, **params.rows(0, 64)))
    assert len(set(found.token_ids.tolist())) > 32


@on_devices
def test_a_rows_candidate_is_the_same_to_the_last_bit_in_any_company(device):
    generator = torch.Generator().manual_seed(1)
    hidden, weight = (torch.randn(n, 24, generator=generator).to(device) for n in (40, 70))
    params = head_params(40, 70, device)
    whole, _ = kernel_head.choose(hidden, weight, **params.packed())
    # numpy's products, in the interpreter, depend on a row's place in its tile of 32.
    for start, stop in ((0, 5), (32, 40)) if device == "cpu" else ((0, 5), (3, 4), (17, 39)):
        names = ("rule", "temperature", "seed", "positions", "step", "watched")
        part = replace(params, **{name: getattr(params, name)[start:stop] for name in names})
        found, _ = kernel_head.choose(hidden[start:stop], weight, **part.packed())
        for name in ("token_ids", "argmax_ids", "confidence", "margin", "entropy"):
            assert torch.equal(getattr(found, name), getattr(whole, name)[start:stop]), name


@on_devices
def test_rows_that_need_all_logits_are_left_to_torch(device, torch_only):
    denoiser = random_denoiser(dtype=torch.float32).to(device)
    hidden = torch.randn(12, TINY.model_width, generator=torch.Generator().manual_seed(1)).to(device)
    one = torch.ones(2, device=device)
    rows, tokens = torch.tensor([[2, 5], [7, 9]], device=device)
    params = head_params(
        12,
        TINY.vocab_size,
        device,
        adjustments=Adjustments(row=rows, token_ids=tokens, penalty=2 * one, bias=9 * one),
        top_k=torch.tensor([TINY.vocab_size] * 9 + [2] * 3),
        top_p=torch.tensor([1.0, 0.3] * 6),
        num_alternatives=torch.tensor([0] * 6 + [4] + [0] * 5),
    )
    need_logits = params.need_logits()
    assert need_logits == [False, True, True, True, False, True, True, True, False, True, True, True]
    found, watched, *_ = choose(denoiser, hidden, params)
    expected, expected_watched, *_ = torch_only(choose, denoiser, hidden, params)
    assert_same_candidates(found, expected)
    assert found.alternatives is not None
    assert torch.equal(found.alternatives.token_ids[6], expected.alternatives.token_ids[6])
    assert found.alternatives.tokens()[4] == ()
    torch.testing.assert_close(watched, expected_watched, atol=1e-5, rtol=1e-5)


@on_devices
def test_logits_that_are_no_numbers_show_in_the_confidence(device):
    hidden, weight = torch.zeros(3, 4, device=device), torch.ones(70, 4, device=device)
    hidden[1] = torch.nan
    for temperature in (torch.zeros(3), torch.ones(3)):
        params = head_params(3, 70, device, temperature=temperature)
        found, _ = kernel_head.choose(hidden, weight, **params.packed())
        assert torch.isfinite(found.confidence).tolist() == [True, False, True]
        assert bool(((found.token_ids >= 0) & (found.token_ids < 70)).all())


@on_devices
@pytest.mark.parametrize("name", ["blocks", "causal context"])
def test_an_engine_writes_the_same_with_kernels(device, name, torch_only):
    spec = replace(fake_spec(), has_causal_context=name == "causal context")
    # The interpreter takes seconds per layer and key/value head; two layers show whether each has its own memory.
    denoiser = random_denoiser(tiny_config(num_layers=2, num_kv_heads=1), dtype=torch.float32).to(device)
    rng = random.Random(1)
    requests = [random_request(rng, spec) for _ in range(6)]

    def answers() -> list[tuple[tuple[int, ...], ...]]:
        engine = Engine(denoiser, spec, EngineConfig(num_pages=30, page_size=8, row_budget=40))
        return [result.holes for result in engine.run(requests)]

    assert answers() == torch_only(answers)
