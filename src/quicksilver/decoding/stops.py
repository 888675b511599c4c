"""Stop rules for holes in place, whose text is not written in order.

A stop that is final ends its hole wherever it stands: what is behind it is dropped at once, which saves forwards and
takes text out of sight that would not remain. The stop itself stays visible until the hole is filled, because the
denoiser has learnt that a line in a hole has its end there; only then it goes too.
"""

from collections.abc import Callable, Sequence

import torch

from quicksilver.decoding.canvas import Canvas, State
from quicksilver.decoding.events import Event, Resize
from quicksilver.decoding.params import StopRule, kept_tokens


def drop_behind_stops(canvas: Canvas, rule: StopRule | None, num_holes: int) -> tuple[Canvas, list[Event]]:
    """Without what stands behind the first stop of each hole that is final."""
    if rule is None:
        return canvas, []

    def kept(token_ids: list[int], is_final: list[bool]) -> int | None:
        start = 0
        while start < len(token_ids):
            end = start
            while end < len(token_ids) and is_final[end]:
                end += 1
            length = _through_stop(rule, token_ids[start:end])
            if length is not None:
                return start + length
            start = end + 1
        return None

    return _cut(canvas, kept, num_holes)


def drop_stops(canvas: Canvas, rule: StopRule | None, num_holes: int) -> tuple[Canvas, list[Event]]:
    """Filled holes without their stops and what stands behind them."""
    return (canvas, []) if rule is None else _cut(canvas, lambda ids, _: kept_tokens(rule, ids), num_holes)


def _through_stop(rule: StopRule, token_ids: Sequence[int]) -> int | None:
    """Length of the shortest beginning that holds a stop."""
    if kept_tokens(rule, token_ids) is None:
        return None
    return next(count for count in range(len(token_ids) + 1) if kept_tokens(rule, token_ids[:count]) is not None)


def _cut(
    canvas: Canvas, kept: Callable[[list[int], list[bool]], int | None], num_holes: int
) -> tuple[Canvas, list[Event]]:
    """The canvas with as many positions of each hole as ``kept`` says of its tokens and which of them are final."""
    stays = torch.ones(len(canvas), dtype=torch.bool)
    events: list[Event] = []
    for hole in range(num_holes):
        index = (canvas.hole == hole).nonzero()[:, 0]
        length = kept(canvas.token_ids[index].tolist(), (canvas.state[index] == State.FINAL).tolist())
        if length is not None and length < len(index):
            stays[index[length:]] = False
            events.append(Resize(hole=hole, start=length, added=length - len(index)))
    return (canvas.take(stays.nonzero()[:, 0]), events) if events else (canvas, [])
