"""Two processes that hold one denoiser: the test's own is rank 0, the other one follows.

The module is also the other process's program.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from quicksilver.checkpoints.loading import load_folder
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.engine.network import follow
from quicksilver.errors import RankError
from quicksilver.models.parallel import ParallelDenoiser
from quicksilver.models.ranks import Ranks

ROOT = Path(__file__).parents[1]


class Pair:
    """Rank 0's view of both."""

    def __init__(self, meeting: Path, patience_s: float = 30.0) -> None:
        """Start the other process and meet it by a file that does not exist yet."""
        self.other = subprocess.Popen(
            [sys.executable, __file__, f"file://{meeting}"],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
        )
        self.ranks: Ranks | None = Ranks.join(
            "cpu", init_method=f"file://{meeting}", rank=0, size=2, patience_s=patience_s
        )

    @contextmanager
    def denoiser(self, folder: Path, dtype: torch.dtype) -> Iterator[tuple[ParallelDenoiser, DiffusionSpec]]:
        """Rank 0's part of a checkpoint, while the other process follows with its own."""
        self.start_loading(folder, dtype)
        denoiser, spec = load_folder(folder, dtype, ranks=self.ranks)
        assert isinstance(denoiser, ParallelDenoiser)
        yield denoiser, spec
        with self.ranks.leading(None):
            pass

    def start_loading(self, folder: Path, dtype: torch.dtype) -> None:
        print(json.dumps([str(folder), str(dtype).removeprefix("torch.")]), file=self.other.stdin, flush=True)

    def lose(self) -> None:
        """As if this process had ended: its connections close."""
        dist.destroy_process_group()
        self.ranks = None

    def close(self) -> str:
        """End both; returns what the other one complained of."""
        self.other.stdin.close()
        try:
            if self.ranks is not None:
                self.ranks.close()
        except RankError:
            self.other.kill()
        try:
            self.other.wait(20)
        finally:
            self.other.kill()
            self.other.wait()
        with self.other.stderr as told:
            return told.read()


def _work(meeting: str) -> None:
    torch.set_num_threads(1)
    ranks = Ranks.join("cpu", init_method=meeting, rank=1, size=2)
    for line in sys.stdin:
        folder, dtype = json.loads(line)
        denoiser, _ = load_folder(Path(folder), getattr(torch, dtype), ranks=ranks)
        follow(denoiser)
    for _ in ranks.orders():
        pass


if __name__ == "__main__":
    _work(sys.argv[1])
