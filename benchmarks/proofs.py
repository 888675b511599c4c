"""What the two proofs share: train or load a model, intervals, and the account of how a figure was made."""

import json
import math
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import torch

from quicksilver.checkpoints.loading import load_folder
from quicksilver.models.denoiser import Denoiser
from quicksilver.training.recipe import Recipe
from quicksilver.training.trainer import Trainer

Z_95 = 1.959964


def train_or_load(recipe: Recipe, folder: Path, max_minutes: float | None) -> Denoiser | None:
    """The trained model of a recipe; training starts, or goes on where it stopped, unless the folder is finished.

    Returns:
        None if ``max_minutes`` passed first: run the same command again.

    Raises:
        SystemExit: the folder holds the finished run of another recipe, or of another number of steps.
    """
    final = folder / "final"
    if final.is_dir() and (folder / "recipe.json").read_text() != recipe.to_json():
        raise SystemExit(f"{folder} holds a finished run with other settings; choose another --out")
    if not final.is_dir():
        trainer = Trainer(recipe, folder)
        trainer.resume()
        if not trainer.run(max_minutes).is_finished:
            return None
    return load_folder(final)[0]


def wilson(successes: int, trials: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); unlike the normal one it is sensible at 0 and 1."""
    share, z2 = successes / trials, Z_95**2
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z_95 / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def markdown_table(header: list[str], rows: list[list[str]]) -> str:
    """A GitHub-style table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def provenance() -> dict[str, str]:
    """When, where and by which command a figure was made."""
    cpu = next(
        (line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")), platform.machine()
    )
    device = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu}, {torch.get_num_threads()} thread(s)"
    )
    return {
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def training_seconds(folder: Path) -> float:
    """Seconds spent in training steps, from the run's log; on a shared machine that is more than the work takes."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    tokens, seconds = 0.0, 0.0
    for line in lines:
        figures = json.loads(line)
        step_tokens, tokens = figures["tokens"] - tokens, figures["tokens"]
        seconds += step_tokens / figures["tokens_per_s"]
    return seconds


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Write and name the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n")
    print(f"wrote {os.path.relpath(path)}", file=sys.stderr)
