"""Networks and loops of other projects, run as they are published; part of ``families.py``.

Their code is not part of this repository and is read from clones. It wants transformers 4.57 (dllm pins it) and einops.
"""

import importlib
import importlib.util
import json
import sys
import time
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

LLADA, FAST_DLLM, DLLM = "LLaDA", "Fast-dLLM", "dllm"
CLONES = {LLADA: "ML-GSAI/LLaDA", FAST_DLLM: "NVlabs/Fast-dLLM", DLLM: "ZHZisZZ/dllm"}
"""Folder of each clone and its repository."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """One answer."""

    token_ids: list[int]
    steps: list[int]
    """The forward that wrote each token; empty where nobody counted."""
    num_forwards: int
    num_stale_rows: int = 0
    """Rows of earlier forwards that were read, per forward that read any."""
    seconds: float


Loop = Callable[[Sequence[int], int], Written]
"""A prompt and how many tokens to write behind it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What all loops of one family are asked for."""

    folder: Path
    """Of the checkpoint, in its published layout."""
    dtype: torch.dtype
    block_length: int
    tokens_per_step: int
    mask_id: int

    @property
    def steps_per_block(self) -> int:
        return self.block_length // self.tokens_per_step


def rivals(family: str, setting: Setting, clones: Path) -> tuple[dict[str, Loop], list[str]]:
    """The loops that there are clones for, by name, and what was left out and why."""
    needs, make = _RIVALS[family]
    missing = [f"{name} (github.com/{CLONES[name]})" for name in needs if not (clones / name).is_dir()]
    if missing:
        return {}, [f"{family}: no clone of {', '.join(missing)} in {clones}"]
    if importlib.util.find_spec("transformers") is None:
        return {}, [f"{family}: needs transformers 4.57"]
    try:
        return make(setting, clones), []
    except (ImportError, KeyError) as error:
        return {}, [f"{family}: its reference code does not run here, transformers 4.57 is what it wants: {error!r}"]


def _llada(setting: Setting, clones: Path) -> dict[str, Loop]:
    """Fast-dLLM's copy of the network, which its own loops need and LLaDA's can use."""
    _package("fast_llada", clones / FAST_DLLM / "llada/model")
    modeling, configuration = _modules("fast_llada", "modeling_llada", "configuration_llada")
    config = configuration.LLaDAConfig(**_config(setting) | {"init_device": "cpu"})
    network = _filled(modeling.LLaDAModelLM(config, init_params=False), setting)
    plain = _file("llada_generate", clones / LLADA / "generate.py")
    sys.modules["model"], sys.modules["model.modeling_llada"] = sys.modules["fast_llada"], modeling
    fast = _file("fast_llada_generate", clones / FAST_DLLM / "llada/generate.py")

    def options(count: int) -> dict[str, Any]:
        steps = count // setting.tokens_per_step
        return {
            "steps": steps,
            "gen_length": count,
            "block_length": setting.block_length,
            "mask_id": setting.mask_id,
        }

    return {
        "LLaDA's loop": _timed(network, lambda ids, count: plain.generate(network, ids, **options(count))),
        "Fast-dLLM's prefix": _timed(
            network, lambda ids, count: fast.generate_with_prefix_cache(network, ids, **options(count))[0]
        ),
        "Fast-dLLM's dual": _timed(
            network, lambda ids, count: fast.generate_with_dual_cache(network, ids, **options(count))[0]
        ),
    }


def _dream(setting: Setting, clones: Path) -> dict[str, Loop]:
    """The published network and loop, of which dllm has copies."""
    _package("dream", clones / DLLM / "dllm/pipelines/dream/models")
    modeling, configuration, generation = _modules("dream", "modeling_dream", "configuration_dream", "generation_utils")
    config = configuration.DreamConfig(**_config(setting))
    config._attn_implementation = "sdpa"  # the only way to say it without a model hub
    network = _filled(modeling.DreamModel(config), setting)

    def write(ids: torch.Tensor, count: int) -> torch.Tensor:
        length = ids.shape[1] + count
        options = generation.DreamGenerationConfig(
            max_length=length,
            steps=count // setting.tokens_per_step,
            alg="entropy",
            temperature=0.0,
            mask_token_id=config.mask_token_id,
            pad_token_id=config.pad_token_id,
            eos_token_id=config.eos_token_id,
            bos_token_id=config.bos_token_id,
        )
        return network.diffusion_generate(inputs=ids, generation_config=options, max_length=length)

    return {"Dream's loop": _timed(network, write)}


def _block_diffusion(setting: Setting, clones: Path) -> dict[str, Loop]:
    """The sampler of dllm over its network in Qwen3's layout. It never ends at eos here, since ours cannot write it."""
    for name in ("dllm", "dllm.core", "dllm.core.samplers"):
        _package(name, clones / DLLM / name.replace(".", "/"))
    sampler = importlib.import_module("dllm.core.samplers.bd3lm")
    modeling = _file("a2d_qwen3", clones / DLLM / "dllm/pipelines/a2d/models/qwen3/modeling_qwen3.py")
    unknown = ("architectures", "auto_map", "model_type")
    values = {name: value for name, value in _config(setting).items() if name not in unknown}
    config = modeling.A2DQwen3Config(**values | {"attn_implementation": "sdpa"})
    network = _filled(modeling.A2DQwen3LMHeadModel(config), setting)
    ids_of = types.SimpleNamespace(mask_token_id=setting.mask_id, pad_token_id=-1, bos_token_id=1, eos_token_id=None)

    def write(ids: torch.Tensor, count: int) -> torch.Tensor:
        options = {"block_size": setting.block_length, "steps_per_block": setting.steps_per_block}
        return sampler.BD3LMSampler(network, ids_of).sample([ids[0].tolist()], max_new_tokens=count, **options)

    return {"dllm's block diffusion": _timed(network, write)}


