"""How long a block may be while many requests run.

Below a machine's ridge the rows of a longer block are nearly free; once the windows of all running requests fill a
forward, every row that is not committed delays somebody. So blocks get shorter as load rises: then all windows still
fit one forward. A request whose seed its caller chose is never touched.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(kw_only=True, slots=True)
class Load:
    """How busy an engine is. The engine keeps the figures up to date; requests read them."""

    row_budget: int
    """Rows of one forward."""
    num_running: int = 0


def block_length_under_load(
    trained_lengths: Sequence[int], wanted: int, num_running: int, budget: int, *, offset: int = 0
) -> int:
    """The longest block of which every running request can have one in a forward, ``wanted`` at most.

    Args:
        trained_lengths: what the checkpoint knows beside ``wanted``; only divisors of ``wanted`` are taken.
        wanted: the block length without load.
        num_running: requests that share a forward.
        budget: rows of one forward.
        offset: where the block opens, counted from the end of the prompt. Every block lies on the grid of its own
            length, so none reaches beyond the block of the wanted length that it is part of: a request never needs
            more positions than without load.
    """
    fitting = [length for length in {*trained_lengths, wanted} if wanted % length == 0 and offset % length == 0]
    share = budget // max(num_running, 1)
    return max((length for length in fitting if length <= share), default=min(fitting))
