"""Memory plans: their weights are the weights, and a plan that does not fit names what would."""

import pytest
import torch

from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.planning import _container_bytes, gigabytes, plan_memory, remedies, require_fit
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.quantization import Scheme
from tests.tiny import random_denoiser, tiny_config
from tests.tiny_checkpoints import tiny_spec

CPU = torch.device("cpu")
LLADA_8B = DenoiserConfig(
    vocab_size=126464,
    num_layers=32,
    model_width=4096,
    num_heads=32,
    num_kv_heads=32,
    head_width=128,
    ffn_width=12288,
    max_length=4096,
    has_tied_embeddings=False,
    has_qk_norm=False,
)
ENGINE = EngineConfig()


def plan_of(config=LLADA_8B, engine=ENGINE, dtype=torch.float32, scheme=None, available=10**11):
    return plan_memory(config, engine, dtype=dtype, scheme=scheme, device=CPU, available=available)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_and_pages_are_what_an_engine_takes(dtype):
    config = tiny_config()
    denoiser = random_denoiser(config, dtype=dtype)
    engine = Engine(denoiser, tiny_spec(), EngineConfig(num_pages=7))
    plan = plan_of(config, EngineConfig(num_pages=7), dtype)
    assert plan.weights == sum(parameter.nbytes for parameter in denoiser.parameters())
    assert plan.pages == engine.memory.num_bytes
    assert plan.num_pages == engine.num_pages == 7
    assert plan_of(config, dtype=dtype).num_pages == Engine(denoiser, tiny_spec()).num_pages


def test_quantized_projections_take_their_bits():
    full, half = plan_of().weights, plan_of(dtype=torch.bfloat16).weights
    assert full == 2 * half
    tables = 2 * LLADA_8B.vocab_size * LLADA_8B.model_width
    eighth = plan_of(dtype=torch.bfloat16, scheme=Scheme.INT8_WEIGHT).weights
    quarter = plan_of(dtype=torch.bfloat16, scheme=Scheme.INT4_WEIGHT).weights
    assert eighth - 2 * tables == pytest.approx((half - 2 * tables) / 2, rel=1e-3)
    assert quarter - 2 * tables == pytest.approx((half - 2 * tables) * 3 / 8, rel=1e-3)


@pytest.mark.parametrize("available", [21 * 10**9, 18 * 10**9, 12 * 10**9])
def test_what_is_advised_fits(available):
    plan = plan_of(available=available)
    others = remedies(LLADA_8B, ENGINE, plan, CPU)
    assert others
    assert all(other.total <= available for _, other in others)
    with pytest.raises(ConfigError, match=r"llada needs 37.\d GB on cpu \(weights 32.\d GB") as refused:
        require_fit(LLADA_8B, ENGINE, plan, CPU, "llada")
    assert all(words in str(refused.value) for words, _ in others)


def test_fewer_pages_are_advised_where_they_are_enough():
    engine = EngineConfig(num_pages=4096)
    plan = plan_of(engine=engine, dtype=torch.bfloat16, available=30 * 10**9)
    words, other = remedies(LLADA_8B, engine, plan, CPU)[0]
    assert words == f"--num-pages {other.num_pages}"
    assert other.num_pages < 4096
    assert other.fits
    assert 30e9 - other.total < plan.pages / plan.num_pages


def test_nothing_fits():
    plan = plan_of(available=10**9)
    assert remedies(LLADA_8B, ENGINE, plan, CPU) == []
    with pytest.raises(ConfigError, match="nothing smaller"):
        require_fit(LLADA_8B, ENGINE, plan, CPU, "llada")


def test_what_fits_is_let_through():
    require_fit(LLADA_8B, ENGINE, plan_of(), CPU, "llada")


def test_a_containers_limit_counts(tmp_path):
    assert _container_bytes(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    assert _container_bytes(tmp_path) > 2**60
    (tmp_path / "memory.max").write_text("100\n")
    assert _container_bytes(tmp_path) == 95


def test_sizes_for_people():
    assert [gigabytes(each) for each in (17_300_000_000, 1_000_000_000, 450_400_000)] == ["17.3 GB", "1.0 GB", "450 MB"]
