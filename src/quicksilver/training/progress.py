"""What a person and a program see of a run: a live line, log.jsonl and TensorBoard."""

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text

_PLAIN_SECONDS = 30.0
"""How often a line is printed when the output is no terminal."""


class Progress:
    """Reports the figures of every step. ``stream`` is where the live line goes."""

    def __init__(self, folder: Path, num_steps: int, stream: TextIO = sys.stderr) -> None:
        self._num_steps = num_steps
        self._console = Console(file=stream)
        self._log = (folder / "log.jsonl").open("a", buffering=1)
        # Imported here: TensorBoard takes a second that `quicksilver train --help` should not.
        from torch.utils.tensorboard.writer import SummaryWriter

        self._board = SummaryWriter(str(folder / "tensorboard"))
        self._live = Live(console=self._console, refresh_per_second=4, transient=False)
        self._last_plain = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        self._board.close()
        self._log.close()

    def step(self, step: int, figures: dict[str, float]) -> None:
        """Record the figures of a finished step."""
        self._log.write(json.dumps({"step": step, **{name: round(value, 6) for name, value in figures.items()}}) + "\n")
        for name, value in figures.items():
            self._board.add_scalar(name, value, step)
        line = self._line(step, figures)
        if self._console.is_terminal:
            self._live.update(Text(line))
        elif time.monotonic() - self._last_plain > _PLAIN_SECONDS or step + 1 == self._num_steps:
            self._last_plain = time.monotonic()
            self._console.print(line, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a line above the live line."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def _line(self, step: int, figures: dict[str, float]) -> str:
        left = timedelta(seconds=int(figures["seconds_left"]))
        parts = [f"step {step + 1}/{self._num_steps}", f"loss {figures['loss']:.3f}"]
        if "bits_per_byte" in figures:
            parts.append(f"bits/byte {figures['bits_per_byte']:.3f}")
        parts += [f"{figures['tokens_per_s']:,.0f} tokens/s", f"MFU {figures['mfu']:.0%}"]
        return "  ".join([*parts, f"lr x{figures['lr_multiplier']:.2f}", f"left {left}"])
