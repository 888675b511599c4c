"""One denoiser over two processes: the same logits, the same events, and an end in time when one is gone."""

import random
import threading
from dataclasses import replace

import pytest
import torch

from quicksilver.api.network import FullRecompute
from quicksilver.checkpoints.folder import save_folder
from quicksilver.checkpoints.loading import load_folder
from quicksilver.checkpoints.sharded import ShardedWeights
from quicksilver.decoding import Cache, ConfidenceThreshold, Hole, SamplingParams, Text
from quicksilver.diffusion.spec import Objective
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.errors import ConfigError
from quicksilver.models.attention import TiledAttention
from quicksilver.models.config import Experts
from quicksilver.models.fused import FusedDenoiser
from quicksilver.models.topology import Topology
from tests.engine_requests import random_request, reference_events, without_rounding
from tests.fakes import fake_spec
from tests.tiny import TINY, random_denoiser, random_tokens, tiny_config
from tests.two_ranks import Pair

pytestmark = pytest.mark.slow

LAYOUTS = {
    "qwen3": TINY,
    "qwen2": tiny_config(has_qkv_bias=True, has_qk_norm=False, has_tied_embeddings=False),
    "llama": tiny_config(has_qk_norm=False, has_tied_embeddings=False),
    # Both processes hold the one key/value head.
    "one key/value head": tiny_config(num_kv_heads=1),
    "experts": tiny_config(
        experts=Experts(num_experts=6, num_chosen=2, width=12, shared_width=20, num_dense_layers=1, has_bias=True)
    ),
}
SPECS = {
    "blocks": fake_spec(),
    "causal context": replace(fake_spec(), has_causal_context=True),
    "uniform": fake_spec(Objective.UNIFORM),
    "autoregressive": replace(fake_spec(Objective.AUTOREGRESSIVE), block_length=1, prediction_shift=1),
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("meeting") / "ranks")
    yield pair
    assert pair.close() == ""


def saved(folder, config=TINY, spec=None):
    """A checkpoint folder and its whole denoiser in float32."""
    denoiser = random_denoiser(config, dtype=torch.float32)
    save_folder(folder, denoiser, spec or fake_spec(), dtype=torch.float32)
    return folder, denoiser


def events_of(engine, requests, rng):
    """All events, requests coming at random moments."""
    waiting, tickets = list(requests), []
    while waiting or engine.num_requests:
        while waiting and (rng.random() < 0.6 or not engine.num_requests):
            tickets.append(engine.submit(waiting.pop(0)))
        engine.step()
        engine.check_integrity()
    for ticket in tickets:
        assert ticket.error is None
    return tickets


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits_are_those_of_one_process(pair, layout, tmp_path):
    folder, whole = saved(tmp_path, LAYOUTS[layout])
    token_ids, blocks = random_tokens(1, 19)[0], torch.arange(19) // 4
    with pair.denoiser(folder, torch.float32) as (part, _):
        found = FullRecompute(part, 0).raw(token_ids, blocks)
        assert part.num_parameters == whole.num_parameters
        assert part.model.layers[0].mlp.down_proj.weight.shape == (24, 20)
    expected = FullRecompute(whole, 0).raw(token_ids, blocks)
    assert expected.abs().max() > 1
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", SPECS)
def test_every_request_gets_the_events_of_the_reference(pair, name, tmp_path):
    """In float64, where another order of sums does not reach what is decided; with preemption, holes and caches."""
    folder, whole = saved(tmp_path, spec=SPECS[name])
    whole, rng = whole.double(), random.Random(3)
    requests = [random_request(rng, SPECS[name]) for _ in range(8)]
    with pair.denoiser(folder, torch.float64) as (part, spec):
        engine = Engine(part, spec, EngineConfig(page_size=8, num_pages=7, row_budget=40))
        assert isinstance(engine.runner.network, FusedDenoiser)
        tickets = events_of(engine, requests, rng)
    for request, ticket in zip(requests, tickets, strict=True):
        expected = reference_events(whole, SPECS[name], request)
        assert without_rounding(ticket.events) == without_rounding(expected)


