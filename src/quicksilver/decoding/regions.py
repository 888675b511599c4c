"""Where a request's constraints lie on its canvas: what stands there, from which state, and how much may follow."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from quicksilver.constraints.automaton import TokenAutomaton
from quicksilver.constraints.lattice import NO_TOKEN, Lattice, lattice_of
from quicksilver.constraints.programme import NO_ROW
from quicksilver.decoding.canvas import State
from quicksilver.diffusion.spec import DiffusionSpec
from quicksilver.errors import EngineError


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Region:
    """Adjacent columns under one constraint, as a step finds them. Tuples have one entry per column."""

    lattice: Lattice
    start: int
    """The automaton's state in front of the first column."""
    token_ids: tuple[int, ...]
    """What stands there; ``NO_TOKEN`` at masks."""
    is_draft: tuple[bool, ...]
    rows: tuple[int, ...]
    """Which of the step's rows decides the column; ``NO_ROW`` where it is not decided now."""
    budget: int
    """Most tokens that may follow before the text ends; 0: it ends with the region."""
    is_last: bool = False
    """No forward follows, so the text had better end here, if it still can."""

    @property
    def is_open(self) -> bool:
        return any(row != NO_ROW for row in self.rows)


def rows_of(regions: Iterable[Region]) -> list[int]:
    """The step's rows that lie in regions, rising."""
    return sorted(row for region in regions for row in region.rows if row != NO_ROW)


class _Columns:
    """Adjacent columns as they stand."""

    def __init__(self, token_ids: Sequence[int], state: Sequence[int], open_columns: Sequence[int]) -> None:
        """Take them: ``open_columns`` are those that the step's rows decide, in the rows' order."""
        row_of = {column: row for row, column in enumerate(open_columns)}
        is_there = [each != State.MASK for each in state]
        self.token_ids = [token if there else NO_TOKEN for token, there in zip(token_ids, is_there, strict=True)]
        self.is_draft = [each == State.DRAFT for each in state]
        self.rows = [row_of.get(column, NO_ROW) for column in range(len(state))]

    def region(self, columns: Sequence[int], lattice: Lattice, start: int, budget: int, *, is_last: bool) -> Region:
        return Region(
            lattice=lattice,
            start=start,
            token_ids=tuple(self.token_ids[column] for column in columns),
            is_draft=tuple(self.is_draft[column] for column in columns),
            rows=tuple(self.rows[column] for column in columns),
            budget=budget,
            is_last=is_last,
        )


class ConstrainedResponse:
    """The constraint of a response that is written from its beginning on."""

    def __init__(self, lattice: Lattice, max_tokens: int) -> None:
        """Begin; raises ConfigError if no text of ``max_tokens`` tokens, eos included, satisfies the constraint."""
        lattice.require_budget(max_tokens)
        self._lattice, self._state, self._left = lattice, lattice.start, max_tokens

    def regions(
        self,
        token_ids: Sequence[int],
        state: Sequence[int],
        open_columns: Sequence[int],
        *,
        end: int | None = None,
        is_last: bool,
    ) -> tuple[Region, ...]:
        """Of the block that follows what was taken.

        Args:
            token_ids: of its columns.
            state: of its columns.
            open_columns: those that are decided, in the order of the step's rows.
            end: column of a token that ends the response, behind which nothing is written.
            is_last: no forward follows.
        """
        columns, length = _Columns(token_ids, state, open_columns), len(token_ids)
        count, budget = min(length, self._left), max(self._left - length, 0)
        if end is not None:
            count, budget = end + 1, 0
        found = [columns.region(range(count), self._lattice, self._state, budget, is_last=is_last)]
        if end is None and count < length:
            # Noise is denoised in whole blocks: behind the last token that may be written the text has ended.
            rest = range(count, length)
            found.append(columns.region(rest, self._lattice, self._lattice.automaton.end, 0, is_last=is_last))
        return tuple(found)

    def take(self, token_ids: Sequence[int]) -> None:
        """The block is final, and the response goes on."""
        state = self._lattice.walk(token_ids, self._state)
        if state is None:
            raise EngineError(f"tokens {tuple(token_ids)} do not satisfy the request's constraint")
        self._state, self._left = state, self._left - len(token_ids)


def constrained_response(
    automaton: TokenAutomaton | None,
    spec: DiffusionSpec,
    *,
    never: Iterable[int],
    ends: Collection[int],
    max_tokens: int,
) -> ConstrainedResponse | None:
    """The constraint of a response; None if there is none.

    Args:
        automaton: the request's.
        spec: of the checkpoint.
        never: tokens that are never written.
        ends: tokens that end the response, eos among them.
        max_tokens: most tokens, eos included.

    Raises:
        ConfigError: the automaton is of another tokenizer, or allows nothing that fits.
    """
    if automaton is None:
        return None
    never, eos = frozenset(never), spec.special.eos
    lattice = lattice_of(automaton, eos_id=eos, never=never, ends=frozenset(ends), has_end=True)
    return ConstrainedResponse(lattice, max_tokens)


def hole_regions(
    lattices: Sequence[Lattice | None],
    hole: Sequence[int],
    token_ids: Sequence[int],
    state: Sequence[int],
    open_columns: Sequence[int],
) -> tuple[Region, ...]:
    """Of holes in place, each of which holds a whole text of its own constraint.

    Args:
        lattices: one per hole; None: any text.
        hole: number of the hole that every column of the canvas is in.
        token_ids: of every column.
        state: of every column.
        open_columns: those that are decided, in the order of the step's rows.
    """
    columns, found = _Columns(token_ids, state, open_columns), []
    for number, lattice in enumerate(lattices):
        if lattice is not None:
            inside = [column for column, each in enumerate(hole) if each == number]
            found.append(columns.region(inside, lattice, lattice.start, 0, is_last=False))
    return tuple(found)
