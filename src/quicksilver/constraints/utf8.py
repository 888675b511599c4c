"""Ranges of code points as automata over the bytes of UTF-8."""

from collections.abc import Iterator
from functools import lru_cache

from quicksilver.constraints.expression import Ranges

Fragment = tuple[tuple[tuple[int, int, int], ...], ...]
"""Per state, the first one being the start: first byte, last byte, state behind them or -1 for the end."""

_Bytes = tuple[tuple[int, int], ...]
_LAST_OF_LENGTH = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)


@lru_cache(maxsize=4096)
def fragment_of(ranges: Ranges) -> Fragment:
    """The smallest automaton of one character out of ranges; no states: no character."""
    states: list[tuple[tuple[int, int, int], ...]] = []
    known: dict[frozenset[_Bytes], int] = {}

    def state_of(rests: frozenset[_Bytes]) -> int:
        if rests not in known:
            known[rests] = len(states)
            states.append(())
            by_first: dict[tuple[int, int], set[_Bytes]] = {}
            for first, *rest in rests:
                by_first.setdefault(first, set()).add(tuple(rest))
            states[known[rests]] = tuple(
                (low, high, -1 if () in after else state_of(frozenset(after)))
                for (low, high), after in sorted(by_first.items())
            )
        return known[rests]

    sequences = frozenset(each for low, high in ranges for each in byte_ranges(low, high))
    if sequences:
        state_of(sequences)
    return tuple(states)


def byte_ranges(low: int, high: int) -> Iterator[_Bytes]:
    """Code points of an interval as sequences of byte ranges, no two of which overlap."""
    for last in _LAST_OF_LENGTH:
        if low <= last < high:
            yield from byte_ranges(low, last)
            yield from byte_ranges(last + 1, high)
            return
    if high <= _LAST_OF_LENGTH[0]:
        yield ((low, high),)
        return
    # Below the topmost bits in which both ends differ, the range must be whole.
    for bits in (6, 12, 18):
        mask = (1 << bits) - 1
        if low >> bits != high >> bits:
            if low & mask:
                yield from byte_ranges(low, low | mask)
                yield from byte_ranges((low | mask) + 1, high)
                return
            if high & mask != mask:
                yield from byte_ranges(low, (high & ~mask) - 1)
                yield from byte_ranges(high & ~mask, high)
                return
    yield tuple(zip(chr(low).encode("utf-8"), chr(high).encode("utf-8"), strict=True))
