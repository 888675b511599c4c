"""Makes the golden files of the block-causal families with their reference code.

    python make_block_causal.py FAMILY REFERENCE_CLONE

in an environment with torch and the version of transformers that the family's README.md names. What each family needs
of its clone is in ``MAKERS``. Weights come from ``tests/seeded_weights.py``, drawn by the published names.
"""

import importlib
import importlib.machinery
import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from seeded_weights import seeded_array  # noqa: E402  # found by the line before

SPECIAL = {"mask": 5, "eos": 3, "pad": 4}
"""Ids below 10 are special in all of them."""
LENGTH = 44


def prompt(length: int, seed: int, vocab_size: int) -> list[int]:
    return np.random.Generator(np.random.Philox(seed)).integers(10, vocab_size, length).tolist()


def fill(model: Any) -> None:
    """Seeded values in every tensor, buffers of the state dict too."""
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            tensor.copy_(torch.from_numpy(seeded_array(name, tensor.shape)))
    model.eval()


def keep_special_ids_out(model: Any) -> None:
    """A loop that wrote the mask would go on for ever; published checkpoints have low logits there, seeded ones not."""

    def suppress(module: object, inputs: object, logits: torch.Tensor) -> torch.Tensor:
        del module, inputs
        logits[..., [SPECIAL["mask"], SPECIAL["pad"]]] = -torch.inf
        return logits

    model.lm_head.register_forward_hook(suppress)


def save(family: str, model: Any, input_ids: list[int], logits: torch.Tensor, decodings: list[dict[str, Any]]) -> None:
    folder = HERE / family
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    values = {"input_ids": input_ids, "shapes": shapes, "decodings": decodings}
    (folder / "expected.json").write_text(json.dumps(values) + "\n")
    np.save(folder / "logits.npy", logits.float().numpy())


def block_causal(length: int, block_length: int) -> torch.Tensor:
    block = torch.arange(length) // block_length
    return block[None, :] <= block[:, None]


def noisy(vocab_size: int) -> list[int]:
    """A canvas with masks in its last two blocks."""
    ids = prompt(LENGTH, 7, vocab_size)
    for at in (33, 34, 36, 39, 40, 41, 43):
        ids[at] = SPECIAL["mask"]
    return ids