_RIVALS: dict[str, tuple[tuple[str, ...], Callable[[Setting, Path], dict[str, Loop]]]] = {
    "llada": ((LLADA, FAST_DLLM), _llada),
    "dream": ((DLLM,), _dream),
    "sdar": ((DLLM,), _block_diffusion),
}


def _timed(network: torch.nn.Module, write: Callable[[torch.Tensor, int], torch.Tensor]) -> Loop:
    """Counts the network's forwards and the seconds."""

    def loop(prompt_ids: Sequence[int], count: int) -> Written:
        forwards = 0

        def note(*_: object) -> None:
            nonlocal forwards
            forwards += 1

        hook = network.register_forward_hook(note)
        start = time.perf_counter()
        with torch.inference_mode():
            ids = write(torch.tensor([list(prompt_ids)]), count)
        seconds = time.perf_counter() - start
        hook.remove()
        return Written(token_ids=ids[0, -count:].tolist(), steps=[], num_forwards=forwards, seconds=seconds)

    return loop


def _config(setting: Setting) -> dict[str, Any]:
    return json.loads((setting.folder / "config.json").read_text())


def _filled(network: torch.nn.Module, setting: Setting) -> Any:  # noqa: ANN401  # it has whatever its class has
    """The checkpoint's weights in the network; buffers that it makes itself are not in files."""
    missing, unexpected = network.load_state_dict(load_file(setting.folder / "model.safetensors"), strict=False)
    if unexpected or any(name.endswith("weight") for name in missing):
        raise KeyError(f"tensors missing: {missing}, unexpected: {unexpected}")
    return network.to(setting.dtype).eval()


def _package(name: str, folder: Path) -> None:
    """A folder as a package without its own ``__init__``, which imports all of its project."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def _modules(package: str, *names: str) -> list[Any]:
    return [importlib.import_module(f"{package}.{name}") for name in names]


def _file(name: str, path: Path) -> Any:  # noqa: ANN401  # a module nobody has types of
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
