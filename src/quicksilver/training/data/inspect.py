"""One training row made visible: what the network sees, what it must say, how much that weighs, and who sees whom.

``describe`` turns a micro-batch of one row into plain facts; ``render`` draws them for a terminal.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import torch
from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import ConfigError
from quicksilver.tokenization.special import SPECIAL_TOKENS
from quicksilver.tokenization.tokenizer import Tokenizer
from quicksilver.training.batch import MicroBatch

_CAUSAL_CHUNK = 16
"""Positions drawn as one group where blocks are single tokens."""
_MOST_GROUPS = 40
"""Groups of the drawn topology; two columns of characters each fit 120 columns beside their names."""
_TABLE_COLUMNS = 3
_VIEW_NAMES = {
    "<file>": "left to right",
    "<fim_pre>": "fill in the middle",
    "<edit_before>": "edit",
    "<canvas>": "in place",
}
_SHADES = ("on grey23", "on dark_blue", "on blue3", "on dark_magenta", "on magenta")
"""Background of a mask by its loss weight: up to 1, 2, 4, 8, above."""


class Role(StrEnum):
    """What a position is to the network."""

    VISIBLE = "visible"
    MASK = "mask"
    EDIT = "edit"
    """Holds a wrong token that must be put right."""
    KEPT = "kept"
    """Holds the right token and is trained to keep it."""
    SENTINEL = "sentinel"
    PADDING = "padding"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One position of the row's noisy half, or of the whole row where there is no clean half."""

    text: str
    """Of the input token; empty for a mask."""
    role: Role
    label: str | None
    """Text of the trained prediction; None where nothing is trained."""
    weight: float
    document: int
    block: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """Everything that ``render`` draws, ready for ``dataclasses.asdict`` and JSON."""

    cells: list[Cell]
    views: list[str]
    """View of each document."""
    counts: dict[str, int | float]
    groups: list[str]
    """Names of the topology's groups: half (n noisy, c clean), document, block and number of positions."""
    topology: list[str]
    """One line per querying group, a character per key group: # sees all of it, + a part, . nothing."""


def describe(batch: MicroBatch, tokenizer: Tokenizer, spec: DiffusionSpec) -> RowFacts:
    """Read a micro-batch of one row.

    Raises:
        ConfigError: the batch has another number of rows.
    """
    if len(batch.token_ids) != 1:
        raise ConfigError(f"describe takes a batch of one row, got {len(batch.token_ids)}")
    has_pair = bool(batch.topology.is_noisy.any())
    length = batch.token_ids.shape[1] // (2 if has_pair else 1)
    cells = _cells(batch, length, tokenizer, spec)
    firsts = [*cells[:1], *(cell for before, cell in pairwise(cells) if cell.document != before.document)]
    views = [_VIEW_NAMES.get(cell.text, "?") for cell in firsts if cell.role is not Role.PADDING]
    groups = _groups(cells, has_pair)
    return RowFacts(
        cells=cells,
        views=views,
        counts=_counts(batch, cells, length, len(views)),
        groups=[name for name, _ in groups],
        topology=_who_sees_whom(batch.topology.dense_mask()[0], [positions for _, positions in groups]),
    )


def _cells(batch: MicroBatch, length: int, tokenizer: Tokenizer, spec: DiffusionSpec) -> list[Cell]:
    trained = {
        place: (label, weight)
        for place, label, weight in zip(
            batch.target_rows.tolist(), batch.labels.tolist(), batch.weights.tolist(), strict=True
        )
        if place < length
    }
    documents, blocks = batch.topology.documents[0].tolist(), batch.topology.blocks[0].tolist()
    special = spec.special
    cells = []
    for place, token in enumerate(batch.token_ids[0, :length].tolist()):
        # With prediction shift 1 a row's prediction belongs to the token behind it.
        label, weight = trained.get(place - spec.prediction_shift, (None, 0.0))
        role = Role.VISIBLE
        if token == special.mask:
            role = Role.MASK
        elif token == special.pad:
            role = Role.PADDING
        elif token < len(SPECIAL_TOKENS) and token != special.eos:
            role = Role.SENTINEL
        elif label is not None and spec.prediction_shift == 0:
            role = Role.KEPT if label == token else Role.EDIT
        cells.append(
            Cell(
                text="" if role is Role.MASK else tokenizer.decode([token], keep_special=True),
                role=role,
                label=None if label is None else tokenizer.decode([label], keep_special=True),
                weight=weight,
                document=documents[place],
                block=blocks[place],
            )
        )
    return cells


