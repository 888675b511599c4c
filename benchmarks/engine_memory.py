"""Peak resident memory of the engine, in a process of its own; part of ``engine.py``."""

import json
import subprocess
import sys
from pathlib import Path

from quicksilver.errors import ConfigError

_CHILD = "import sys; sys.path.insert(0, sys.argv[1]); import engine_memory; engine_memory.child(*sys.argv[2:])"


def measure(model: str, dtype: str, threads: int, num_requests: int | None = None) -> dict[str, float]:
    """Megabytes, and the ratio of what the engine adds to weights and page pool.

    Args:
        model: bundled model or checkpoint folder.
        dtype: of the weights.
        threads: of torch.
        num_requests: of the model's longest canvas, which the pool has room for; None: as the engine decides.

    Raises:
        ConfigError: the process failed.
    """
    from quicksilver.engine.engine import EngineConfig  # here, because the child imports this file

    command = [sys.executable, "-c", _CHILD, str(Path(__file__).parent), model, dtype, str(threads)]
    command.append(str(num_requests or EngineConfig().max_running))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"the process that measures memory failed: {done.stderr.strip().splitlines()[-1:]}")
    return json.loads(done.stdout)


def _status(name: str) -> float:
    """A figure of this process in MB. Not getrusage: its peak outlives exec, so it would hold the parent's memory."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise ConfigError(f"this system does not tell {name} of a process")


def child(model: str, dtype: str, threads: str, requests: str) -> None:
    """Load, serve as many requests as the pool holds at once, print the figures as JSON."""
    import torch

    torch.set_num_threads(int(threads))
    base = _status("VmRSS")
    num_requests = int(requests)
    # The package's own loader: what benchmarks import beside it is not the engine's.
    from quicksilver.api.loading import find_model
    from quicksilver.checkpoints.loading import load_folder
    from quicksilver.decoding import SamplingParams
    from quicksilver.engine.engine import Engine, EngineConfig
    from quicksilver.engine.request import Continuation, Request

    denoiser, spec = load_folder(find_model(model), getattr(torch, dtype))
    length = denoiser.config.max_length
    pages = num_requests * -(-length // EngineConfig().page_size)
    engine = Engine(denoiser, spec, EngineConfig(num_pages=pages, max_running=num_requests))
    for memory in (*engine.memory.keys, *engine.memory.values):
        memory.fill_(0)  # pages of the operating system count once they are written
    room = min(4 * spec.block_length, length // 2)
    tasks = [Continuation(prompt_ids=(10 + number,) * (length - room)) for number in range(num_requests)]
    engine.run([Request(task=task, params=SamplingParams(max_tokens=room, max_nfe=8)) for task in tasks])
    weights = sum(parameter.nbytes for parameter in denoiser.parameters()) / 2**20
    pool = engine.memory.num_bytes / 2**20
    added = _status("VmHWM") - base
    found = {"interpreter_mb": base, "weights_mb": weights, "pool_mb": pool, "added_mb": added}
    sys.stdout.write(json.dumps(found | {"requests": num_requests, "ratio": added / (weights + pool)}))
