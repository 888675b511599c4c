"""A run's folder: recipe.json, log.jsonl, tensorboard/, checkpoints/ and at the end final/.

origin.json names the model whose weights the run started with, if it was not started with random ones.

A checkpoint is written under a temporary name and renamed, so a killed run leaves whole checkpoints only.
"""

import json
import os
from pathlib import Path
from pickle import UnpicklingError

import torch

from quicksilver.errors import TrainingError


class RunFolder:
    """Paths and durable writes of one run."""

    def __init__(self, path: Path, num_kept_checkpoints: int) -> None:
        self.path = path
        self._num_kept = num_kept_checkpoints
        self._checkpoints = path / "checkpoints"

    def create(self, recipe_json: str, origin: dict[str, str] | None) -> None:
        """Make the folder and write the resolved recipe, and the model that the weights come from."""
        self._checkpoints.mkdir(parents=True, exist_ok=True)
        (self.path / "recipe.json").write_text(recipe_json)
        if origin is not None:
            (self.path / "origin.json").write_text(json.dumps(origin, indent=2) + "\n")

    def checkpoints(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        return sorted(self._checkpoints.glob("step-*.pt"))

    @staticmethod
    def checkpoint_name(step: int) -> str:
        """File name, which sorts by step."""
        return f"step-{step:08d}.pt"

    def save(self, state: dict[str, object], step: int) -> Path:
        """Write a checkpoint and delete the oldest beyond the number to keep."""
        path = self._checkpoints / self.checkpoint_name(step)
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(path)
        for old in self.checkpoints()[: -self._num_kept]:
            old.unlink()
        return path

    @staticmethod
    def load(path: Path) -> dict[str, object]:
        """Read a checkpoint onto the CPU."""
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise TrainingError(f"{path} is not a readable checkpoint: {error}") from error

    def drop_log_after(self, step: int) -> None:
        """Forget log lines of steps that will be run again."""
        log = self.path / "log.jsonl"
        if log.exists():
            kept = [line for line in log.read_text().splitlines(keepends=True) if _is_before(line, step)]
            log.write_text("".join(kept))


def _is_before(line: str, step: int) -> bool:
    try:
        return int(json.loads(line)["step"]) < step
    except (ValueError, KeyError):
        return False  # a line cut short by the kill