def to_block_end(num_prompt: int, block_length: int) -> int:
    """Tokens from a prompt to the end of the block in which the 20th of them is."""
    return -(-(num_prompt + 20) // block_length) * block_length - num_prompt


def read_config(family: str) -> dict[str, Any]:
    return json.loads((HERE / family / "config.json").read_text())


def package_of(folder: Path, name: str) -> None:
    """A folder as a package, so that its modules' relative imports work without its own __init__."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


# SDAR ---------------------------------------------------------------------------------------------------------------


def _without_flash_attention() -> None:
    """SDAR's file asks for flash-attn, which runs on GPUs alone: the same functions in plain torch."""

    def rms_norm_fn(x: torch.Tensor, weight: torch.Tensor, bias: None, eps: float) -> torch.Tensor:
        del bias
        return F.rms_norm(x, (x.shape[-1],), weight, eps)

    def flash_attn_func(query: Any, key: Any, value: Any, *, causal: bool, softmax_scale: float) -> torch.Tensor:
        heads = [each.transpose(1, 2) for each in (query, key, value)]
        out = F.scaled_dot_product_attention(*heads, is_causal=causal, scale=softmax_scale, enable_gqa=True)
        return out.transpose(1, 2)

    import transformers.modeling_utils  # noqa: F401  # asks whether flash-attn is there: before these stand in for it

    for name in ("flash_attn", "flash_attn.ops", "flash_attn.ops.triton", "flash_attn.ops.triton.layer_norm"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules["flash_attn"].flash_attn_func = flash_attn_func
    sys.modules["flash_attn"].flash_attn_varlen_func = None
    sys.modules["flash_attn.ops.triton.layer_norm"].rms_norm_fn = rms_norm_fn
    loss = types.ModuleType("sdar_reference.fused_linear_diffusion_cross_entropy")
    loss.FusedLinearDiffusionCrossEntropyLoss = None
    sys.modules[loss.__name__] = loss


def _greedy_sdar(clone: Path) -> Any:
    """SDAR's generate.py with its random draw replaced by the likeliest token."""
    sys.path.insert(0, str(clone))
    loop = importlib.import_module("generate")

    def likeliest(logits: torch.Tensor, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
        del options
        probability, token = torch.softmax(logits, dim=-1).max(dim=-1)
        return token, probability

    loop.sample_with_temperature_topk_topp = likeliest
    return loop.block_diffusion_generate


SDAR_RUNS = [
    {"prompt_length": 10, "block_length": 4, "strategy": "low_confidence_dynamic", "threshold": 0.4},
    {"prompt_length": 13, "block_length": 4, "strategy": "low_confidence_static"},
    {"prompt_length": 3, "block_length": 8, "strategy": "low_confidence_dynamic", "threshold": 0.25},
    {"prompt_length": 16, "block_length": 8, "strategy": "low_confidence_dynamic", "threshold": 0.9},
]


def _sdar_decodings(model: Any, generate: Callable[..., torch.Tensor], vocab_size: int) -> list[dict[str, Any]]:
    decodings = []
    for seed, run in enumerate(SDAR_RUNS):
        given, block = prompt(run["prompt_length"], seed, vocab_size), run["block_length"]
        ids = generate(
            model,
            {"input_ids": torch.tensor([given])},
            mask_id=SPECIAL["mask"],
            gen_length=20,
            block_length=block,
            denoising_steps=block,
            remasking_strategy=run["strategy"],
            confidence_threshold=run.get("threshold"),
        )
        tokens = ids[0, len(given) :].tolist()
        decodings.append({"options": run, "prompt": given, "max_tokens": len(tokens), "tokens": tokens})
    return decodings


def make_sdar(clone: Path) -> None:
    _without_flash_attention()
    package_of(clone / "training/model/SDAR-4B-Chat", "sdar_reference")
    modeling = importlib.import_module("sdar_reference.modeling_sdar")
    configuration = importlib.import_module("sdar_reference.configuration_sdar")
    values = read_config("sdar")
    model = modeling.SDARForCausalLM(configuration.SDARConfig(**values))
    fill(model)
    ids = noisy(values["vocab_size"])
    position = torch.arange(LENGTH)[None]
    with torch.no_grad():
        mask = block_causal(LENGTH, values["block_size"])[None]
        logits = model(torch.tensor([ids]), attention_mask=mask, position_ids=position, use_cache=False).logits[0]
    keep_special_ids_out(model)
    save("sdar", model, ids, logits.clone(), _sdar_decodings(model, _greedy_sdar(clone), values["vocab_size"]))


class _Recomputing:
    """transformers' Qwen3-MoE as SDAR's loop calls a model: what it would have cached is kept as token ids."""

    def __init__(self, model: Any) -> None:
        self.model, self.device = model, model.device
        self.stored, self.seen_before = torch.zeros(1, 0, dtype=torch.long), torch.zeros(0, 0)

    def eval(self) -> None: ...

    def __call__(self, ids: torch.Tensor, *, attention_mask: torch.Tensor, store_kv: bool, **options: object) -> Any:
        del options
        whole, count = torch.cat([self.stored, ids], dim=1), self.stored.shape[1]
        seen = torch.zeros(whole.shape[1], whole.shape[1])
        seen[:count, :count], seen[count:] = self.seen_before, attention_mask[0]
        bias = torch.zeros_like(seen).masked_fill(seen == 0, torch.finfo(torch.float32).min)
        out = self.model(whole, attention_mask=bias[None, None], use_cache=False)
        if store_kv:
            self.stored, self.seen_before = whole, seen
        out.logits = out.logits[:, -ids.shape[1] :]
        return out


def make_sdar_moe(clone: Path) -> None:
    """No modelling file of SDAR-MoE is in the clone; its network is Qwen3-MoE's."""
    import transformers

    values = read_config("sdar_moe")
    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**values | {"model_type": "qwen3_moe"}))
    fill(model)
    ids = noisy(values["vocab_size"])
    bias = torch.zeros(LENGTH, LENGTH).masked_fill(~block_causal(LENGTH, values["block_size"]), torch.finfo().min)
    with torch.no_grad():
        logits = model(torch.tensor([ids]), attention_mask=bias[None, None], use_cache=False).logits[0]
    keep_special_ids_out(model)
    generate = _greedy_sdar(clone)
    decodings = _sdar_decodings(model, lambda m, *a, **k: generate(_Recomputing(m), *a, **k), values["vocab_size"])
    save("sdar_moe", model, ids, logits.clone(), decodings)


# LLaDA-MoE, LLaDA2 ----------------------------------------------------------------------------------------------------


def _dllm(clone: Path, name: str) -> tuple[Any, Any]:
    folder = clone / "dllm/pipelines" / name
    package_of(folder / "models", f"{name}_reference")
    kind = {"llada": "lladamoe"}.get(name, f"{name}_moe")
    modeling = importlib.import_module(f"{name}_reference.modeling_{kind}")
    return modeling, importlib.import_module(f"{name}_reference.configuration_{kind}")


def make_llada_moe(clone: Path) -> None:
    modeling, configuration = _dllm(clone, "llada")
    values = read_config("llada_moe")
    model = modeling.LLaDAMoEModelLM(configuration.LLaDAMoEConfig(**values, attn_implementation="eager"))
    fill(model)
    ids = noisy(values["vocab_size"])
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    save("llada_moe", model, ids, logits, [])


def _use_newer_names() -> None:
    """The clone is written for transformers 4.54 and later, which renamed a type that only annotations use."""
    import transformers.utils

    if not hasattr(transformers.utils, "TransformersKwargs"):
        transformers.utils.TransformersKwargs = transformers.utils.LossKwargs


def _with_float_masks(model: Any) -> None:
    """Its loop makes masks in bf16, which suit weights in bf16 alone."""

    inner = model.forward

    def forward(*inputs: object, attention_mask: torch.Tensor, **options: object) -> Any:
        return inner(*inputs, attention_mask=attention_mask.float(), **options)

    model.forward = forward


LLADA2_RUNS = [
    {"prompt_length": 10, "block_length": 8, "threshold": 0.35},
    {"prompt_length": 16, "block_length": 8, "threshold": 0.95},
    {"prompt_length": 5, "block_length": 32, "threshold": 0.3},
]


def make_llada2(clone: Path) -> None:
    _use_newer_names()
    modeling, configuration = _dllm(clone, "llada2")
    values = read_config("llada2")
    model = modeling.LLaDA2MoeModelLM(configuration.LLaDA2MoeConfig(**values, attn_implementation="sdpa"))
    _with_float_masks(model)
    fill(model)
    ids = noisy(values["vocab_size"])
    bias = torch.zeros(LENGTH, LENGTH).masked_fill(~block_causal(LENGTH, 8), -torch.inf)[None, None]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), attention_mask=bias).logits[0]
    keep_special_ids_out(model)
    decodings = []
    for seed, run in enumerate(LLADA2_RUNS):
        given, block = prompt(run["prompt_length"], seed, values["vocab_size"]), run["block_length"]
        max_tokens = to_block_end(len(given), block)
        out = model.generate(
            torch.tensor([given]),
            gen_length=max_tokens,
            block_length=block,
            steps=block,
            threshold=run["threshold"],
            eos_id=SPECIAL["eos"],
            mask_id=SPECIAL["mask"],
        )
        found = {"max_tokens": max_tokens, "tokens": out[0].tolist()}
        decodings.append({"options": run, "prompt": given} | found)
    save("llada2", model, ids, logits.clone(), decodings)


