"""A tiny DiffusionGemma of ``transformers`` with seeded weights, and its sampler fed with our draws."""

from pathlib import Path

import torch
from torch import Tensor
from transformers import DiffusionGemmaConfig, DiffusionGemmaForBlockDiffusion
from transformers.models.diffusion_gemma import generation_diffusion_gemma as their_sampler

from quicksilver.decoding.draws import Purpose, draw, draw_per_token
from tests.seeded_weights import seeded_array

VOCAB, CANVAS, WINDOW, EOS, PAD = 160, 12, 8, 1, 0
TEXT = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 56,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "max_position_embeddings": 256,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "num_experts": 6,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
}
_SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "head_dim": 16}
_VISION = {"model_type": "gemma4_vision", "num_key_value_heads": 1, "position_embedding_size": 8, **_SMALL}


def build_theirs(conditioning: float = 1.0) -> DiffusionGemmaForBlockDiffusion:
    """Every tensor drawn from its name.

    Args:
        conditioning: factor on self-conditioning; at 1 a difference of rounding grows tenfold with every step.
    """
    config = DiffusionGemmaConfig(text_config=TEXT, vision_config=_VISION, canvas_length=CANVAS)
    config._attn_implementation = "eager"
    model = DiffusionGemmaForBlockDiffusion(config)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.startswith("model.decoder.") or name.endswith("layer_scalar"):
                tensor.copy_(torch.from_numpy(seeded_array(name, tensor.shape)))
        model.model.decoder.self_conditioning.down_proj.weight *= conditioning
    return model.eval()


def save_theirs(folder: Path, conditioning: float = 1.0) -> DiffusionGemmaForBlockDiffusion:
    """The model, also as a folder of the published layout."""
    model = build_theirs(conditioning)
    model.save_pretrained(folder)
    return model


class OurDraws:
    """Replaces the random numbers of their loop, for one sequence, by those that ours takes for a seed."""

    def __init__(self, monkeypatch, seed: int, prompt_length: int, special: set[int]) -> None:
        self._seed = torch.tensor(seed)
        self._start, self._step = prompt_length - CANVAS, 0
        self._allowed = torch.tensor([token for token in range(VOCAB) if token not in special])
        monkeypatch.setattr(their_sampler.EntropyBoundSampler, "initialize_canvas", self._open_canvas())
        monkeypatch.setattr(their_sampler.EntropyBoundSampler, "renoise_canvas", self._renoise())
        monkeypatch.setattr(torch, "multinomial", self._sample)

    @property
    def _positions(self) -> Tensor:
        return torch.arange(self._start, self._start + CANVAS)

    def _noise(self) -> Tensor:
        chance = draw(Purpose.NOISE, self._seed, self._positions, torch.tensor(self._step))
        return self._allowed[(chance * len(self._allowed)).long()][None]

    def _open_canvas(self):
        def initialize_canvas(sampler, batch_size, device):
            self._start, self._step = self._start + CANVAS, 0
            return self._noise()

        return initialize_canvas

    def _renoise(self):
        def renoise_canvas(sampler, accepted_canvas, cur_step):
            self._step += 1
            return torch.where(sampler.accepted_token_mask, accepted_canvas, self._noise())

        return renoise_canvas

    def _sample(self, probabilities: Tensor, num_samples: int) -> Tensor:
        seed, step = self._seed.expand(CANVAS), torch.tensor(self._step).expand(CANVAS)
        uniform = draw_per_token(Purpose.TOKEN, seed, self._positions, step, torch.arange(VOCAB))
        return (probabilities.double().log() - torch.log(-torch.log(uniform))).argmax(dim=-1, keepdim=True)