def test_float32_at_temperature_0_with_prefix_cache_and_preemption(pair, tmp_path):
    folder, whole = saved(tmp_path, spec=SPECS["causal context"])
    params = SamplingParams(temperature=0.0, seed=1, max_tokens=16, policy=ConfidenceThreshold())
    prompts = [tuple(int(each) for each in random_tokens(1, 17, seed)[0]) for seed in (1, 2, 3, 1)]
    template = (Text(token_ids=prompts[0]), Hole(), Text(token_ids=prompts[1][:4]))
    requests = [
        *(Request(task=Continuation(prompt_ids=ids), params=params, priority=-at) for at, ids in enumerate(prompts)),
        Request(task=Filling(template=template), params=replace(params, max_tokens=None, cache=Cache.DUAL)),
    ]
    config = EngineConfig(page_size=4, num_pages=20)
    alone = events_of(Engine(whole, SPECS["causal context"], config), requests, random.Random(0))
    with pair.denoiser(folder, torch.float32) as (part, spec):
        engine = Engine(part, spec, config)
        assert engine.memory.num_bytes * 2 == Engine(whole, spec, config).memory.num_bytes
        found = events_of(engine, requests, random.Random(0))
        again = events_of(engine, requests[:1], random.Random(0))[0]
    assert again.usage.num_cached >= 16
    assert again.result.holes == found[0].result.holes
    assert sum(ticket.usage.num_preemptions for ticket in found) > 0
    for one, other in zip(alone, found, strict=True):
        assert one.result.holes == other.result.holes
        assert one.usage.nfe == other.usage.nfe


def test_logits_are_read_beside_the_engine(pair, tmp_path):
    """Orders of two threads do not mix."""
    folder, whole = saved(tmp_path, spec=SPECS["autoregressive"])
    token_ids, blocks = random_tokens(1, 19)[0], torch.arange(19)
    expected, found = FullRecompute(whole, 0).raw(token_ids, blocks), []
    request = Request(
        task=Continuation(prompt_ids=(11, 12)), params=SamplingParams(temperature=0.0, seed=0, max_tokens=40)
    )
    with pair.denoiser(folder, torch.float32) as (part, spec):
        reader = threading.Thread(
            target=lambda: found.extend(FullRecompute(part, 0).raw(token_ids, blocks) for _ in range(20))
        )
        engine = Engine(part, spec)
        reader.start()
        (result,) = engine.run([request])
        reader.join()
    assert result.holes == Engine(whole, spec).run([request])[0].holes
    assert len(found) == 20
    assert all((each - expected).abs().max() < 1e-5 for each in found)


def test_an_older_engine_has_lost_its_pages(pair, tmp_path):
    folder, _ = saved(tmp_path)
    request = Request(task=Continuation(prompt_ids=(11, 12)), params=SamplingParams(seed=0, max_tokens=8))
    with pair.denoiser(folder, torch.float32) as (part, spec):
        older, newer = Engine(part, spec), Engine(part, spec)
        with pytest.raises(Exception, match="another engine"):
            older.run([request])
        assert newer.run([request])


def test_what_the_others_cannot_be_told_is_refused_before_they_wait(pair, tmp_path):
    folder, _ = saved(tmp_path)
    tokens = random_tokens(1, 8)
    attention = TiledAttention(Topology.block_causal(torch.zeros(1, 8, dtype=torch.int64)))
    with pair.denoiser(folder, torch.float32) as (part, _):
        with pytest.raises(ConfigError, match="TiledAttention"):
            part(tokens, torch.arange(8)[None], attention)
        with pytest.raises(ConfigError, match="no loss"):
            part.cross_entropy(torch.zeros(1, 24), torch.zeros(1, dtype=torch.int64), torch.ones(1))
        assert FullRecompute(part, 0).raw(tokens[0], torch.zeros(8).long()).shape == (8, 61)


def test_a_rank_reads_its_own_part_only(pair, tmp_path, monkeypatch):
    folder, whole = saved(tmp_path, tiny_config(has_tied_embeddings=False))
    read = []

    def counted(self, name, cuts):
        found = cut(self, name, cuts)
        read.append(found.nbytes)
        return found

    cut = ShardedWeights._cut
    monkeypatch.setattr(ShardedWeights, "_cut", counted)
    pair.start_loading(folder, torch.float32)
    part, _ = load_folder(folder, torch.float32, ranks=pair.ranks)
    with pair.ranks.leading(None):
        pass
    norms = [tensor.nbytes for name, tensor in whole.state_dict().items() if "norm" in name]
    matrices = sum(tensor.nbytes for tensor in whole.state_dict().values()) - sum(norms)
    # The vocabulary of 61 divides into 30 and 31.
    assert sum(read) == matrices // 2 - 2 * 24 * 4 // 2
    assert sum(tensor.nbytes for tensor in part.state_dict().values()) == sum(read) + sum(norms)