LLADA21_RUNS = [
    {"prompt_length": 10, "block_length": 8, "threshold": 0.35, "edit_threshold": 0.3, "max_post_steps": 16},
    {"prompt_length": 16, "block_length": 8, "threshold": 0.3, "edit_threshold": 0.0, "max_post_steps": 5},
    {"prompt_length": 5, "block_length": 32, "threshold": 0.5, "edit_threshold": 0.0, "max_post_steps": 16},
    {"prompt_length": 21, "block_length": 32, "threshold": 0.95, "edit_threshold": 0.9, "max_post_steps": 16},
]


def make_llada21(clone: Path) -> None:
    _use_newer_names()
    modeling, configuration = _dllm(clone, "llada21")
    values = read_config("llada21")
    model = modeling.LLaDA2MoeModelLM(configuration.LLaDA2MoeConfig(**values, attn_implementation="sdpa"))
    _with_float_masks(model)
    fill(model)
    ids = noisy(values["vocab_size"])
    bias = torch.zeros(LENGTH, LENGTH).masked_fill(~block_causal(LENGTH, 8), -torch.inf)[None, None]
    with torch.no_grad():
        logits = model(torch.tensor([ids]), attention_mask=bias).logits[0]
    keep_special_ids_out(model)
    forwards = 0

    def count(*arguments: object) -> None:
        nonlocal forwards
        forwards += 1

    model.model.register_forward_hook(count)
    decodings = []
    for seed, run in enumerate(LLADA21_RUNS):
        given, block = prompt(run["prompt_length"], seed, values["vocab_size"]), run["block_length"]
        max_tokens, forwards = to_block_end(len(given), block), 0
        out = model.generate(
            torch.tensor([given]),
            gen_length=max_tokens,
            block_length=block,
            threshold=run["threshold"],
            editing_threshold=run["edit_threshold"],
            max_post_steps=run["max_post_steps"],
            eos_id=SPECIAL["eos"],
            mask_id=SPECIAL["mask"],
        )
        found = {"max_tokens": max_tokens, "tokens": out[0].tolist(), "forwards": forwards}
        decodings.append({"options": run, "prompt": given} | found)
    save("llada21", model, ids, logits.clone(), decodings)


