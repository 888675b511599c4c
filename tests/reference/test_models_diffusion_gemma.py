"""The denoiser and its decoding against DiffusionGemma in transformers: small seeded weights, float32."""

from dataclasses import replace

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.models.diffusion_gemma.generation_diffusion_gemma import (
    DiffusionGemmaGenerationConfig,
    EntropyBoundSamplerConfig,
)

from quicksilver.api.network import recompute
from quicksilver.checkpoints.loading import load_folder
from quicksilver.decoding import Renoise, SamplingParams, final_result, generate, resolve_policy
from quicksilver.diffusion.spec import Layout, Objective
from quicksilver.engine.engine import Engine, EngineConfig
from quicksilver.engine.request import Continuation, Request
from quicksilver.models.attention import DenseAttention
from quicksilver.models.config import Activation, DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.models.layers import CanvasRows
from quicksilver.models.topology import Topology
from tests.gemma import CANVAS, EOS, PAD, VOCAB, WINDOW, OurDraws, save_theirs
from tests.tiny import random_tokens

TOLERANCE = 5e-4
PROMPTS = (1, WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gemma")


@pytest.fixture(scope="module")
def theirs(folder):
    return save_theirs(folder)


@pytest.fixture(scope="module")
def ours(theirs, folder):
    return load_folder(folder)


def our_logits(denoiser: Denoiser, prompt, canvas, previous=None):
    """Of the final tokens and of the canvas."""
    token_ids = torch.cat([prompt, canvas], dim=1)
    length = token_ids.shape[1]
    blocks = torch.arange(length).clamp(max=prompt.shape[1])[None]
    embedded = torch.zeros(canvas.shape[1], denoiser.config.model_width)
    if previous is not None:
        embedded = denoiser.mean_embedding(torch.softmax(previous[0], dim=-1))
    is_canvas = torch.arange(length)[None] >= prompt.shape[1]
    attention = DenseAttention(Topology.block_causal(blocks))
    hidden = denoiser(token_ids, torch.arange(length)[None], attention, CanvasRows(is_canvas, embedded))
    return denoiser.logits(hidden).split([prompt.shape[1], canvas.shape[1]], dim=1)


def their_logits(model, prompt, canvas, previous=None):
    found = model(input_ids=prompt, decoder_input_ids=canvas, self_conditioning_logits=previous)
    cap = model.final_logit_softcapping
    context = cap * torch.tanh(model.lm_head(found.encoder_last_hidden_state) / cap)
    return context, found.logits


def inputs(length, *, is_conditioned):
    prompt, canvas = random_tokens(1, length, seed=length, vocab_size=VOCAB), random_tokens(1, CANVAS, 9, VOCAB)
    previous = 4 * torch.randn(1, CANVAS, VOCAB, generator=torch.Generator().manual_seed(3)) if is_conditioned else None
    return prompt, canvas, previous


@pytest.mark.parametrize("is_conditioned", [False, True], ids=["first step", "conditioned"])
@pytest.mark.parametrize("length", PROMPTS)
@torch.no_grad()
def test_logits_are_theirs(theirs, ours, length, is_conditioned):
    given = inputs(length, is_conditioned=is_conditioned)
    for found, expected in zip(our_logits(ours[0], *given), their_logits(theirs, *given), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


def other(**changes):
    return lambda config: replace(config, **changes)


def other_sliding(**changes):
    return lambda config: replace(config, sliding=replace(config.sliding, **changes))


def swap_scalars(denoiser):
    for layer in denoiser.layers():
        assert layer.scalars is not None
        layer.scalars.context, layer.scalars.canvas = layer.scalars.canvas, layer.scalars.context


def forget_gain(name):
    def forget(denoiser):
        denoiser.get_parameter(name).fill_(1.0)

    return forget


def keep(denoiser):
    del denoiser


def forget_self_conditioning_norm(denoiser):
    denoiser.model.self_conditioning.output_norm = torch.nn.Identity()


WRONG = {
    "window one too long": (other_sliding(window=WINDOW + 1), keep),
    "window one too short": (other_sliding(window=WINDOW - 1), keep),
    "everything seen": (other_sliding(window=1000), keep),
    "one rotary base": (other_sliding(rope_theta=1e6), keep),
    "no logit cap": (other(logit_cap=None), keep),
    "no value norm": (other(has_value_norm=False), keep),
    "divided scores": (other(has_unit_attention_scale=False), keep),
    "all pairs turn": (other(rotary_moving_share=1.0), keep),
    "rotary on a slice": (other(rotary_moving_share=1.0, rotary_fraction=0.25), keep),
    "no embedding scale": (other(embedding_scale=1.0), keep),
    "another activation": (other(activation=Activation.SILU), keep),
    "one expert": (lambda config: replace(config, experts=replace(config.experts, num_chosen=1)), keep),
    "layer scalars swapped": (other(), swap_scalars),
    "no self-conditioning norm": (other(), forget_self_conditioning_norm),
    **{
        name: (other(), forget_gain(f"model.layers.1.{name}"))
        for name in (
            "attention_output_norm.weight",
            "ffn_output_norm.weight",
            "beside.mlp_output_norm.weight",
            "beside.input_norm.weight",
            "beside.output_norm.weight",
            "beside.experts.gate_norm.weight",
            "beside.experts.expert_scale",
            "self_attn.k_norm.weight",
        )
    },
}
"""What can be got wrong: a change of the configuration and one of the network.

Whether the weights of the experts sum to one cannot: the norm behind them takes it away."""


@pytest.mark.parametrize("name", WRONG)
@torch.no_grad()
def test_a_wrong_detail_shows_in_the_logits(ours, name):
    right = ours[0]
    change, spoil = WRONG[name]
    config: DenoiserConfig = change(right.config)
    wrong = Denoiser(config).eval().requires_grad_(False)
    # The norm without a gain has no weight, so the names stay the same.
    wrong.load_state_dict({key: value.clone() for key, value in right.state_dict().items()})
    spoil(wrong)
    given = inputs(3 * WINDOW, is_conditioned=True)
    found, expected = our_logits(wrong, *given)[1], our_logits(right, *given)[1]
    assert float((found - expected).abs().max()) > 20 * TOLERANCE


@torch.no_grad()
def test_what_was_predicted_shows_in_the_logits(ours):
    prompt, canvas, previous = inputs(5, is_conditioned=True)
    first, later = our_logits(ours[0], prompt, canvas)[1], our_logits(ours[0], prompt, canvas, previous)[1]
    assert float((first - later).abs().max()) > 20 * TOLERANCE


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Theirs and ours, with self-conditioning that shows in the logits and does not blow rounding up."""
    folder = tmp_path_factory.mktemp("calm")
    return save_theirs(folder, conditioning=0.03), *load_folder(folder)


POLICY = Renoise(bound=1.5, settle_entropy=0.3, steps=14)
TEMPERATURE = 0.3


def their_tokens(model, monkeypatch, spec, prompt, seed, num_canvases, eos_bias):
    """Up to the first eos, and how many steps they took."""
    OurDraws(monkeypatch, seed, len(prompt), {spec.special.eos, spec.special.pad, spec.special.mask})
    steps = []

    class OurLogits(LogitsProcessor):
        def __call__(self, input_ids, scores):
            steps.append(input_ids.shape[1])
            scores = scores.index_fill(-1, torch.tensor(spec.special.mask), -torch.inf)
            return scores.index_add(-1, torch.tensor([EOS]), torch.full((1, CANVAS, 1), eos_bias))

    found = model.generate(
        torch.tensor([prompt]),
        max_new_tokens=num_canvases * CANVAS,
        max_denoising_steps=POLICY.steps,
        sampler_config=EntropyBoundSamplerConfig(entropy_bound=POLICY.bound),
        t_max=TEMPERATURE,
        t_min=TEMPERATURE * POLICY.cooling,
        stability_threshold=1,
        confidence_threshold=POLICY.settle_entropy,
        eos_token_id=EOS,
        pad_token_id=PAD,
        logits_processor=LogitsProcessorList([OurLogits()]),
    )
    written = found.sequences[0, len(prompt) :].tolist()
    return tuple(written[: written.index(EOS)] if EOS in written else written), len(steps)


@pytest.mark.parametrize("eos_bias", [0.0, 2.0], ids=["on and on", "with ends"])
@pytest.mark.parametrize("seed", range(4))
def test_their_loop_writes_what_the_reference_and_the_engine_write(calm, monkeypatch, seed, eos_bias):
    theirs, denoiser, spec = calm
    prompt = tuple(random_tokens(1, 3 + 7 * seed, seed, VOCAB)[0].tolist())
    expected, num_steps = their_tokens(theirs, monkeypatch, spec, prompt, seed, num_canvases=3, eos_bias=eos_bias)
    assert (len(expected) < 3 * CANVAS) == (eos_bias > 0)
    params = SamplingParams(
        policy=POLICY,
        temperature=TEMPERATURE,
        seed=seed,
        max_tokens=3 * CANVAS,
        vocab_size=VOCAB,
        logit_bias=((EOS, eos_bias),),
    )
    reference = final_result(generate(recompute(denoiser, 0), spec, prompt, params))
    assert (reference.token_ids, reference.nfe) == (expected, num_steps)
    engine = Engine(denoiser, spec, EngineConfig(page_size=8, row_budget=20, num_pages=40))
    (result,) = engine.run([Request(task=Continuation(prompt_ids=prompt), params=params)])
    assert (result.token_ids, result.nfe) == (expected, num_steps)


def test_without_self_conditioning_other_tokens_are_written(calm):
    _, denoiser, spec = calm
    params = SamplingParams(policy=POLICY, temperature=TEMPERATURE, max_tokens=3 * CANVAS, vocab_size=VOCAB)
    logits_fn = recompute(denoiser, 0)
    right, wrong = (
        final_result(generate(each, spec, (5, 6, 7), params))
        for each in (logits_fn, lambda token_ids, block_ids: logits_fn(token_ids, block_ids))
    )
    assert right.token_ids != wrong.token_ids


def test_the_spec_is_what_the_loop_needs(ours):
    spec = ours[1]
    assert spec.objective is Objective.UNIFORM
    assert spec.has_causal_context
    assert (spec.block_length, spec.trained_block_lengths, spec.layouts) == (CANVAS, (CANVAS,), (Layout.BLOCK_CAUSAL,))
    assert (spec.special.eos, spec.special.pad) == (EOS, PAD)
    params = SamplingParams(vocab_size=VOCAB)
    defaults = DiffusionGemmaGenerationConfig._get_default_generation_params()
    assert resolve_policy(spec, params) == Renoise(
        bound=defaults["sampler_config"].entropy_bound,
        settle_entropy=defaults["confidence_threshold"],
        steps=defaults["max_denoising_steps"],
        cooling=defaults["t_min"] / defaults["t_max"],
    )
    assert spec.decoding.temperature == defaults["t_max"]
    assert defaults["stability_threshold"] == 1
