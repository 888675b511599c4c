"""Tables of the engine's report; part of ``engine.py``."""

from collections.abc import Callable, Sequence
from typing import Any

Table = tuple[str, Sequence[str], Sequence[Sequence[object]], list[str]]
"""Heading, header, rows and notes."""


def _overhead(values: dict[str, Any]) -> Table:
    header = ("loop", "batch", "rows/step", "engine ms", "bare ms", "engine / bare", "of sums")
    rows = [
        (
            name,
            each["batch"],
            f"{each['rows_per_step']:.0f}",
            f"{each['engine_ms']:.2f}",
            f"{each['bare_ms']:.2f}",
            f"{each['ratio']:.3f}",
            f"{each['ratio_of_sums']:.3f}",
        )
        for name, batches in values.items()
        for each in batches
    ]
    return "Engine step over the bare network on the same rows", header, rows, []


def _speed(values: dict[str, Any]) -> Table:
    header = (
        "loop",
        "tokens/s",
        "TPF",
        "NFE/item",
        "ms/item",
        "ms to first",
        "ms/forward after it",
        "exact match [95 %]",
        "tokens/s x twin",
        "holes/s x twin",
    )
    rows = []
    for each in values["loops"]:
        exact = each["exact_match"]
        rows.append(
            (
                each["loop"],
                f"{each['tokens_per_s']:.1f}",
                f"{each['tpf']:.2f}",
                f"{each['nfe_per_item']:.2f}",
                f"{each['ms_per_item']:.1f}",
                _optional(each["first_ms"]),
                _optional(each["ms_per_later_forward"]),
                f"{exact['value']:.3f} [{exact['low']:.3f}, {exact['high']:.3f}]",
                f"{each['times_twin']:.2f}",
                f"{each['holes_times_twin']:.2f}",
            )
        )
    return "Batch 1, length unknown", header, rows, [f"left out: {each}" for each in values["left_out"]]


def _optional(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _load(values: dict[str, Any]) -> Table:
    header = ("loop", "concurrent", "tokens/s", "requests/s", "TPF", "p50 ms", "p99 ms")
    rows = [
        (
            name,
            f"{each['level']:.0f}",
            f"{each['tokens_per_s']:.1f}",
            f"{each['requests_per_s']:.2f}",
            f"{each['tpf']:.2f}",
            f"{each['p50_ms']:.0f}",
            f"{each['p99_ms']:.0f}",
        )
        for name, levels in values.items()
        for each in levels
    ]
    return "Under load", header, rows, []


def _first_token(values: dict[str, Any]) -> Table:
    header = ("loop", "prompt tokens", "uncached ms", "cached ms", "cached / uncached")
    rows = [
        (name, f"{v['prompt_tokens']:.0f}", f"{v['uncached_ms']:.1f}", f"{v['cached_ms']:.1f}", f"{v['ratio']:.3f}")
        for name, v in values.items()
    ]
    note = "The prefix is 7/8 of the context: the bundled model's 512 tokens have no room for one of 1,000."
    return "Time to the first committed token", header, rows, [note]


def _memory(values: list[dict[str, Any]]) -> Table:
    header = ("requests of the longest kind", "weights MB", "page pool MB", "engine adds at its peak MB", "ratio")
    names = ("weights_mb", "pool_mb", "added_mb")
    rows = [
        (str(each["requests"]), *(f"{each[name]:.0f}" for name in names), f"{each['ratio']:.2f}") for each in values
    ]
    interpreter = max(each["interpreter_mb"] for each in values)
    note = f"Beside {interpreter:.0f} MB of interpreter and torch. The last row is the engine's default."
    return "Resident memory, as many requests at once as the pool has room for", header, rows, [note]


def _costs(values: dict[str, Any]) -> Table:
    header = ("rows", *(str(rows) for rows in values["num_rows"]))
    row = ("ms", *(f"{ms:.2f}" for ms in values["ms"]))
    return "A forward by rows", header, [row], [f"row budget by the rule: {values['row_budget']}"]


TABLES: dict[str, Callable[[Any], Table]] = {
    "overhead": _overhead,
    "speed": _speed,
    "load": _load,
    "first_token": _first_token,
    "memory": _memory,
    "costs": _costs,
}
"""By the report's keys."""
