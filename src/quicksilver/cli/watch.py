"""The live view of a canvas: masks as shades, tokens coloured by confidence, edits flashing.

Without a terminal it is one plain line per forward.
"""

import time
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from quicksilver.api import Cell, Completion, Done, Edit, Snapshot, State, StreamEvent
from quicksilver.errors import InputError

_MASK = "░"
_LEVELS = ((0.9, "green"), (0.6, "yellow"), (0.0, "red"))
"""Colour by the least confidence it stands for."""
_GIVEN_STYLE = "dim"
_FRAME_S = 0.06
"""A frame stays at least this long, or nobody could follow a small model."""
_NUM_FRAME_ROWS = 4
"""Rows that are not text: caption, legend, prompt, and one to spare."""


def cell_style(cell: Cell, *, is_edited: bool = False) -> str:
    """Rich style of a token: colour is confidence, slanted may still change, reversed has just been edited."""
    if cell.state is State.MASK:
        return "bright_black"
    colour = next(colour for least, colour in _LEVELS if cell.confidence >= least)
    draft = " italic" if cell.state is State.DRAFT else ""
    return f"bold {colour}{draft}{' reverse' if is_edited else ''}"


def legend() -> Text:
    """What the colours mean."""
    return Text.assemble(
        (f"{_MASK} undecided", "bright_black"),
        ("  < 60 %", "red"),
        ("  60 to 90 %", "yellow"),
        ("  ≥ 90 % sure", "green"),
    )


def render(
    texts: Sequence[str],
    holes: Sequence[Sequence[Cell]],
    edited: frozenset[tuple[int, int]] = frozenset(),
    num_rows: int | None = None,
) -> Text:
    """Texts with the holes between them.

    Args:
        texts: what stands around the holes, one more than ``holes``.
        holes: the positions of each hole.
        edited: (hole, position) of tokens that have just been edited.
        num_rows: most lines to show, those nearest the holes; None shows all.
    """
    whole = Text(texts[0], style=_GIVEN_STYLE, tab_size=4)
    hole_rows: set[int] = set()
    for number, (cells, after) in enumerate(zip(holes, texts[1:], strict=True)):
        first = whole.plain.count("\n")
        for at, cell in enumerate(cells):
            whole.append(cell.text or _MASK, style=f"not dim {cell_style(cell, is_edited=(number, at) in edited)}")
        hole_rows.update(range(first, whole.plain.count("\n") + 1))
        whole.append(after)
    if num_rows is None:
        return whole
    return _nearest_rows(list(whole.split("\n", allow_blank=True)), hole_rows, num_rows)


def _nearest_rows(rows: list[Text], hole_rows: set[int], num_rows: int) -> Text:
    distance = [min(abs(row - hole_row) for hole_row in hole_rows) for row in range(len(rows))]
    order = sorted(range(len(rows)), key=lambda row: (distance[row], row))
    shown = sorted(order[:num_rows])
    return Text("\n").join([rows[row] for row in shown])


class HoleView:
    """Draws a stream of events while it runs."""

    def __init__(self, console: Console, texts: Sequence[str], *, is_kept: bool) -> None:
        """Draw on ``console``; ``is_kept`` leaves the last frame standing."""
        self._console, self._texts = console, texts
        self._live = Live(console=console, auto_refresh=False, transient=not is_kept, vertical_overflow="crop")
        self._edited: set[tuple[int, int]] = set()
        self._drawn_at = 0.0

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def follow(self, events: Iterable[StreamEvent]) -> Completion:
        """Draw every snapshot; returns the completion."""
        for event in events:
            if isinstance(event, Edit):
                self._edited |= {(event.hole, at) for at in range(event.start, event.stop)}
            elif isinstance(event, Snapshot):
                self._draw(event)
                self._edited = set()
            elif isinstance(event, Done):
                return event.completion
        raise InputError("the stream ended without a result")

    def _draw(self, snapshot: Snapshot) -> None:
        cells = [cell for hole in snapshot.holes for cell in hole]
        num_masks = sum(cell.state is State.MASK for cell in cells)
        caption = f"forward {snapshot.nfe}: {len(cells) - num_masks} tokens written, {num_masks} masks left"
        if not self._console.is_terminal:
            edits = f", {len(self._edited)} edited" if self._edited else ""
            self._console.print(caption + edits, highlight=False, soft_wrap=True)
            return
        num_rows = max(self._console.size.height - _NUM_FRAME_ROWS, 1)
        body = render(self._texts, snapshot.holes, frozenset(self._edited), num_rows)
        body.no_wrap, body.overflow = True, "ellipsis"
        time.sleep(max(self._drawn_at + _FRAME_S - time.monotonic(), 0.0))
        self._live.update(Text("\n").join([body, Text(caption, style="cyan"), legend()]), refresh=True)
        self._drawn_at = time.monotonic()
