"""What a checkpoint needs of a device's memory, before anything is loaded."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil
import torch

from quicksilver.engine.attention import PageMemory
from quicksilver.engine.engine import EngineConfig, num_pages
from quicksilver.engine.head import TILE_ELEMENTS
from quicksilver.engine.pages import PagePool
from quicksilver.errors import ConfigError
from quicksilver.models.config import DenoiserConfig
from quicksilver.models.denoiser import Denoiser
from quicksilver.quantization import Scheme
from quicksilver.quantization.convert import projections

PROCESS_BYTES: Final = {"cpu": 400 * 2**20, "cuda": 600 * 2**20}
"""Interpreter and torch; on a GPU its context (measured, docs/results.md)."""
_CODE_BYTES: Final = {
    Scheme.INT8_DYNAMIC: 1.0,
    Scheme.INT8_WEIGHT: 1.0,
    Scheme.INT4_WEIGHT: 0.5 + 8 / 32,  # a scale and a zero of 4 bytes each per group of 32
    Scheme.FP8_DYNAMIC: 1.0,
}
"""Per weight of a projection."""
_LOGIT_COPIES: Final = 6
"""Tensors as large as a tile of logits that choosing holds at once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MemoryPlan:
    """Bytes by use."""

    dtype: torch.dtype
    scheme: Scheme | None
    weights: int
    pages: int
    num_pages: int
    workspace: int
    """What a forward of ``row_budget`` rows holds besides, and the process itself."""
    available: int

    @property
    def total(self) -> int:
        return self.weights + self.pages + self.workspace

    @property
    def fits(self) -> bool:
        return self.total <= self.available


def plan_memory(
    config: DenoiserConfig,
    engine: EngineConfig,
    *,
    dtype: torch.dtype,
    scheme: Scheme | None,
    device: torch.device,
    available: int,
) -> MemoryPlan:
    """What serving an architecture takes.

    Args:
        config: the architecture.
        engine: with the number of pages, or None for the default.
        dtype: of the weights and of keys and values.
        scheme: of the projections; None: plain.
        device: where it would run.
        available: bytes that are free there.
    """
    meta = torch.device("meta")
    with meta:
        denoiser = Denoiser(config)
    pages = num_pages(config, engine, dtype)
    per_page = PageMemory(config, PagePool(1, engine.page_size), dtype, meta).num_bytes
    return MemoryPlan(
        dtype=dtype,
        scheme=scheme,
        weights=_weight_bytes(denoiser, dtype, scheme),
        pages=pages * per_page,
        num_pages=pages,
        workspace=_workspace_bytes(config, engine, dtype) + PROCESS_BYTES[device.type],
        available=available,
    )


def _weight_bytes(denoiser: Denoiser, dtype: torch.dtype, scheme: Scheme | None) -> int:
    total = sum(parameter.numel() for parameter in denoiser.parameters())
    if scheme is None:
        return total * dtype.itemsize
    quantized = sum(linear.weight.numel() for linear in projections(denoiser).values())
    return (total - quantized) * dtype.itemsize + round(quantized * _CODE_BYTES[scheme])


def _workspace_bytes(config: DenoiserConfig, engine: EngineConfig, dtype: torch.dtype) -> int:
    """Of the widest moment of a layer, of one request's gathered keys and values, and of a tile of logits."""
    heads = (config.num_heads + 2 * config.num_kv_heads) * config.head_width
    rows = engine.row_budget * (4 * config.model_width + 2 * heads + 3 * config.ffn_width) * dtype.itemsize
    length = config.max_length
    gathered = 4 * length * config.num_kv_heads * config.head_width * dtype.itemsize
    scores = 2 * min(engine.row_budget, length) * length * config.num_heads * 4
    logits = max(TILE_ELEMENTS, config.vocab_size) * 4 * _LOGIT_COPIES
    return rows + gathered + scores + logits


def remedies(
    config: DenoiserConfig, engine: EngineConfig, plan: MemoryPlan, device: torch.device
) -> list[tuple[str, MemoryPlan]]:
    """Smaller plans that fit, and what makes them so: fewer pages, a smaller dtype, fewer bits."""
    least = -(-config.max_length // engine.page_size)
    found: list[tuple[str, MemoryPlan]] = []

    def consider(words: str, dtype: torch.dtype, scheme: Scheme | None, pages: int | None) -> None:
        other = replace(engine, num_pages=pages)
        candidate = plan_memory(config, other, dtype=dtype, scheme=scheme, device=device, available=plan.available)
        if candidate.fits:
            found.append((words, candidate))

    spare = plan.available - plan.weights - plan.workspace
    affordable = int(spare // (plan.pages / plan.num_pages)) if spare > 0 else 0
    if least <= affordable < plan.num_pages:
        consider(f"--num-pages {affordable}", plan.dtype, plan.scheme, affordable)
    if plan.dtype is torch.float32:
        consider("--dtype bfloat16", torch.bfloat16, plan.scheme, engine.num_pages)
        consider(f"--dtype bfloat16 --num-pages {least}", torch.bfloat16, plan.scheme, least)
    schemes = (Scheme.INT8_WEIGHT, Scheme.INT4_WEIGHT) if device.type == "cpu" else (Scheme.INT8_WEIGHT,)
    for scheme in schemes if plan.scheme is None else ():
        consider(f"--dtype bfloat16 --quantize {scheme} --num-pages {least}", torch.bfloat16, scheme, least)
    return found


def available_bytes(device: torch.device) -> int:
    """Bytes that this process could still take on a device, a container's limit respected."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(psutil.virtual_memory().available, _container_bytes())


def _container_bytes(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """What a control group (version 2) leaves; without a limit, no bound."""
    try:
        limit, used = (folder / "memory.max").read_text().strip(), (folder / "memory.current").read_text()
    except OSError:
        return sys.maxsize
    return sys.maxsize if limit == "max" else max(int(limit) - int(used), 0)


def require_fit(
    config: DenoiserConfig, engine: EngineConfig, plan: MemoryPlan, device: torch.device, name: str
) -> None:
    """Raises ConfigError, naming what would fit, if a plan does not."""
    if plan.fits:
        return
    others = remedies(config, engine, plan, device)
    fitting = "; ".join(f"{words} ({gigabytes(other.total)})" for words, other in others)
    advice = f"these would fit: {fitting}" if others else "nothing smaller that is known here would fit"
    parts = ", ".join(f"{part} {gigabytes(getattr(plan, part))}" for part in ("weights", "pages", "workspace"))
    need, free = gigabytes(plan.total), gigabytes(plan.available)
    raise ConfigError(f"{name} needs {need} on {device.type} ({parts}), {free} are free; {advice}")


def gigabytes(count: int) -> str:
    """Bytes for a person: ``17.3 GB`` (10**9 bytes), small ones in MB."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
