"""What a forward costs on this machine: milliseconds by rows, and the limits that follow from it.

Rows are nearly free until the machine's arithmetic, not its memory, sets the pace; from there on each costs its share.
Where that is depends on model, machine, threads and number format, so it is measured at start-up, through the engine's
own runner, and kept in the user's cache folder.
"""

import hashlib
import json
import math
import os
import platform
import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from quicksilver.decoding.params import SamplingParams
from quicksilver.decoding.policies import ConfidenceThreshold
from quicksilver.diffusion.spec import DiffusionSpec, Layout, Objective
from quicksilver.engine.attention import PageMemory
from quicksilver.engine.blocks import BlockSequence
from quicksilver.engine.pages import PagePool, PageTable
from quicksilver.engine.request import Continuation, Request
from quicksilver.engine.runner import Runner, Turn
from quicksilver.engine.scheduler import Share
from quicksilver.errors import ConfigError
from quicksilver.models.denoiser import Denoiser

ROWS = (1, 4, 8, 16, 32, 64, 128, 256)
GPU_ROWS = (*ROWS, 512, 1024, 2048)
NUM_CONTEXT = 256
"""Cached positions that the measured rows attend to."""
EFFICIENCY = 0.9
"""Share of the best rows per millisecond that a row budget must reach: beyond, rows only add latency."""
_PAGE_SIZE = 32
_FORMAT = 2
"""Of the cache file; a change of what is measured raises it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CostCurve:
    """Milliseconds of one forward by its rows: never falling, straight between the measured points."""

    num_rows: tuple[int, ...]
    """Ascending."""
    ms: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.num_rows or len(self.num_rows) != len(self.ms):
            raise ConfigError(f"a cost curve needs a time per point, got {self.num_rows} and {self.ms}")
        if self.num_rows[0] < 1 or any(b <= a for a, b in zip(self.num_rows, self.num_rows[1:], strict=False)):
            raise ConfigError(f"the rows of a cost curve must ascend from at least 1, got {self.num_rows}")
        if not all(0 < each < math.inf for each in self.ms) or list(self.ms) != sorted(self.ms):
            raise ConfigError(f"the times of a cost curve must be positive and never fall, got {self.ms}")

    @classmethod
    def fit(cls, num_rows: Sequence[int], ms: Sequence[float]) -> "CostCurve":
        """The curve nearest to noisy points, by squares of logarithms: noise of timings is a factor."""
        fitted = _isotonic([math.log(each) for each in ms])
        return cls(num_rows=tuple(num_rows), ms=tuple(math.exp(each) for each in fitted))

    def at(self, num_rows: int) -> float:
        """Milliseconds of a forward; beyond the last point as steep as before it, below the first as there."""
        rows, ms = self.num_rows, self.ms
        if num_rows <= rows[0] or len(rows) == 1:
            return ms[0]
        right = min(max(bisect_right(rows, num_rows), 1), len(rows) - 1)
        slope = (ms[right] - ms[right - 1]) / (rows[right] - rows[right - 1])
        return ms[right - 1] + slope * (num_rows - rows[right - 1])

    def budget(self, *, slack: float | None = None, target_ms: float | None = None) -> int:
        """The most rows, within what was measured, that cost at most so much.

        Args:
            slack: more than the least forward, as a share of it: 1 allows twice its time.
            target_ms: milliseconds, instead. If even one row takes longer, the answer is still 1.
        """
        if (slack is None) == (target_ms is None):
            raise ConfigError("a row budget follows from slack or from target_ms, one of them")
        limit = self.ms[0] * (1 + slack) if slack is not None else target_ms
        if limit is None or not limit > 0:
            raise ConfigError(f"a forward takes some time: slack {slack}, target_ms {target_ms}")
        low, high = 1, self.num_rows[-1]
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.at(middle) <= limit else (low, middle - 1)
        return low

    def efficient_rows(self, efficiency: float = EFFICIENCY) -> int:
        """The fewest measured rows that reach this share of the best rows per millisecond."""
        rates = [rows / ms for rows, ms in zip(self.num_rows, self.ms, strict=True)]
        return next(rows for rows, rate in zip(self.num_rows, rates, strict=True) if rate >= efficiency * max(rates))


def choose_row_budget(
    curve: CostCurve, *, longest_block: int, target_ms: float | None = None, efficiency: float = EFFICIENCY
) -> int:
    """``EngineConfig.row_budget`` for a machine.

    Enough rows that more would bring hardly any throughput, no more than the latency target allows, and at least the
    longest block with the commit of the one before it: otherwise commits cost forwards of their own.

    Args:
        curve: as measured.
        longest_block: of the requests to come.
        target_ms: longest forward; None: throughput alone decides.
        efficiency: see ``CostCurve.efficient_rows``.
    """
    rows = curve.efficient_rows(efficiency)
    if target_ms is not None:
        rows = min(rows, curve.budget(target_ms=target_ms))
    return max(rows, 2 * longest_block)


def _isotonic(values: Sequence[float]) -> list[float]:
    """The never falling sequence nearest in squares: neighbours that fall are pooled (Ayer et al. 1955)."""
    pools: list[tuple[float, int]] = []
    for value in values:
        pool = (value, 1)
        while pools and pools[-1][0] > pool[0]:
            mean, count = pools.pop()
            total = count + pool[1]
            pool = ((mean * count + pool[0] * pool[1]) / total, total)
        pools.append(pool)
    return [mean for mean, count in pools for _ in range(count)]


def sample(
    run: Callable[[int], object],
    rows: Sequence[int],
    *,
    repeats: int = 7,
    seconds: float = 1.5,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """Median milliseconds of ``run`` by rows.

    All sizes take turns, so that a busy moment does not fall on one of them. The first round warms up and counts only
    if it is the only one: no further round starts behind ``seconds``.
    """
    start = clock()
    taken: list[list[float]] = [[] for _ in rows]
    for number in range(repeats + 1):
        if number and clock() - start >= seconds:
            break
        for times, count in zip(taken, rows, strict=True):
            before = clock()
            run(count)
            times.append(1000 * (clock() - before))
    # A clock may be too coarse for a forward; a curve needs times above zero.
    return [max(statistics.median(times[1:] or times), 1e-6) for times in taken]


def measure(denoiser: Denoiser, spec: DiffusionSpec, *, rows: Sequence[int] | None = None) -> CostCurve:
    """Time forwards of one window of n rows behind a cached context, decisions included.

    About two seconds for a small model on a CPU. Many requests with few rows each cost a little more than one with
    as many rows: see decision 5.

    Args:
        denoiser: on its device, in its dtype.
        spec: of its checkpoint.
        rows: what to measure; None: 1 to 256, on a GPU to 2,048, as far as the model's context reaches.
    """
    device = denoiser.model.embed_tokens.weight.device
    length = denoiser.config.max_length
    num_context = max(min(NUM_CONTEXT, length // 2), 1)
    wanted = rows or (ROWS if device.type == "cpu" else GPU_ROWS)
    rows = [count for count in wanted if num_context + count <= length] or [1]
    run = _window_forward(denoiser, spec, num_context, rows)

    def timed(count: int) -> None:
        run(count)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return CostCurve.fit(rows, sample(timed, rows))


def _window_forward(
    denoiser: Denoiser, spec: DiffusionSpec, num_context: int, rows: Sequence[int]
) -> Callable[[int], object]:
    """A function that runs one window of a given number of rows."""
    # Costs depend on shapes alone, so every checkpoint is measured as one that denoises blocks.
    blocks = replace(
        spec,
        objective=Objective.MASK,
        layouts=(Layout.BLOCK_CAUSAL,),
        has_causal_context=True,
        prediction_shift=0,
    )
    pool = PagePool(-(-(num_context + max(rows)) // _PAGE_SIZE), _PAGE_SIZE)
    weight = denoiser.model.embed_tokens.weight
    runner = Runner(denoiser, blocks, PageMemory(denoiser.config, pool, weight.dtype, weight.device))
    table = PageTable(pool)
    table.reserve(num_context + max(rows))
    turns: dict[int, Turn] = {}
    for count in rows:
        task = Continuation(prompt_ids=(0,) * num_context)
        params = SamplingParams(block_length=count, max_tokens=count, policy=ConfidenceThreshold())
        sequence = BlockSequence(0, Request(task=task, params=params), task, blocks)
        share = Share(job_id=0, num_cached=num_context, num_context=0, has_window=True)
        turns[count] = Turn(sequence=sequence, share=share, table=table, look=sequence.look())
    return lambda count: runner.run([turns[count]])


def machine_key(denoiser: Denoiser) -> dict[str, object]:
    """What the costs of a forward depend on: shapes and formats of the model, machine, threads, version of torch.

    Not the weights: two checkpoints of one architecture cost the same.
    """
    weight = denoiser.model.embed_tokens.weight
    is_gpu = weight.device.type == "cuda"
    layers = sorted({type(module).__name__ for module in denoiser.modules()})
    return {
        "format": _FORMAT,
        "architecture": repr(denoiser.config),
        "layers": layers,
        "dtypes": sorted({str(tensor.dtype) for tensor in (*denoiser.parameters(), *denoiser.buffers())}),
        "machine": torch.cuda.get_device_name(weight.device) if is_gpu else cpu_name(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def cpu_name() -> str:
    """The CPU's model, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cache_folder() -> Path:
    """Where measurements are kept: the XDG base directory rules, so a relative XDG_CACHE_HOME does not count."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else Path.home() / ".cache") / "quicksilver" / "costs"


def load_or_measure(
    denoiser: Denoiser,
    spec: DiffusionSpec,
    *,
    folder: Path | None = None,
    is_fresh: bool = False,
    measure: Callable[[Denoiser, DiffusionSpec], CostCurve] = measure,
) -> CostCurve:
    """The curve of this model on this machine, measured once and then read from the cache.

    A cache that is damaged or cannot be written is no error: then it is measured.

    Args:
        denoiser: on its device, in its dtype.
        spec: of its checkpoint.
        folder: of the cache; None: ``cache_folder``.
        is_fresh: measure even if the cache has it, for example because the machine was busy then.
        measure: how.
    """
    key = machine_key(denoiser)
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    try:
        path = (cache_folder() if folder is None else folder) / f"{digest}.json"
    except RuntimeError:  # a user without a home
        return measure(denoiser, spec)
    curve = None if is_fresh else _read(path, key)
    if curve is None:
        curve = measure(denoiser, spec)
        _write(path, key, curve)
    return curve


def _read(path: Path, key: dict[str, object]) -> CostCurve | None:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["key"] != key:
            return None
        rows = tuple(int(count) for count in values["num_rows"])
        return CostCurve(num_rows=rows, ms=tuple(float(each) for each in values["ms"]))
    except (OSError, ValueError, KeyError, TypeError):  # ConfigError is a ValueError
        return None


def _write(path: Path, key: dict[str, object], curve: CostCurve) -> None:
    values = {"key": key, "num_rows": curve.num_rows, "ms": curve.ms}
    # Two processes may start at once: each writes a file of its own, and the last one to rename it wins.
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(path)
    except OSError:
        return
