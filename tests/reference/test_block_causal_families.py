"""SDAR, LLaDA-MoE, LLaDA2 and Fast-dLLM v2 against their published networks and loops: answers in golden files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from quicksilver import decoding
from quicksilver.api.network import FullRecompute
from quicksilver.checkpoints.loading import load_folder
from quicksilver.decoding import ConfidenceThreshold, FixedCount, JointThreshold, Policy, SamplingParams
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.models.denoiser import Denoiser
from tests.published import GOLDEN, write_folder

BLOCKS = {"sdar": 4, "sdar_moe": 4, "llada_moe": 44, "llada2": 8, "llada21": 8, "fast_dllm": 32}
"""Length of the blocks of the golden logits; one block is full attention."""
DECODED = [family for family in BLOCKS if family != "llada_moe"]

Published = tuple[str, Denoiser, DiffusionSpec]


@pytest.fixture(scope="module", params=BLOCKS)
def published(request, tmp_path_factory) -> Published:
    folder = tmp_path_factory.mktemp(request.param)
    write_folder(request.param, folder)
    return request.param, *load_folder(folder)


def golden(family: str):
    return json.loads((GOLDEN / family / "expected.json").read_text())


def test_logits_are_the_reference_networks(published) -> None:
    family, denoiser, spec = published
    ids = torch.tensor(golden(family)["input_ids"])
    blocks = torch.arange(len(ids)) // BLOCKS[family]
    found = FullRecompute(denoiser, spec.prediction_shift).raw(ids, blocks)
    expected = torch.from_numpy(np.load(GOLDEN / family / "logits.npy"))
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-4)


def policy_of(options: dict[str, object]) -> Policy:
    """The rule that a published loop's options mean."""
    if options.get("strategy") == "low_confidence_static":
        return FixedCount(tokens_per_step=1)
    threshold = float(str(options["threshold"]))
    if "edit_threshold" not in options:
        return ConfidenceThreshold(threshold=threshold)
    return JointThreshold(
        threshold=threshold,
        edit_threshold=float(str(options["edit_threshold"])),
        max_edits=None,
        max_post_steps=int(str(options["max_post_steps"])),
    )


def cases(family: str, spec: DiffusionSpec):
    """Spec, request and the tokens that the loop wrote."""
    for case in golden(family)["decodings"]:
        options = case["options"]
        # The loops were kept from writing mask and pad by taking their probability.
        case_spec = replace(spec, special=replace(spec.special, pad=4), is_mask_predicted=False)
        if "sub_block_length" in options:
            sub_blocks = replace(spec.decoding, sub_block_length=options["sub_block_length"])
            case_spec = replace(case_spec, decoding=sub_blocks)
        params = SamplingParams(
            policy=policy_of(options), block_length=options["block_length"], max_tokens=case["max_tokens"]
        )
        task = Continuation(prompt_ids=tuple(case["prompt"]))
        yield case_spec, Request(task=task, params=params), case


def assert_equal(result: decoding.Result, case: dict, eos: int) -> None:
    """Some published loops go on behind eos; the response ends there."""
    tokens = case["tokens"]
    assert list(result.token_ids) == tokens[: tokens.index(eos) if eos in tokens else len(tokens)]
    if "forwards" in case and eos not in tokens:
        assert result.nfe == case["forwards"]


@pytest.mark.parametrize("published", DECODED, indirect=True)
def test_the_reference_sampler_writes_what_the_published_loop_writes(published) -> None:
    family, denoiser, spec = published
    for case_spec, request, case in cases(family, spec):
        logits_fn = FullRecompute(denoiser, spec.prediction_shift)
        events = decoding.generate(logits_fn, case_spec, request.task.prompt_ids, request.params)
        assert_equal(decoding.final_result(events), case, spec.special.eos)


@pytest.mark.parametrize("published", DECODED, indirect=True)
def test_the_engine_does_too(published) -> None:
    family, denoiser, spec = published
    for case_spec, request, case in cases(family, spec):
        engine = Engine(denoiser, case_spec, EngineConfig(page_size=32, num_pages=20))
        tickets = [engine.submit(request), engine.submit(request)]
        while engine.num_requests:
            engine.step()
        for ticket in tickets:
            assert_equal(ticket.result, case, spec.special.eos)
