"""LLaDA and Dream against their published networks and loops, whose answers are golden files."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from quicksilver import decoding
from quicksilver.api.network import FullRecompute, StaleRecompute
from quicksilver.checkpoints.loading import load_folder
from quicksilver.decoding import (
    Cache,
    ConfidenceThreshold,
    FixedCount,
    FixedSteps,
    Hole,
    Order,
    Policy,
    SamplingParams,
    Text,
    Timesteps,
)
from quicksilver.decoding.events import Result
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Filling, Request
from quicksilver.models.denoiser import Denoiser
from tests.published import expected, write_folder

ORDERS = {
    "entropy": Order.ENTROPY,
    "maskgit_plus": Order.CONFIDENCE,
    "topk_margin": Order.MARGIN,
    "origin": Order.RANDOM,
}
LLADA_CACHES = {"plain": Cache.EXACT, "prefix": Cache.PREFIX, "dual": Cache.DUAL}


@pytest.fixture(scope="module", params=["llada", "dream"])
def published(request, tmp_path_factory) -> tuple[str, Denoiser, DiffusionSpec]:
    folder = tmp_path_factory.mktemp(request.param)
    write_folder(request.param, folder)
    return request.param, *load_folder(folder)


def test_logits_are_the_reference_networks(published) -> None:
    family, denoiser, spec = published
    golden = expected(family)
    canvas = torch.from_numpy(golden["canvas"])
    # Row by row as the network gives them: the reference's rows are not shifted either.
    found = FullRecompute(denoiser, spec.prediction_shift).raw(canvas, torch.zeros_like(canvas))
    assert torch.allclose(found, torch.from_numpy(golden["logits"]), rtol=0, atol=5e-4)


def cases(family: str) -> Iterator[tuple[str, Continuation, SamplingParams]]:
    """The prompt and settings of every golden answer."""
    golden = expected(family)
    for name in golden:
        loop, *numbers = name.split("/")
        if not numbers:
            continue
        prompt = tuple(golden[f"prompt{numbers[0]}"].tolist())
        params = llada_params(loop, *numbers[1:]) if family == "llada" else dream_params(loop, *numbers[1:])
        yield name, Continuation(prompt_ids=prompt), params


def llada_params(loop: str, steps: str, block_length: str, threshold: str) -> SamplingParams:
    """``steps`` are those of all blocks."""
    num_blocks = 32 // int(block_length)
    policy: Policy = FixedSteps(steps=int(steps) // num_blocks)
    if float(threshold):
        policy = ConfidenceThreshold(threshold=float(threshold))
    return SamplingParams(policy=policy, max_tokens=32, block_length=int(block_length), cache=LLADA_CACHES[loop])


def dream_params(loop: str, steps: str) -> SamplingParams:
    return SamplingParams(policy=Timesteps(order=ORDERS[loop], steps=int(steps)), max_tokens=24)


def assert_equal(result: Result, golden: list[int], eos: int) -> None:
    """The published loops go on behind eos; the response ends there."""
    end = golden.index(eos) if eos in golden else len(golden)
    assert list(result.token_ids) == golden[:end]


def test_the_reference_sampler_writes_what_the_published_loops_write(published) -> None:
    family, denoiser, spec = published
    golden, logits_fn = expected(family), StaleRecompute(denoiser, spec.prediction_shift)
    for name, task, params in cases(family):
        result = decoding.final_result(decoding.generate(logits_fn, spec, task.prompt_ids, params))
        assert_equal(result, golden[name].tolist(), spec.special.eos)
        assert (result.num_stale_rows > 0) == (params.cache is not Cache.EXACT)
        # The forwards of Dream at which nothing is written are left out.
        steps = int(name.split("/")[2])
        assert result.nfe == steps if isinstance(params.policy, FixedSteps) else result.nfe <= min(steps, 32)


def test_the_engine_does_too_with_all_requests_at_once(published) -> None:
    family, denoiser, spec = published
    engine = Engine(denoiser, spec, EngineConfig(page_size=8, num_pages=200))
    tickets = {name: engine.submit(Request(task=task, params=params)) for name, task, params in cases(family)}
    while engine.num_requests:
        engine.step()
    golden = expected(family)
    for name, ticket in tickets.items():
        assert_equal(ticket.result, golden[name].tolist(), spec.special.eos)


@pytest.fixture(scope="module")
def dreamon(tmp_path_factory) -> tuple[Denoiser, DiffusionSpec]:
    folder = tmp_path_factory.mktemp("dreamon")
    write_folder("dreamon", folder)
    return load_folder(folder)


@pytest.mark.parametrize("number", range(4))
def test_holes_grow_and_shrink_as_in_dreamons_loop(dreamon, number) -> None:
    denoiser, spec = dreamon
    golden = expected("dreamon")
    (name,) = [each for each in golden if each.startswith(f"{number}/") and each.count("/") == 2]
    _, algorithm, length = name.split("/")
    prefix, suffix = (Text(token_ids=tuple(golden[f"{number}/{part}"].tolist())) for part in ("prefix", "suffix"))
    spec = replace(spec, decoding=replace(spec.decoding, hole_length=int(length)))
    task = Filling(template=(prefix, Hole(max_length=16), suffix))
    params = SamplingParams(policy=FixedCount(order=ORDERS[algorithm]))
    alone = decoding.final_result(
        decoding.infill(FullRecompute(denoiser, spec.prediction_shift), spec, task.template, params)
    )
    engine = Engine(denoiser, spec)
    ticket = engine.submit(Request(task=task, params=params))
    while engine.num_requests:
        engine.step()
    assert alone.holes == ticket.result.holes == (tuple(golden[name].tolist()),)