# Fast-dLLM v2 ---------------------------------------------------------------------------------------------------------

FAST_RUNS = [
    {"prompt_length": 40, "threshold": 0.35, "sub_block_length": 8},
    {"prompt_length": 64, "threshold": 0.3, "sub_block_length": 8},
    {"prompt_length": 5, "threshold": 0.9, "sub_block_length": 16},
    {"prompt_length": 37, "threshold": 0.4, "sub_block_length": 32},
]


def make_fast_dllm(clone: Path) -> None:
    sys.path.insert(0, str(clone / "FastDLLM_inferencing/Fast_dLLM_v2_7B"))
    package_of(clone / "FastDLLM_inferencing/Fast_dLLM_v2_7B", "fast_reference")
    modeling = importlib.import_module("fast_reference.modeling")
    configuration = importlib.import_module("fast_reference.configuration")
    values = read_config("fast_dllm")
    model = modeling.Fast_dLLM_QwenForCausalLM(configuration.Fast_dLLM_QwenConfig(**values))
    fill(model)
    ids = noisy(values["vocab_size"])
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    keep_special_ids_out(model)
    decodings = []
    for seed, run in enumerate(FAST_RUNS):
        given = prompt(run["prompt_length"], seed, values["vocab_size"])
        out = model.generate(
            torch.tensor([given]),
            max_new_tokens=64,
            mask_id=SPECIAL["mask"],
            threshold=run["threshold"],
            small_block_size=run["sub_block_length"],
            stop_token=SPECIAL["eos"],
        )
        tokens = out[0][0].tolist()[len(given) :]
        if SPECIAL["eos"] not in tokens:  # behind the last whole block stands the token that would have opened the next
            tokens.pop()
        found = {"max_tokens": 64 - len(given) % 32, "tokens": tokens}
        decodings.append({"options": run | {"block_length": 32}, "prompt": given} | found)
    save("fast_dllm", model, ids, logits.clone(), decodings)


MAKERS = {
    "sdar": make_sdar,
    "sdar_moe": make_sdar_moe,
    "llada_moe": make_llada_moe,
    "llada2": make_llada2,
    "llada21": make_llada21,
    "fast_dllm": make_fast_dllm,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    MAKERS[sys.argv[1]](Path(sys.argv[2]).resolve())