def _counts(batch: MicroBatch, cells: list[Cell], length: int, num_documents: int) -> dict[str, int | float]:
    roles = Counter(cell.role for cell in cells)
    labels = Counter(cell.label for cell in cells if cell.role is Role.MASK)
    return {
        "positions": batch.token_ids.numel(),
        "documents": num_documents,
        "blocks": len({(c.document, c.block) for c in cells if c.role is not Role.PADDING}),
        "padding": roles[Role.PADDING],
        "sentinels": roles[Role.SENTINEL],
        "targets": batch.num_targets,
        "masked": roles[Role.MASK],
        "labelled expand": labels["<expand>"],
        "labelled delete": labels["<delete>"],
        "edited": roles[Role.EDIT],
        "kept samples": roles[Role.KEPT],
        "next-token targets": int((batch.target_rows >= length).sum()) if length < batch.token_ids.shape[1] else 0,
        "predictions": len(batch.labels),
        "sum of weights": round(float(batch.weights.sum()), 3),
        "sum of bound weights": round(float(batch.bound_weights.sum()), 3),
    }


def _groups(cells: list[Cell], has_pair: bool) -> list[tuple[str, list[int]]]:
    """Runs of positions that the drawn topology takes as one, padding left out."""
    is_causal = len({(c.document, c.block) for c in cells}) > len(cells) // 2
    runs: dict[tuple[int, int], list[int]] = {}
    start = {}
    for place, cell in enumerate(cells):
        if cell.role is not Role.PADDING:
            first = start.setdefault(cell.document, place)
            key = (cell.document, (place - first) // _CAUSAL_CHUNK if is_causal else cell.block)
            runs.setdefault(key, []).append(place)
    numbered: Counter[int] = Counter()
    named = []
    for (document, _), places in runs.items():
        named.append((f"d{document} b{numbered[document]} x{len(places)}", places))
        numbered[document] += 1
    if not has_pair:
        return named
    clean = [(f"c {name}", [place + len(cells) for place in places]) for name, places in named]
    return [(f"n {name}", places) for name, places in named] + clean


def _who_sees_whom(mask: torch.Tensor, groups: list[list[int]]) -> list[str]:
    lines = []
    for query in groups:
        line = ""
        for key in groups:
            part = mask[query][:, key]
            line += "#" if bool(part.all()) else "+" if bool(part.any()) else "."
        lines.append(line)
    return lines


def render(facts: RowFacts, *, has_colour: bool, title: str) -> Group:
    """Row, topology and counts for a terminal of 100 columns or more.

    Args:
        facts: from ``describe``.
        has_colour: without it masks and edits are marked by brackets instead.
        title: of the row's panel.
    """
    row = Panel(_row(facts, has_colour), title=title, title_align="left", subtitle=_legend(has_colour))
    topology = Panel(_matrix(facts), title="who sees whom", title_align="left", expand=False)
    return Group(row, topology, _table(facts))


def _row(facts: RowFacts, has_colour: bool) -> Text:
    text = Text()
    previous: Cell | None = None
    for cell in facts.cells:
        if cell.role is Role.PADDING:
            break
        if previous is None or cell.document != previous.document:
            text.append("" if previous is None else "\n")
            text.append(f"── document {cell.document}: {facts.views[cell.document]} ", "dim cyan")
            text.append("─" * 20 + "\n", "dim cyan")
        elif cell.block != previous.block and not _is_causal(facts):
            text.append("│", "dim yellow")
        is_repeat = previous is not None and _is_filler(cell) and _is_filler(previous) and cell.label == previous.label
        text.append_text(Text("·", "dim") if is_repeat else _cell(cell, has_colour))
        previous = cell
    padding = sum(cell.role is Role.PADDING for cell in facts.cells)
    if padding:
        text.append(f"\n── {padding} positions of padding", "dim cyan")
    return text


def _is_filler(cell: Cell) -> bool:
    """A mask of which a run says no more than one: each later one is drawn as a dot."""
    return cell.role is Role.MASK and cell.label in ("<delete>", "<eos>")


def _is_causal(facts: RowFacts) -> bool:
    return facts.counts["blocks"] > len(facts.cells) // 2


def _cell(cell: Cell, has_colour: bool) -> Text:
    match cell.role:
        case Role.MASK:
            label = _visible(cell.label or "<mask>")
            return Text(label, f"white {shade(cell.weight)}") if has_colour else Text(f"⟦{label}⟧")
        case Role.EDIT:
            wrong, right = _visible(cell.text), _visible(cell.label or "")
            if not has_colour:
                return Text(f"⟦{wrong}→{right}⟧")
            return Text.assemble((wrong, "strike bold red"), (right, "bold green"))
        case Role.KEPT:
            return Text(cell.text, "underline green") if has_colour else Text(f"_{_visible(cell.text)}_")
        case Role.SENTINEL:
            return Text(cell.text, "bold cyan")
        case _:
            # A token that is seen and also predicted, from the row before it: the autoregressive twin.
            return Text(cell.text, "" if cell.weight or not has_colour else "dim")


def shade(weight: float) -> str:
    """Background of a mask that weighs so much."""
    return _SHADES[sum(weight > limit for limit in (1.0, 2.0, 4.0, 8.0))]


def _visible(text: str) -> str:
    """A token on one line: a label's line end must not break the picture."""
    return text.replace("\n", "⏎").replace("\t", "⇥").replace(" ", "·") if not text.strip() else text


def _legend(has_colour: bool) -> Text:
    if not has_colour:
        return Text("⟦mask's label⟧  ⟦wrong→right⟧  _kept sample_  │ block")
    names = ("≤1", "≤2", "≤4", "≤8", ">8")
    shades = [(f" {name} ", f"white {style}") for name, style in zip(names, _SHADES, strict=True)]
    return Text.assemble(
        "mask by weight ",
        *shades,
        "  ",
        ("wrong", "strike bold red"),
        ("right", "bold green"),
        "  ",
        ("kept sample", "underline green"),
        "  ",
        ("<sentinel>", "bold cyan"),
        "  ",
        ("│", "dim yellow"),
        " block",
    )


def _matrix(facts: RowFacts) -> Text:
    shown = facts.groups[:_MOST_GROUPS]
    if len(facts.groups) > _MOST_GROUPS and facts.groups[0].startswith("n"):
        # The same groups of both halves, or the clean half would not be seen at all.
        half, each = len(facts.groups) // 2, _MOST_GROUPS // 2
        keep = [*range(each), *range(half, half + each)]
    else:
        keep = list(range(len(shown)))
    signs = {"#": ("██", "green"), "+": ("▒▒", "green"), ".": ("··", "dim")}
    text = Text()
    for query in keep:
        text.append(f"{facts.groups[query]:>14} ", "cyan")
        for key in keep:
            text.append(*signs[facts.topology[query][key]])
        text.append("\n")
    left_out = len(facts.groups) - len(keep)
    text.append("n noisy, c clean, d document, b block, x positions; ██ sees all, ▒▒ a part, ·· nothing", "dim")
    if left_out:
        text.append(f"; {left_out} groups not drawn", "dim")
    return text


def _table(facts: RowFacts) -> Table:
    entries = [
        (name, f"{value:,.3f}" if name.startswith("sum") else f"{value:,.0f}") for name, value in facts.counts.items()
    ]
    entries += [(f"view: {name}", str(number)) for name, number in Counter(facts.views).items()]
    table = Table(box=None, padding=(0, 1), show_header=False)
    for _ in range(_TABLE_COLUMNS):
        table.add_column(style="cyan")
        table.add_column(justify="right")
        table.add_column(width=2)
    num_lines = -(-len(entries) // _TABLE_COLUMNS)
    for line in range(num_lines):
        table.add_row(*(text for entry in entries[line::num_lines] for text in (*entry, "")))
    return table
