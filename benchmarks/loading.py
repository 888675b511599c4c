r"""Load time and peak memory of a large checkpoint: LLaDA-8B's shape with fewer layers, random weights, as published.

Each figure is of a process of its own, which loads and makes an engine; nothing is decoded. *planned* is what
``quicksilver serve --dry-run`` says for the same options.

Examples:
  python benchmarks/loading.py --layers 8 --folder runs/llada-shaped --out runs/loading.json
  python benchmarks/loading.py --layers 4 --way bfloat16 --way bfloat16:int8_weight --out runs/loading.json

A way is a dtype, and after a colon a quantization. The folder is written once and kept for the next run.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from common import finish, markdown_table, reported_errors, verbatim
from engine_memory import _status
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

from quicksilver.errors import ConfigError
from quicksilver.evaluation.provenance import environment

_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import loading; loading.child(*sys.argv[2:])"
WAYS = ("bfloat16", "float32", "bfloat16:int8_weight", "float32:int8_dynamic")
STDERR = Console(stderr=True)
app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings={"max_content_width": 120})


@dataclass(frozen=True, kw_only=True, slots=True)
class Figures:
    """Of one way; megabytes are 2**20 bytes and leave out interpreter and torch."""

    way: str
    load_s: float
    peak_loading_mb: float
    """Resident, at its highest, weights mapped from files included."""
    engine_s: float
    """An engine made, which lays the weights out anew."""
    peak_mb: float
    weights_mb: float
    planned_mb: float


@app.command(help=verbatim(__doc__))
def main(
    out: Annotated[Path, typer.Option(help="JSON report, with a Markdown table beside it.")],
    folder: Annotated[Path, typer.Option(help="Where the checkpoint lies or is written.")] = Path("runs/llada-shaped"),
    layers: Annotated[int, typer.Option(help="Of LLaDA-8B's 32.")] = 8,
    way: Annotated[list[str] | None, typer.Option(help="May be given several times.")] = None,
    threads: Annotated[int, typer.Option(help="Of torch.")] = torch.get_num_threads(),
) -> None:
    with reported_errors():
        path = folder / f"{layers}-layers"
        if not (path / "config.json").is_file():
            write(path, layers)
        size = sum(each.stat().st_size for each in path.glob("*.safetensors")) / 1e9
        runs = [measure(path, each, threads) for each in track(list(way or WAYS), "loading", console=STDERR)]
    rows = [
        [f.way, f"{f.load_s:.1f}", f"{f.weights_mb:,.0f}", f"{f.peak_loading_mb:,.0f}", f"{f.engine_s:.1f}",
         f"{f.peak_mb:,.0f}", f"{f.planned_mb:,.0f}"]
        for f in runs
    ]  # fmt: skip
    head = ["way", "load s", "weights MB", "peak MB, loading", "engine s", "peak MB", "planned MB"]
    table = f"LLaDA-8B's shape with {layers} of 32 layers, {size:.1f} GB on disk.\n\n{markdown_table(head, rows)}"
    report = {"layers": layers, "gigabytes": size, "runs": [asdict(f) for f in runs], "environment": environment()}
    finish(out, report, table)


def write(folder: Path, layers: int) -> None:
    """A folder in LLaDA-8B's published layout, a file per layer."""
    width, inner, vocab = 4096, 12288, 126464
    folder.mkdir(parents=True, exist_ok=True)
    noise = (torch.randn(2**22, generator=torch.Generator().manual_seed(0)) * 0.02).to(torch.bfloat16)

    def drawn(*shape: int) -> torch.Tensor:
        count = torch.Size(shape).numel()
        return noise.repeat(-(-count // len(noise)))[:count].view(shape)

    def gains() -> torch.Tensor:
        return torch.ones(width, dtype=torch.bfloat16)

    matrices = {
        "q_proj": (width, width),
        "k_proj": (width, width),
        "v_proj": (width, width),
        "attn_out": (width, width),
        "ff_proj": (inner, width),
        "up_proj": (inner, width),
        "ff_out": (width, inner),
    }
    outer, places = "model.transformer", {}
    for layer in track(range(layers), "writing", console=STDERR):
        block = f"{outer}.blocks.{layer}"
        tensors = {f"{block}.{name}.weight": drawn(*shape) for name, shape in matrices.items()}
        tensors |= {f"{block}.{name}.weight": gains() for name in ("attn_norm", "ff_norm")}
        places |= _saved(folder, layer, tensors)
    tables = {f"{outer}.{name}.weight": drawn(vocab, width) for name in ("wte", "ff_out")}
    places |= _saved(folder, layers, tables | {f"{outer}.ln_f.weight": gains()})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    config = {
        "model_type": "llada",
        "d_model": width,
        "n_heads": 32,
        "n_kv_heads": 32,
        "n_layers": layers,
        "mlp_hidden_size": inner,
        "vocab_size": vocab,
        "embedding_size": vocab,
        "max_sequence_length": 4096,
        "rope_theta": 500_000.0,
        "weight_tying": False,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
    }
    (folder / "config.json").write_text(json.dumps(config))


def _saved(folder: Path, number: int, tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """Where each tensor lies now."""
    name = f"model-{number:05}.safetensors"
    save_file(tensors, folder / name, metadata={"format": "pt"})
    return dict.fromkeys(tensors, name)


def measure(folder: Path, way: str, threads: int) -> Figures:
    """Load and answer in a process of its own."""
    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), str(folder), way, str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{way} failed: {done.stderr.strip().splitlines()[-1:]}")
    return Figures(way=way, **json.loads(done.stdout))


def child(folder: str, way: str, threads: str) -> None:
    """Print the figures as JSON."""
    from quicksilver.checkpoints.loading import load_folder, open_folder
    from quicksilver.engine.engine import Engine, EngineConfig
    from quicksilver.engine.planning import PROCESS_BYTES, plan_memory
    from quicksilver.quantization.scheme import parse_scheme

    torch.set_num_threads(int(threads))
    dtype, _, quantization = way.partition(":")
    kind, scheme, config = getattr(torch, dtype), parse_scheme(quantization or None), EngineConfig(num_pages=128)
    opened = open_folder(Path(folder))
    plan = plan_memory(
        opened.config, config, dtype=kind, scheme=scheme, device=torch.device("cpu"), available=sys.maxsize
    )
    base, start = _status("VmRSS"), time.perf_counter()
    denoiser, spec = load_folder(Path(folder), kind, scheme=scheme)
    loaded, peak_loading = time.perf_counter() - start, _status("VmHWM") - base
    start = time.perf_counter()
    Engine(denoiser, spec, config)
    figures = {
        "load_s": loaded,
        "peak_loading_mb": peak_loading,
        "engine_s": time.perf_counter() - start,
        "peak_mb": _status("VmHWM") - base,
        "weights_mb": plan.weights / 2**20,
        "planned_mb": (plan.total - PROCESS_BYTES["cpu"]) / 2**20,
    }
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    app()
